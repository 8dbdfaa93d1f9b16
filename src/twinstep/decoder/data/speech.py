"""Spoken words, made on this machine: espeak-ng in a hundred voices, cut into clips.

One process of espeak-ng reads all ten words with a long pause between, and the reading
is cut at the pauses: a process for each word would cost ten times as much. A voice
whose reading does not fall into ten pieces (two have an echo) is left out.

`Speaker` is the interface; Tones, which needs no program, has the same shape and says
nothing that a person would understand: it is for tests and for machines without espeak.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np

from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Split
from twinstep.errors import UsageError

RATE = 16_000
ESPEAK_RATE = 22_050
PAUSE_S = 0.6
GAP_S = 0.25
"""A silence longer than this divides words. Inside of words the longest that was
measured, before the t of eight, is 0.12 s."""
EDGE_S = 0.02
QUIET = 0.01
"""Of the loudest sample: below is silence."""
ACCENTS = ("en-us", "en-gb", "en-gb-scotland")
READING_SECONDS_MAX = 60
FAMILY_MAX = 3
"""Voices of one family that are used: eight robosofts would be a third of a side."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One word: int16[samples] at 16,000 a second, as loud as it can be."""

    voice: str
    word: int
    samples: np.ndarray

    @property
    def entity(self) -> str:
        return f"voice {family(self.voice)}"


class Speaker(Protocol):
    """Reads words aloud. The same words, voice and reading give the same samples."""

    @property
    def edition(self) -> str:
        """The program and its version: what the samples depend on."""
        ...

    def voices(self) -> Sequence[str]: ...

    def read(
        self, words: Sequence[str], *, voice: str, reading: int
    ) -> list[np.ndarray] | None:
        """Returns each word's int16 samples, or None if this voice cannot be cut.
        `reading` chooses accent, speed and pitch."""
        ...


def family(voice: str) -> str:
    """klatt4 and klatt are one family: a model that heard one has nearly heard the
    other. The numbered male and female voices m1..m8, f1..f5 are people apart."""
    return voice if re.fullmatch(r"[mf]\d", voice) else voice.rstrip("0123456789")


def distinct(voices: Sequence[str]) -> list[str]:
    """Returns the voices, with the first FAMILY_MAX of each family."""
    return [
        voice
        for place, voice in enumerate(voices)
        if [family(other) for other in voices[:place]].count(family(voice)) < FAMILY_MAX
    ]


def _side(voice: str) -> Split:
    return side(f"voice {family(voice)}")


def utterances(
    speaker: Speaker, words: Sequence[str], split: Split, *, readings: int, share: float
) -> tuple[Utterance, ...]:
    """Returns the words in all voices of that side (or in a share of them, at least
    one), `readings` times each."""
    voices = [v for v in distinct(speaker.voices()) if _side(v) == split]
    voices = voices[: max(1, round(share * len(voices)))]
    return tuple(
        Utterance(voice, word, samples)
        for voice in voices
        for reading in range(readings)
        for word, samples in enumerate(
            speaker.read(words, voice=voice, reading=reading) or ()
        )
    )


@dataclass(frozen=True, slots=True)
class Espeak:
    """The program espeak-ng, found on PATH. Raises: UsageError where it is missing."""

    @property
    def edition(self) -> str:
        said = _run("--version")
        found = re.search(rb"eSpeak NG text-to-speech: (\S+)", said)
        return f"espeak-ng {found[1].decode() if found else 'unknown'}"

    def voices(self) -> Sequence[str]:
        return espeak_voices()

    def read(
        self, words: Sequence[str], *, voice: str, reading: int
    ) -> list[np.ndarray] | None:
        draw = hashlib.sha256(f"{voice} {reading}".encode()).digest()
        accent = ACCENTS[draw[0] % len(ACCENTS)]
        speed, pitch = 120 + draw[1] % 80, 35 + draw[2] % 30
        pause = f'<break time="{round(PAUSE_S * 1000)}ms"/>'
        text = f"<speak>{pause.join(f'<s>{word}</s>' for word in words)}</speak>"
        wave = _run(
            "-m", "-v", f"{accent}+{voice}", "-s", str(speed), "-p", str(pitch),
            "--stdout", text,
        )  # fmt: skip
        pieces = cut(_resampled(samples_of(wave)))
        if len(pieces) != len(words):
            return None
        return [_even(piece) for piece in pieces]


