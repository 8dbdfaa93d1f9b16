"""Two pieces of work timed in turn, so that whatever else runs meets both alike."""

from __future__ import annotations

import ctypes
import mmap
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

memcpy = ctypes.CDLL(None).memcpy
memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
memcpy.restype = ctypes.c_void_p


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternated(
    work: Callable[[], Any], yardstick: Callable[[], Any], *, pairs: int, size: int
) -> dict[str, float]:
    """Returns GB/s of both, and the median of the pairs' ratios."""
    work(), yardstick()
    timed: list[tuple[float, float]] = []
    for index in range(pairs):
        if index % 2:
            second, first = seconds(yardstick), seconds(work)
        else:
            first, second = seconds(work), seconds(yardstick)
        timed.append((first, second))
    ratios = sorted(second / first for first, second in timed)
    return {
        "gb_per_s": size / statistics.median(first for first, _ in timed) / 1e9,
        "memcpy_gb_per_s": size / statistics.median(s for _, s in timed) / 1e9,
        "ratio": statistics.median(ratios),
        "ratio_low": ratios[len(ratios) // 4],
        "ratio_high": ratios[3 * len(ratios) // 4],
    }


def touched_slot(size: int) -> memoryview:
    """Returns slot memory as an agent reserves it: a memfd with all pages there."""
    descriptor = os.memfd_create("benchmark")
    os.ftruncate(descriptor, size)
    view = memoryview(mmap.mmap(descriptor, size))
    os.close(descriptor)
    for start in range(0, size, 1 << 20):
        length = min(1 << 20, size - start)
        view[start : start + length] = bytes(length)
    return view
