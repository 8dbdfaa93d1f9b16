"""How captured bytes become a state again, bit by bit, wherever it shall lie now.

What is wanted is what the `like` state holds in this process, box by box; what there is
are the boxes of the slots, or those of a stored step. A plan says which part of which
goes where (recovery/reshard.py). When all boxes were found, and not before, arrays are
made with exactly the shardings of `like` (jax_arrays.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from twinstep.adapters.jax_arrays import Wanted, empty, made_of, wanted_of
from twinstep.adapters.jax_leaves import (
    Form,
    Kind,
    Leaf,
    flat,
    generator_of,
    leaves_of,
    unflat,
)
from twinstep.errors import StateError

DIFFERENCES_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Targets:
    """What a restored state is made of; knows all that speaks against it."""

    like: object
    leaves: list[Leaf]
    arrays: dict[str, Wanted]
    plain: dict[str, Leaf]
    differences: list[str] = field(default_factory=list[str])

    @staticmethod
    def of(like: object) -> Targets:
        """Raises: StateError naming what is no state to go by."""
        leaves = leaves_of(like, real=False)
        arrays = {leaf.name: wanted_of(leaf) for leaf in leaves if _has_bytes(leaf)}
        plain = {leaf.name: leaf for leaf in leaves if not _has_bytes(leaf)}
        return Targets(like=like, leaves=leaves, arrays=arrays, plain=plain)

    def take(self, name: str, captured: Form) -> Wanted | None:
        """Returns what array the state under `name` goes to; if there is none, it is
        a difference."""
        wanted = self.arrays.get(name)
        if wanted is not None and wanted.form == captured:
            return wanted
        live = "a plain value" if name in self.plain else "nothing of that name"
        if wanted is not None:
            live = f"{wanted.form.dtype} {wanted.form.shape}"
        self.differ(
            f"{name} was captured as {captured.dtype} {captured.shape}, and `like` has "
            f"{live}"
        )
        return None

    def expect(self, captured: set[str], values: Mapping[str, Any]) -> None:
        """What `like` has and was not captured is a difference, and what is there as
        a plain value and not as an array, or with another generator."""
        for name in self.arrays:
            if name not in captured:
                was = "a plain value" if name in values["others"] else "not captured"
                self.differ(f"{name} is an array in `like`, but was {was}")
        for name in self.plain:
            if name not in values["others"] and name not in captured:
                self.differ(f"{name} is in `like`, but was not captured")
        for name, wanted in self.arrays.items():
            was = values["keys"].get(name, "")
            key = wanted.leaf.kind is Kind.KEY
            now = generator_of(wanted.leaf.value) if key else ""
            if name in captured and was != now:
                self.differ(
                    f"{name} was captured as {f'a key of {was}' if was else 'no key'}"
                    f", and is {f'one of {now}' if now else 'none'} in `like`"
                )
        for name in values["others"]:
            if name.partition("[")[0].partition(".")[0] == "state" and not (
                name in self.plain or name in self.arrays
            ):
                self.differ(f"{name} was captured, but is not in `like`")

    def differ(self, what: str) -> None:
        self.differences.append(what)

    def refuse(self) -> None:
        """Raises: StateError naming the first differences, if there are any."""
        if self.differences:
            more = len(self.differences) - DIFFERENCES_SHOWN
            raise StateError(
                "the captured state is not like `like`: "
                + "; ".join(self.differences[:DIFFERENCES_SHOWN])
                + (f"; and {more} more" if more > 0 else "")
                + ". Make the state that restore(like=...) gets as in the run that was "
                "captured"
            )

    def allocate(self) -> None:
        """There is memory for all boxes, which XLA can take over as it is."""
        for wanted in self.arrays.values():
            for extent in wanted.boxes:
                wanted.boxes[extent] = empty(wanted.form.dtype, extent.shape)

    def state(self, values: Mapping[str, Any]) -> Any:
        """Returns the state, of what was read into the boxes and of plain values."""
        weak = set(values["weak"])
        made: list[Any] = []
        for leaf in self.leaves:
            if leaf.name in self.plain:
                made.append(values["others"][leaf.name])
            else:
                made.append(made_of(self.arrays[leaf.name], leaf.name in weak))
        return unflat(flat(self.like)[1], made)


def _has_bytes(leaf: Leaf) -> bool:
    return leaf.kind is not Kind.PLAIN
