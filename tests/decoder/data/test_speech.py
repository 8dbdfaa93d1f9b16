"""Speech is cut into its words, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from twinstep.decoder.data.digits import WORDS
from twinstep.decoder.data.speech import (
    FAMILY_MAX,
    RATE,
    Espeak,
    Tones,
    cut,
    distinct,
    espeak_voices,
    family,
    missing,
    samples_of,
    utterances,
)
from twinstep.errors import UsageError

needs_espeak = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@needs_espeak
def test_a_reading_falls_into_its_words_and_is_the_same_each_time() -> None:
    first, again = (Espeak().read(WORDS, voice="f2", reading=1) for _ in range(2))
    assert first is not None and again is not None
    assert len(first) == 10
    for word, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(word, other)
        assert word.dtype == np.int16
        assert 0.15 * RATE < len(word) < 1.5 * RATE
        assert 29000 < np.abs(word).max() < 30000


@needs_espeak
def test_readings_differ() -> None:
    one, other = (Espeak().read(WORDS, voice="f2", reading=n) for n in (0, 1))
    assert one is not None and other is not None
    assert [len(word) for word in one] != [len(word) for word in other]


@needs_espeak
def test_there_are_many_voices() -> None:
    voices = espeak_voices()
    assert len(voices) >= 50 and "f2" in voices
    assert Espeak().edition.startswith("espeak-ng 1.")


def test_without_the_program_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="apt install espeak-ng"):
        Espeak().read(WORDS, voice="f1", reading=0)


def test_pieces_lie_between_long_silences() -> None:
    def tone(seconds: float) -> np.ndarray:
        return 1000 * np.sin(np.arange(round(seconds * RATE)))

    def silence(seconds: float) -> np.ndarray:
        return np.zeros(round(seconds * RATE))

    sound = [silence(0.3), tone(0.2), silence(0.1), tone(0.2), silence(0.4), tone(0.1)]
    pieces = cut(np.concatenate(sound))
    assert [round(len(piece) / RATE, 1) for piece in pieces] == [0.5, 0.1]
    assert cut(silence(0.5)) == []


@pytest.mark.parametrize(
    "wave", [b"", bytes(1000), b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(60)]
)
def test_other_bytes_are_no_speech(wave: bytes) -> None:
    with pytest.raises(UsageError, match="not a minute or less of mono"):
        samples_of(wave)


def test_voices_of_one_family_are_on_one_side() -> None:
    assert family("klatt4") == family("klatt") == "klatt"
    assert family("m3") != family("m4")
    voices = [f"robosoft{n}" for n in range(1, 9)] + ["m1", "m2"]
    assert distinct(voices) == [*voices[:FAMILY_MAX], "m1", "m2"]


def test_both_sides_have_voices_of_their_own() -> None:
    train, held_out = (
        utterances(Tones(), WORDS, split, readings=1, share=1.0)
        for split in ("train", "held_out")
    )
    voices = [{u.voice for u in side} for side in (train, held_out)]
    assert voices[0] and voices[1] and not voices[0] & voices[1]
    least = utterances(Tones(), WORDS, "train", readings=2, share=0.001)
    assert len(least) == 20, "one voice, twice"
