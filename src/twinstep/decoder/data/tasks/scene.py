"""Shapes in a picture of any size: how many, more of which, which is the brightest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twinstep.decoder.data.digits import WORDS
from twinstep.decoder.data.entities import side
from twinstep.decoder.data.example import Example, Picture, Split
from twinstep.decoder.data.origin import Origin, Pools
from twinstep.decoder.data.tasks.task import Task

SHAPES = {"o": "circle", "#": "square", "+": "cross"}
CELL = 10
SIZES = (2, 5)
"""Rows and columns of cells, the second not included."""
COUNTS = WORDS[1:5]
MORE = ("circles", "squares")
DRAWING = Origin(name="drawn by rules of this package", licence="Apache-2.0")


@dataclass(frozen=True, slots=True)
class Layout:
    """What is in each cell, row by row: a letter of SHAPES or a dot for nothing."""

    rows: int
    columns: int
    cells: str


def shape(letter: str, size: int) -> np.ndarray:
    """Returns bool[size, size]: the shape, filled."""
    at = np.arange(size) - (size - 1) / 2
    across, down = np.abs(at)[None], np.abs(at)[:, None]
    match letter:
        case "o":
            return across**2 + down**2 <= (size / 2) ** 2
        case "#":
            return np.ones((size, size), bool)
        case _:
            return (across < size / 5) | (down < size / 5)


@dataclass(frozen=True, slots=True)
class Question:
    """A layout with what is asked about it. `brightest` is the letter of the shape
    that has to be brighter than the rest."""

    layout: Layout
    asks: str
    answer: str
    choices: tuple[str, ...]
    brightest: str = ""

    @property
    def entity(self) -> str:
        layout = self.layout
        size = f"{layout.rows}x{layout.columns}"
        return f"scene {self.asks}{self.brightest} {size} {layout.cells}"


def scenes(
    pools: Pools, split: Split, count: int, random: np.random.Generator
) -> Iterator[Example]:
    """The three questions in turn, and each question's answers in turn."""
    questions = (_count, _more, _brightest)
    for number in range(count):
        turn, kind = divmod(number, len(questions))
        while True:
            question = questions[kind](turn, random)
            if side(question.entity) == split:
                break
        yield Example(
            task="scene",
            entity=question.entity,
            prompt=(painted(question, random), question.asks),
            answer=question.answer,
            choices=question.choices,
        )


def painted(question: Question, random: np.random.Generator) -> Picture:
    """Returns the layout with each shape somewhere in its cell, in sizes and shades as
    drawn."""
    layout = question.layout
    pixels = np.zeros((layout.rows * CELL, layout.columns * CELL, 1), np.uint8)
    for cell, letter in enumerate(layout.cells):
        if letter == ".":
            continue
        row, column = divmod(cell, layout.columns)
        size = int(random.integers(6, 9))
        top, left = (int(at) for at in random.integers(0, CELL - size + 1, 2))
        shades = (120, 256)
        if question.brightest:
            shades = (210, 256) if letter == question.brightest else (60, 150)
        corner = pixels[row * CELL + top :, column * CELL + left :, 0]
        corner[:size, :size][shape(letter, size)] = random.integers(*shades)
    return Picture(pixels)


def _filled(letters: str, sizes: np.ndarray, random: np.random.Generator) -> Layout:
    rows, columns = (int(size) for size in sizes)
    cells = list(letters.ljust(rows * columns, "."))
    return Layout(rows, columns, "".join(random.permutation(cells)))


def _count(turn: int, random: np.random.Generator) -> Question:
    sizes = random.integers(*SIZES, 2)
    wanted = turn % len(COUNTS) + 1
    others = random.integers(0, sizes.prod() - wanted + 1)
    letters = "o" * wanted + "".join(random.choice(["#", "+"], others))
    layout = _filled(letters, sizes, random)
    return Question(layout, "circles?", COUNTS[wanted - 1], COUNTS)


def _more(turn: int, random: np.random.Generator) -> Question:
    sizes = random.integers(*SIZES, 2)
    few = int(random.integers(0, (sizes.prod() - 1) // 2 + 1))
    many = int(random.integers(few + 1, sizes.prod() - few + 1))
    circles, squares = (many, few) if turn % 2 == 0 else (few, many)
    layout = _filled("o" * circles + "#" * squares, sizes, random)
    return Question(layout, "more?", MORE[turn % 2], MORE)


def _brightest(turn: int, random: np.random.Generator) -> Question:
    letters = tuple(SHAPES)
    letter = letters[turn % len(letters)]
    layout = _filled("".join(letters), random.integers(*SIZES, 2), random)
    return Question(
        layout, "brightest?", SHAPES[letter], tuple(SHAPES.values()), letter
    )


TASKS = (
    Task(
        name="scene",
        asks="how many circles, more circles or squares, or which shape is brightest",
        make=scenes,
        entity_rule="question and layout (which shape in which cell): 10 in 100 are "
        "held out",
        chance=(1 / 4 + 1 / 2 + 1 / 3) / 3,
        origins=(DRAWING,),
        train=8000,
        held_out=1000,
    ),
)
