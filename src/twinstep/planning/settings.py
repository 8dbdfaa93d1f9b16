"""Explains a running job's settings: what they mean for its failures and memory."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from twinstep import config
from twinstep.planner.failures import loss_free
from twinstep.planner.quantities import in_words_bytes
from twinstep.store.slots import SLOTS


def explain(job: config.Job) -> RenderableType:
    """Returns a line a setting that a plan depends on."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("setting", "is", "so"):
        table.add_column(column)
    for name, value, so in _lines(job):
        table.add_row(name, value, so)
    return table


def _lines(job: config.Job) -> list[tuple[str, str, str]]:
    timing, schedule = job.timing, job.schedule
    return [
        (
            "machines",
            f"{job.machines} x {job.ranks_per_machine} ranks",
            f"a machine is one {job.machines}th of the state",
        ),
        ("copies", str(job.copies_held), _copies(job)),
        ("standbys", str(job.standbys), _standbys(job)),
        (
            "domains",
            str(len(set(job.domains)) or "none"),
            "no two holders of a shard share one"
            if job.domains
            else "machines that fail together may hold each other's copies",
        ),
        (
            "timing.silence_s_max",
            f"{timing.silence_s_max:g} s",
            "a lost machine is known to be lost within this time",
        ),
        ("memory_bytes_max", _memory(job), _slots(job)),
        (
            "schedule.mode",
            schedule.mode,
            f"copies lengthen steps by at most {schedule.overhead_max:.0%} "
            f"(overhead_max); else a step in up to {schedule.every_max} is captured"
            if schedule.mode == "spans"
            else "copies are not kept out of training's way",
        ),
    ]


def _copies(job: config.Job) -> str:
    copies = job.copies_held
    if copies == 1:
        return "a lost machine is a lost step: there is no copy of its state"
    shares = loss_free(job.machines, copies=copies, lost_max=copies + 1)
    said = [
        f"{lost} lost at once: {shares[lost]:.2%}"
        for lost in (copies, copies + 1)
        if lost < len(shares)
    ]
    ways = "any one machine" if copies == 2 else f"any {copies - 1} machines"
    return f"{ways} may be lost; {', '.join(said)} to lose nothing"


def _standbys(job: config.Job) -> str:
    if not job.standbys:
        return "a lost machine's place waits for another one"
    return "so many lost machines are replaced at once"


def _memory(job: config.Job) -> str:
    if not job.memory_bytes_max:
        return "what is available"
    return in_words_bytes(job.memory_bytes_max)


def _slots(job: config.Job) -> str:
    stored = 1 if job.storage.path else 0
    parts = SLOTS * job.copies_held + stored
    text = f"{SLOTS} slots x {job.copies_held} copies"
    text += " + 1 for storage" if stored else ""
    text += f": {parts} times a machine's state"
    if job.memory_bytes_max:
        each = in_words_bytes(job.memory_bytes_max / parts)
        text += f", which may be {each}"
    return text
