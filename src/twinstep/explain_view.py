"""Draws what would happen if machines were lost: a table of all, or one in full."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twinstep.explain import Forecast, Sight, forecast, look, now, resolve
from twinstep.jobs import JobView
from twinstep.planner.quantities import in_words_bytes
from twinstep.recovery.outlook import Outlook

NAMES_SHOWN = 6


def show(view: JobView, words: Sequence[str], *, as_json: bool) -> RenderableType:
    """Returns what would happen if the machines named were lost together; without
    names, if each was lost alone. As one JSON object or a picture."""
    sight = look(view)
    lost = resolve(sight, words)
    each = [[m.machine] for m in sight.status.machines]
    forecasts = [forecast(sight, names) for names in ([lost] if lost else each)]
    if as_json:
        return msgspec.json.encode({"forecasts": forecasts}).decode()
    if lost:
        return draw_one(sight, forecasts[0])
    return draw_all(sight, forecasts, now(sight))


def draw_all(
    sight: Sight, forecasts: Sequence[Forecast], present: Outlook
) -> RenderableType:
    """Returns a line for the loss of each machine, and what may be lost at all."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("if lost", "its place", "step", "lost", "read from", "", "left"):
        table.add_column(column)
    for one in forecasts:
        table.add_row(*_row(sight, one))
    parts: list[RenderableType] = [
        Text(promise(present, copies=sight.status.copies)),
        table,
    ]
    parts += [Text(f"no answer: {text}", style="red") for text in sight.silent]
    return Group(*parts)


def promise(present: Outlook, *, copies: int) -> str:
    """Returns in a sentence how many machines may be lost, and which must not."""
    if present.may_lose < 0:
        return "no step is whole in memory yet: a lost machine means step 0"
    if copies == 1:
        return "each shard is on one machine only (copies = 1): none may be lost"
    if present.only_here:
        names = ", ".join(
            f"{name} (shard {_some([str(s) for s in shards])})"
            for name, shards in present.only_here.items()
        )
        return f"copies are being made; until then these must not be lost: {names}"
    fatal = "; ".join(" with ".join(names) for names in present.fatal[:NAMES_SHOWN])
    count = present.may_lose
    machines = "machine" if count == 1 else "machines"
    return f"any {count} {machines} may be lost; memory would not survive: {fatal}"


def _row(sight: Sight, one: Forecast) -> list[str]:
    (name,) = one.lost
    root = " (root)" if one.new_root else ""
    then = "nothing" if one.may_lose < 0 else str(one.may_lose)
    return [
        f"{name}{root}",
        next(iter(one.takes_place.values()), "-").partition(",")[0],
        str(one.step),
        str(one.steps_lost),
        _some(sorted(set(one.reads.values()))) or "own memory",
        in_words_bytes(one.read_bytes),
        then,
    ]


def draw_one(sight: Sight, one: Forecast) -> RenderableType:
    """Returns the loss of one set of machines, moment by moment."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    names = " and ".join(one.lost)
    table.add_row("noticed", f"within {one.noticed_s:g} s, when the lease lapses")
    if one.new_root:
        table.add_row("root", "another agent is elected, and goes on with the plan")
    for lost, taker in one.takes_place.items():
        table.add_row(f"{lost}'s place", taker)
    if not one.takes_place:
        table.add_row("training", "goes on: nobody that trains is lost")
    elif one.step:
        lost_steps = f"{one.steps_lost} lost, of {one.reached}"
        table.add_row("step", f"{one.reason}; {lost_steps}")
        for shard, source in list(one.reads.items())[:NAMES_SHOWN]:
            bytes_ = in_words_bytes(sight.status.sizes.get(shard, 0))
            table.add_row(f"shard {shard}", f"{bytes_} from the memory of {source}")
        if len(one.reads) > NAMES_SHOWN:
            table.add_row("", f"and {len(one.reads) - NAMES_SHOWN} shards more")
        table.add_row("others", "from their own memory, no network")
        table.add_row(
            "then", f"copies are made again: {in_words_bytes(one.copies_again_bytes)}"
        )
        still = "no further machine" if one.may_lose == 0 else f"any {one.may_lose}"
        table.add_row("meanwhile", f"{still} may be lost")
        for name, shards in one.only_here.items():
            only = _some([str(shard) for shard in shards])
            table.add_row("", f"{name} would have the only copy of shard {only}")
    else:
        table.add_row("step", f"memory does not survive this: {one.reason}")
    return Group(Text(f"if {names} died now", style="bold"), table)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
