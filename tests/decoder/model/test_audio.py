"""Log-mel frames: where a tone is, how loud, and when."""

import numpy as np
import pytest

from twinstep.decoder.model.audio import FLOOR, filters, log_mel, resample
from twinstep.errors import UsageError


def tone(hertz: float, seconds: float, rate: int = 16_000) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_a_hundred_frames_a_second() -> None:
    for count, frames in ((0, 0), (1, 1), (160, 1), (161, 2), (16_000, 100)):
        found = log_mel(np.zeros(count, np.float32))
        assert found.shape == (frames, 40) and found.dtype == np.float16
        assert np.allclose(found, np.log(FLOOR), atol=0.01)


def test_a_tone_is_in_its_bin_and_as_loud_as_it_is() -> None:
    peaks = []
    for hertz in (200, 700, 2000, 5000):
        frames = log_mel(tone(hertz, 0.5))[5:40].astype(np.float32)
        peaks.append(int(frames.mean(0).argmax()))
        assert (frames.argmax(1) == peaks[-1]).all()
        top = filters(40)[:, peaks[-1]].argmax() * 16_000 / 512
        assert abs(top - hertz) < 0.15 * hertz
        assert -1.5 < frames.max() < 1.5
        quiet = log_mel(0.1 * tone(hertz, 0.5))[5:40].astype(np.float32)
        lower = frames[:, peaks[-1]] - quiet[:, peaks[-1]]
        assert np.allclose(lower, np.log(100), atol=0.02)
    assert peaks == sorted(set(peaks))


def test_every_bin_hears_something() -> None:
    for mel in (20, 40, 80):
        assert (filters(mel).sum(0) > 0).all() and filters(mel).shape == (257, mel)


def test_a_click_is_in_the_frames_that_hold_it() -> None:
    samples = np.zeros(16_000, np.float32)
    samples[8_000] = 1.0
    heard = (log_mel(samples) > np.log(FLOOR) + 1).any(1)
    assert heard.any() and set(np.flatnonzero(heard)) <= {48, 49, 50}


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 16_000])
def test_resampling_keeps_a_tone(rate: int) -> None:
    found = resample(tone(1_000, 0.4, rate), rate)
    assert found.dtype == np.float32 and len(found) == 6_400
    inner = slice(800, -800)
    np.testing.assert_allclose(found[inner], tone(1_000, 0.4)[inner], atol=0.01)


def test_resampling_removes_what_16_khz_cannot_hold() -> None:
    found = resample(tone(11_000, 0.4, 44_100), 44_100)
    assert np.abs(found[800:-800]).max() < 0.02


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(160, np.int16), "type int16.*divide int16 by 32768"),
        (np.zeros((160, 2), np.float32), r"shape \(160, 2\).*average channels"),
    ],
)
def test_other_samples_are_refused(samples: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        log_mel(samples)
    with pytest.raises(UsageError, match="from 0 to 16000"):
        resample(samples, 0)
