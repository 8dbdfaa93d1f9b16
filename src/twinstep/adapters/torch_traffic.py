"""Tells a pulse when torch's collectives start and end, whoever asks for them.

Python calls, DDP's reducer in C++, FSDP2's streams and functional collectives all go
through the dispatcher's operators of c10d. One kernel for each of them, in front of
every backend's own (BackendSelect, a key that all tensors have and nobody uses here),
sees them all, in groups made earlier or later, and calls the backend's with the same
arguments: the bits are the same. Nothing of the user's script is changed.

    DDP, FSDP2, torch.distributed ─► c10d op ─► kernel here ─► gloo, NCCL
                                                starts │ ends when the work does

When a work ends is found out in one of three ways:

- its future, where the backend has one for tensors in host memory (gloo: nearly all),
  or its wait() in Python, if that returns before the future's word has come;
- its wait() alone where there is no future (gloo: reduce-scatter, which is done by the
  one who waits, send and receive);
- CUDA events, which a thread looks at, as a future on CUDA is complete when the kernel
  is queued. An operation starts when all that its stream had to do before is done.

The third was written where no GPU was at hand, and never ran. It does not see the end
of coalesced NCCL operations, nor operations in a CUDA graph.

Barriers carry nothing and are left out. Meta tensors, by which a compiler traces, go
by unseen. Whatever goes wrong here ends the feed with one warning, never training.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.library import Library

from twinstep import clock
from twinstep.capture.snapshot import Told

OPERATIONS = (
    "_allgather_base_",
    "_reduce_scatter_base_",
    "allgather_",
    "allgather_coalesced_",
    "allgather_into_tensor_coalesced_",
    "allreduce_",
    "allreduce_coalesced_",
    "alltoall_",
    "alltoall_base_",
    "broadcast_",
    "gather_",
    "recv_",
    "recv_any_source_",
    "reduce_",
    "reduce_scatter_",
    "reduce_scatter_tensor_coalesced_",
    "scatter_",
    "send",
)
UNWAITED_MAX = 8
"""Works without a future whose wait() is awaited. They hold their buffers meanwhile:
one more, and the oldest, which perhaps nobody waits for in Python, is let go."""
QUEUED_MAX = 4096
"""CUDA operations that have not ended. NCCL itself queues 1024 a stream at most."""
LOOK_S = 0.0005
"""Between two looks at CUDA events, only while some are waited for: a tenth of the
shortest span that is worth using."""
JOIN_S_MAX = 1.0

_torch = cast("Any", torch)
_work = cast("Any", dist.Work)
_KEYS = _torch._C.DispatchKey


class Traffic:
    """The kernels in front of c10d's, from here to close(). One at a time."""

    def __init__(self, pulse: Told, complain: Callable[[str], None]) -> None:
        self._pulse, self._complain = pulse, complain
        self._on = True
        # Works by id() with their tokens. While a work is kept here, pybind gives
        # everybody the same object for it.
        self._works: dict[int, tuple[Any, int]] = {}
        self._unwaited: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        self._queue: Queue | None = None
        self._library = cast("Any", Library("c10d", "IMPL"))
        self._known: Callable[..., Any] = _work.wait
        self._wait = self._waiting(self._known)
        try:
            self._attach()
            pulse.feeds(True, clock.monotonic_ns())
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Collectives go straight to their backends again. Safe to repeat."""
        if self._on:
            self._on = False
            self._pulse.feeds(False, clock.monotonic_ns())
        if self._queue is not None:
            self._queue.close()
        self._works.clear()
        self._unwaited.clear()
        if _work.wait is self._wait:  # else somebody put another before ours
            _work.wait = self._known
        self._library._destroy()

    def _attach(self) -> None:
        for name in OPERATIONS:
            operator = getattr(torch.ops.c10d, name, None)
            if operator is not None:  # another version of torch
                kernel = self._kernel(operator.default)
                self._library.impl(name, kernel, "BackendSelect", with_keyset=True)
        _work.wait = self._wait

    def _waiting(self, known: Callable[..., Any]) -> Callable[..., Any]:
        def wait(work: Any, *arguments: Any, **named: Any) -> Any:
            try:
                return known(work, *arguments, **named)
            finally:
                self._waited(work)

        return wait

    def _kernel(self, operator: Any) -> Callable[..., Any]:
        backends = _torch._C._dispatch_keyset_full_after(_KEYS.BackendSelect)
        redispatch = operator.redispatch

        def kernel(keys: Any, *arguments: Any, **named: Any) -> Any:
            if not self._on or keys.has(_KEYS.Meta):
                return redispatch(keys & backends, *arguments, **named)
            began = self._starts(keys)
            try:
                result = redispatch(keys & backends, *arguments, **named)
            except BaseException:
                if isinstance(began, int):
                    self._pulse.ends(began, clock.monotonic_ns())
                raise
            self._started(began, result)
            return result

        return kernel

    def _starts(self, keys: Any) -> Any:
        """Returns the operation's token; on a CUDA device an event; or None."""
        try:
            if not keys.has(_KEYS.CUDA):
                return self._pulse.starts(clock.monotonic_ns())
            return _event()
        except Exception as error:
            return self._give_up(error)

    def _started(self, began: Any, result: Any) -> None:
        """The backend has the operation: its end will be told."""
        try:
            if began is None:
                return
            work = _work_of(result)
            if not isinstance(began, int):
                if self._queue is None:
                    self._queue = Queue(self._pulse, self._give_up)
                    self._queue.start()
                over = _event().query if work is None else work.is_completed
                self._queue.add(Queued(began=began.query, over=over))
            elif work is None:
                self._pulse.ends(began, clock.monotonic_ns())
            else:
                self._await(work, began)
        except Exception as error:
            self._give_up(error)

    def _await(self, work: Any, token: int) -> None:
        key = id(work)
        try:
            future = work.get_future()
        except RuntimeError:  # this work has none
            self._unwaited[key] = (work, token)
            if len(self._unwaited) > UNWAITED_MAX:
                _, (_, oldest) = self._unwaited.popitem(last=False)
                self._pulse.ends(oldest, clock.monotonic_ns())
            return

        def done(_: Any) -> None:
            self._pulse.ends(token, clock.monotonic_ns())
            if self._works.get(key, (None, 0))[1] == token:
                self._works.pop(key, None)

        self._works[key] = (work, token)
        future.add_done_callback(done)

    def _waited(self, work: Any) -> None:
        for works in (self._works, self._unwaited):
            if works and id(work) in works:
                _, token = works.pop(id(work), (None, 0))
                self._pulse.ends(token, clock.monotonic_ns())

    def _give_up(self, error: Exception) -> None:
        """Nothing is told any more; kernels stay, and only pass on."""
        if self._on:
            self._on = False
            self._pulse.feeds(False, clock.monotonic_ns())
            self._complain(
                "training's traffic cannot be seen, so copies are not kept out of its "
                f"way: {type(error).__name__}: {error}"
            )