@cache
def espeak_voices() -> tuple[str, ...]:
    """The variants that this espeak-ng has, sorted."""
    listing = _run("--voices=variant").decode(errors="replace")
    return tuple(sorted(set(re.findall(r" !v/(.+?) *(?:\(.*)?$", listing, re.M))))


def missing() -> str | None:
    """Why espeak-ng cannot be used here, or None if it can."""
    if shutil.which("espeak-ng"):
        return None
    return "the program espeak-ng is not on PATH; install it: apt install espeak-ng"


def _run(*arguments: str) -> bytes:
    if reason := missing():
        raise UsageError(reason)
    done = subprocess.run(
        ("espeak-ng", *arguments), capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        raise UsageError(
            f"espeak-ng {' '.join(arguments)[:120]} ended with {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()[:300]}"
        )
    return done.stdout


def samples_of(wave: bytes) -> np.ndarray:
    """Returns int16 samples of what espeak-ng writes: a header of 44 bytes whose
    lengths it cannot know yet, then samples until the end.

    Raises: UsageError if it is anything else, or longer than a minute."""
    expected = (wave[:4], wave[8:16], wave[22:28])
    kind = (b"RIFF", b"WAVEfmt ", b"\1\0" + ESPEAK_RATE.to_bytes(4, "little"))
    size = (len(wave) - 44) // 2
    if expected != kind or not 0 < size <= READING_SECONDS_MAX * ESPEAK_RATE:
        raise UsageError(
            f"espeak-ng gave {len(wave)} bytes that are not a minute or less of mono "
            f"sound at {ESPEAK_RATE} Hz; version 1.51 does"
        )
    return np.frombuffer(wave, "<i2", count=size, offset=44)


def cut(samples: np.ndarray) -> list[np.ndarray]:
    """Returns the pieces of float[samples] at RATE that lie between long silences, with
    EDGE_S left around."""
    loud = np.abs(samples)
    on = np.flatnonzero(loud > QUIET * max(1.0, loud.max(initial=0)))
    if not len(on):
        return []
    gaps = np.flatnonzero(np.diff(on) > GAP_S * RATE)
    firsts = np.concatenate([on[:1], on[gaps + 1]])
    lasts = np.concatenate([on[gaps], on[-1:]])
    edge = round(EDGE_S * RATE)
    return [
        samples[max(0, first - edge) : last + edge]
        for first, last in zip(firsts, lasts, strict=True)
    ]


def _resampled(samples: np.ndarray) -> np.ndarray:
    from scipy.signal import resample_poly

    return resample_poly(samples.astype(np.float64), RATE // 50, ESPEAK_RATE // 50)


def _even(samples: np.ndarray) -> np.ndarray:
    peak = np.abs(samples).max(initial=1e-9)
    return np.round(samples * (0.9 * 32767 / peak)).astype(np.int16)


@dataclass(frozen=True, slots=True)
class Tones:
    """Two sines for each word and a pitch for each voice: learnable, and quick."""

    count: int = 12

    @property
    def edition(self) -> str:
        return f"tones {self.count}"

    def voices(self) -> Sequence[str]:
        return tuple(f"tone{chr(97 + number)}" for number in range(self.count))

    def read(
        self, words: Sequence[str], *, voice: str, reading: int
    ) -> list[np.ndarray] | None:
        pitch = 1 + 0.02 * (ord(voice[-1]) - 97) + 0.005 * reading
        time_s = np.arange(round(0.2 * RATE)) / RATE
        return [
            _even(
                np.sin(2 * np.pi * 400 * (1 + word % 4) * pitch * time_s)
                + np.sin(2 * np.pi * 300 * (1 + word // 4) * pitch * time_s)
            )
            for word in range(len(words))
        ]
