"""Examples whose answer is in the medium's brightness, and a sampler that reads it.

The sampler answers what it sees and nothing else, so with blank media it can only say
what blank media say; it likes the right answer with 1 nat and any other with 9.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from twinstep.decoder.data.example import Clip, Example, Picture, Sound
from twinstep.decoder.data.tokenizer import Tokenizer
from twinstep.decoder.model.sample import Scored
from twinstep.decoder.model.segments import EOS, Audio, Image, Segment, Text

WORDS = ("zero", "one", "two", "three", "four", "five")
SIDES = ("left", "right", "up", "down")
TEXT = "The quick brown fox jumps over the lazy dog, again and again. "


def tokenizer() -> Tokenizer:
    texts = [TEXT * 4, " ".join(WORDS + SIDES) * 4, "yes no Which digit is it? + ="]
    return Tokenizer.train(texts, vocabulary=320)


def examples(task: str, count: int = 24) -> Sequence[Example]:
    return [_example(task, number) for number in range(count)]


def _example(task: str, number: int) -> Example:
    digit = number % len(WORDS)
    match task:
        case "image_digit" | "scene":
            parts, answer, choices = (
                ("Which digit? ", picture(digit)),
                WORDS[digit],
                WORDS,
            )
        case "spoken_digit":
            parts, answer, choices = (sound(digit), " said?"), WORDS[digit], WORDS
        case "speech_image_match":
            same = number % 2 == 0
            seen = digit if same else (digit + 1) % len(WORDS)
            parts = ("Is ", sound(digit), " the digit ", picture(seen), "?")
            answer, choices = "yes" if same else "no", ("yes", "no")
        case "video_direction":
            side = number % len(SIDES)
            parts, answer, choices = ("Where to? ", clip(side)), SIDES[side], SIDES
        case "addition":
            parts, answer, choices = (
                (f"{number:03}+001=",),
                f"{number + 1:04}"[::-1],
                (),
            )
        case "translation_text":
            parts, answer, choices = (f"de {WORDS[digit]} : ",), WORDS[digit], ()
        case _:
            parts, answer, choices = (), TEXT * (1 + number % 3), ()
    entity = f"{task}/{number}"
    return Example(
        task=task, entity=entity, prompt=parts, answer=answer, choices=choices
    )


def picture(digit: int) -> Picture:
    return Picture(np.full((8, 8, 1), 40 * (digit + 1), np.uint8))


def sound(digit: int) -> Sound:
    wave = np.sign(np.sin(np.arange(1600) * 0.3))
    return Sound((0.1 * (digit + 1) * wave).astype(np.float32))


def clip(side: int) -> Clip:
    """A spot that goes from the middle to a side; black where the spot is not."""
    pixels = np.zeros((4, 12, 12, 1), np.uint8)
    across, down = ((-1, 0), (1, 0), (0, -1), (0, 1))[side]
    for frame in range(4):
        pixels[frame, 5 + down * frame, 5 + across * frame] = 255
    return Clip(pixels, 0.25)


class Oracle:
    """A sampler that knows how examples() are made; wrong at every `slip`-th row."""

    def __init__(self, tokenizer: Tokenizer, *, slip: int = 0) -> None:
        self.tokenizer, self.slip, self.rows = tokenizer, slip, 0

    def generate(
        self, prompts: list[list[Segment]], /, *, tokens_max: int
    ) -> list[list[int]]:
        return [
            [*self.tokenizer.encode(self.answer(row))[:tokens_max], EOS]
            for row in prompts
        ]

    def score(self, examples: list[list[Segment]], /) -> list[Scored]:
        return [self._scored(row) for row in examples]

    def _scored(self, row: list[Segment]) -> Scored:
        asked = [s for s in row if isinstance(s, Text) and s.weight > 0]
        ids = [number for segment in asked for number in segment.ids]
        given = [s for s in row if not (isinstance(s, Text) and s.weight > 0)]
        if len(given) == 1:
            return Scored(nats=0.5 * len(ids), tokens=len(ids), greedy=False)
        right = self.tokenizer.decode(ids) == self.answer(given)
        return Scored(nats=1.0 if right else 9.0, tokens=len(ids), greedy=right)

    def answer(self, row: list[Segment]) -> str:
        self.rows += 1
        if self.slip and self.rows % self.slip == 0:
            return "something else"
        text = "".join(self.tokenizer.decode(s.ids) for s in row if isinstance(s, Text))
        images = [s.pixels for s in row if isinstance(s, Image)]
        sounds = [s.frames for s in row if isinstance(s, Audio)]
        seen = [
            WORDS[_nearest(i.max(), [40 * (d + 1) for d in range(6)])] for i in images
        ]
        heard = [WORDS[_nearest_sound(frames)] for frames in sounds]
        if images and sounds:
            return "yes" if seen == heard else "no"
        if len(images) > 1:
            return side_of(images)
        if images or sounds:
            return (seen + heard)[0]
        if "+" in text:
            return f"{int(text.split('+')[0]) + 1:04}"[::-1]
        return text.split()[1] if text.startswith("de ") else ""


def side_of(images: list[np.ndarray]) -> str:
    places = [np.argwhere(image[:, :, 0]) for image in images]
    if not all(len(place) for place in places):
        return "left"
    down, across = places[-1].mean(0) - places[0].mean(0)
    if abs(across) > abs(down):
        return "right" if across > 0 else "left"
    return "down" if down > 0 else "up"


def _nearest(value: float, values: list[int]) -> int:
    return int(np.abs(np.array(values) - float(value)).argmin())


def _nearest_sound(frames: np.ndarray) -> int:
    from twinstep.decoder.model.audio import log_mel

    own = [log_mel(sound(digit).samples).astype(float).mean() for digit in range(6)]
    return int(np.abs(np.array(own) - frames.astype(float).mean()).argmin())
