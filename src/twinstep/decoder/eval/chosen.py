"""Which answers are shown, and in what words: for the picture and the page alike.

The first three items of each task, which is a fair sample for they are in no order, and
the first that went wrong, which teaches more. A document is shown with what the model
writes after its beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twinstep.decoder.data.example import Part
from twinstep.decoder.eval.items import Task, marked
from twinstep.decoder.eval.measure import Item, Outcome

FIRST = 3
BEGINNING_LETTERS = 160
"""Of a document: what the model is given to go on from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One item. `right` is None where nothing is right or wrong: a document."""

    task: Task
    parts: tuple[Part, ...]
    answer: str
    truth: str
    right: bool | None


def chosen(outcome: Outcome) -> list[Item]:
    """Returns the first items, and the first wrong one if it is not among them."""
    first = list(outcome.items[:FIRST])
    if outcome.task.metric == "bits_per_byte":
        return first
    wrong = [item for item in outcome.items[FIRST:] if not item.score]
    return first + wrong[:1]


def shown(
    outcomes: Mapping[str, Outcome], continuations: Mapping[str, Iterable[str]]
) -> dict[str, list[Shown]]:
    """Returns the items to show of each task. `continuations` are what the model wrote
    after beginning() of the chosen documents."""
    found: dict[str, list[Shown]] = {}
    for name, outcome in outcomes.items():
        items = chosen(outcome)
        if outcome.task.metric == "bits_per_byte":
            written = list(continuations.get(name, ())) or [""] * len(items)
            found[name] = [
                _document(outcome.task, item, text)
                for item, text in zip(items, written, strict=True)
            ]
        else:
            found[name] = [_question(outcome.task, item) for item in items]
    return found


def beginning(item: Item) -> str:
    """Returns the first half of a document, at most BEGINNING_LETTERS."""
    text = item.example.answer
    return text[: min(BEGINNING_LETTERS, len(text) // 2)]


def words_of(parts: Iterable[Part]) -> str:
    """The text of the parts; a medium is a space."""
    text, _, _ = marked(tuple(parts))
    for mark in ("<image>", "<audio>", "\x1f"):
        text = text.replace(mark, " ")
    return text.strip()


def _question(task: Task, item: Item) -> Shown:
    return Shown(
        task=task,
        parts=item.example.prompt,
        answer=item.answer,
        truth=item.example.answer,
        right=bool(item.score),
    )


def _document(task: Task, item: Item, written: str) -> Shown:
    given = beginning(item)
    rest = item.example.answer[len(given) :]
    return Shown(
        task=task,
        parts=(given,),
        answer=written,
        truth=rest[: max(80, len(written))],
        right=None,
    )
