"""What examples are made from: origins with their licences, and the pools of one make.

Everything is read or made on the machine where the model is trained, and none of it is
shipped: an origin names what is read, its edition there, and its licence.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass, field

from twinstep.decoder.data.digits import WORDS
from twinstep.decoder.data.example import Split
from twinstep.decoder.data.speech import Espeak, Speaker, Utterance, utterances

READINGS = 3
"""Times that each voice reads the ten digits, each in another accent or speed."""


@dataclass(frozen=True, slots=True)
class Pools:
    """What several tasks of one make share. `amount` is the share of the full counts
    (1.0) that is made; speech is made once for each side and kept."""

    seed: int
    amount: float = 1.0
    speaker: Speaker = field(default_factory=Espeak)
    spoken: dict[Split, tuple[Utterance, ...]] = field(default_factory=dict)

    def speech(self, split: Split) -> tuple[Utterance, ...]:
        """Returns the ten digits in every voice of that side."""
        if split not in self.spoken:
            self.spoken[split] = utterances(
                self.speaker, WORDS, split, readings=READINGS, share=self.amount
            )
        return self.spoken[split]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """`edition` says which of several versions is on this machine: when it is another,
    what was made from it is made again."""

    name: str
    licence: str
    edition: Callable[[Pools], str] = field(default=lambda _: "1")


def installed(package: str) -> Callable[[Pools], str]:
    return lambda _: f"{package} {importlib.metadata.version(package)}"


HANDWRITING = Origin(
    name="scikit-learn load_digits (UCI, Optical Recognition of Handwritten Digits)",
    licence="CC BY 4.0 (data); BSD-3-Clause (scikit-learn, which ships it)",
    edition=installed("scikit-learn"),
)
SPEECH = Origin(
    name="espeak-ng speech, made on this machine",
    licence="output of a GPL-3.0 program; the sound is not shipped",
    edition=lambda pools: pools.speaker.edition,
)
RULES = Origin(
    name="rules of this package",
    licence="Apache-2.0",
)
STANDARD_LIBRARY = Origin(
    name="Python's standard library as installed here",
    licence="PSF-2.0",
    edition=lambda _: f"Python {platform.python_version()}",
)