def _work_of(result: Any) -> Any:
    """Returns the work that an operator gave back, last where there is more; None
    where the backend did it in the current stream."""
    if isinstance(result, tuple):
        result = cast("tuple[Any, ...]", result)[-1]
    return None if result is None else _work.unbox(result)


def _event() -> Any:
    """Returns a CUDA event behind all that the current stream has to do; None while
    a graph is captured, where an event that is asked would end the capture."""
    if torch.cuda.is_current_stream_capturing():
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream())
    return event


@dataclass(slots=True, kw_only=True, eq=False)
class Queued:
    """An operation on a CUDA device; both are asked, and do not wait."""

    began: Callable[[], bool]
    over: Callable[[], bool]
    token: int = 0


class Queue:
    """Asks operations on a device whether they have begun and ended, in a thread that
    runs while there are any."""

    def __init__(self, pulse: Told, give_up: Callable[[Exception], None]) -> None:
        self._pulse, self._give_up = pulse, give_up
        self._queued: deque[Queued] = deque()
        self._bell = threading.Event()
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name="twinstep-traffic", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def add(self, queued: Queued) -> None:
        """Raises: OverflowError when QUEUED_MAX have not ended."""
        if len(self._queued) >= QUEUED_MAX:
            raise OverflowError(
                f"{QUEUED_MAX} operations on the device have not ended; no more than "
                "that are watched"
            )
        self._queued.append(queued)
        self._bell.set()

    def close(self) -> None:
        self._closed = True
        self._bell.set()
        self.join()

    def join(self) -> None:
        """The thread has ended; a driver that never answers holds it, but not us."""
        self._thread.join(timeout=JOIN_S_MAX)

    def _run(self) -> None:
        try:
            while not self._closed:
                self._bell.clear()
                if not self.look():
                    self._bell.wait()
                time.sleep(LOOK_S)
        except Exception as error:
            self._give_up(error)

    def look(self) -> int:
        """What has begun or ended since the last look is told; returns how many have
        not ended."""
        now_ns = clock.monotonic_ns()
        for queued in list(self._queued):
            if not queued.token and queued.began():
                queued.token = self._pulse.starts(now_ns)
            if queued.token and queued.over():
                self._pulse.ends(queued.token, now_ns)
                self._queued.remove(queued)
        return len(self._queued)
