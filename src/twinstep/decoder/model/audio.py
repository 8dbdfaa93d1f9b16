"""Sound as the tower reads it: 16,000 samples a second to log-mel frames, 100 a second.

    frame i = samples 160 i .. 160 i + 400     25 ms every 10 ms, Hann window
            -> power of 257 frequencies -> mel bins (triangles, HTK's scale, 0 .. 8 kHz)
            -> log

The report says features of USM, a speech model that is not public, at 16 kHz. Log-mel
filterbanks of this window and hop are what such models themselves read (Whisper, USM's
own front end); 40 bins, which tell digits apart as 80 do, are our own choice.

NumPy only: the data's workers use it, and they have no jax.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from twinstep.errors import UsageError

RATE = 16_000
"""Samples a second."""
LENGTH, HOP, FOURIER = 400, 160, 512
FLOOR = 1e-9
"""Power of a bin below which nothing is told apart: 90 dB below full scale."""


def log_mel(samples: np.ndarray, mel: int = 40) -> np.ndarray:
    """Returns float16[frames, mel] of float[n] samples in -1 .. 1 at 16 kHz: one frame
    for each 160 samples that begin. Silence is log(FLOOR) = -20.7; full scale about 0.

    Raises: UsageError for samples that are no floats, or not one line."""
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UsageError(
            f"samples of shape {samples.shape} and type {samples.dtype}; one channel "
            "of floats in -1 .. 1 is needed: average channels, divide int16 by 32768"
        )
    count = -(-len(samples) // HOP)
    if count == 0:
        return np.zeros((0, mel), np.float16)
    padded = np.zeros((count - 1) * HOP + LENGTH, np.float32)
    padded[: len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, LENGTH)[::HOP]
    window = np.hanning(LENGTH + 1)[:-1].astype(np.float32)
    # A sine of full scale has power 1 in its frequency.
    spectrum = np.fft.rfft(frames * window, FOURIER) * (2.0 / window.sum())
    power = np.square(np.abs(spectrum)) @ filters(mel)
    return np.log(np.maximum(power, FLOOR)).astype(np.float16)


@functools.cache
def filters(mel: int) -> np.ndarray:
    """Returns float32[257, mel]: each bin's triangle over the frequencies."""
    top = _to_mel(RATE / 2)
    edges = 700.0 * (np.exp(np.linspace(0.0, top, mel + 2) / 1127.0) - 1.0)
    frequency = np.linspace(0.0, RATE / 2, FOURIER // 2 + 1)[:, None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequency - low) / (middle - low)
    falling = (high - frequency) / (high - middle)
    # Narrow low bins would fall between two frequencies and hear nothing.
    made = np.maximum(0.0, np.minimum(rising, falling))
    nearest = np.abs(frequency - middle).argmin(0)
    made[nearest, np.arange(mel)] = np.maximum(made[nearest, np.arange(mel)], 1e-3)
    return made.astype(np.float32)


def _to_mel(hertz: float) -> float:
    return 1127.0 * math.log1p(hertz / 700.0)


def resample(samples: np.ndarray, rate: int, target: int = RATE) -> np.ndarray:
    """Returns float32 samples at `target` a second of those at `rate` a second, the
    same seconds long. What is above half the lower rate is removed; what is below is
    kept exactly (a Fourier transform of the whole sound).

    Raises: UsageError for rates that are not positive."""
    if rate < 1 or target < 1:
        raise UsageError(f"cannot resample from {rate} to {target} samples a second")
    if rate == target or len(samples) == 0:
        return samples.astype(np.float32)
    divisor = math.gcd(rate, target)
    up, down = target // divisor, rate // divisor
    wanted = -(-len(samples) * up // down)
    # Silence behind: the transform takes the sound for a ring. 20 ms and whole periods.
    periods = -(-(len(samples) + rate // 50) // down)
    padded = np.zeros(periods * down, np.float64)
    padded[: len(samples)] = samples
    spectrum = np.fft.rfft(padded)
    size = periods * up
    kept = np.zeros(size // 2 + 1, complex)
    shared = min(len(spectrum), len(kept))
    kept[:shared] = spectrum[:shared]
    return (np.fft.irfft(kept, size) * (up / down))[:wanted].astype(np.float32)
