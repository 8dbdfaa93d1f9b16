"""Draws a job for a person: who is root, who holds what, what is waited for.

A picture of plain records and nothing else: it reads no store and no clock. Times of
a recovery are seconds after it was detected.

    training at step 120, safe 119 · root m01 · round 3, term 1
    machine  rank  ranks (process)    captures   copies of
    m00      0     0 (4711)           shard 0    1
    ...
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twinstep.agent.record import Recovery
from twinstep.agent.status import MachineStatus, Status
from twinstep.cloud.hosting import Result
from twinstep.planner.quantities import in_words_bytes

RECOVERIES_SHOWN = 8
MOMENTS = (
    ("machine", "machine_ready_s"),
    ("decided", "decided_s"),
    ("ranks up", "ranks_up_s"),
    ("loaded", "loaded_s"),
    ("first step", "first_step_s"),
    ("redundant", "redundant_s"),
)
"""Of a recovery, in the order in which they come to pass."""


def draw(
    name: str,
    status: Status | None,
    recoveries: Sequence[Recovery],
    result: Result | None = None,
    *,
    now_s: float,
) -> RenderableType:
    """Returns the picture of a job. `now_s` is by the clock of `Status.at_s`."""
    parts: list[RenderableType] = []
    if status is None:
        parts.append(Text(f"{name}: no root yet; waiting for the machines to join"))
    else:
        parts += [_headline(name, status, now_s), _machines(status), _memory(status)]
        parts += [_promise(status), *_storage(status), *_frequency(status)]
        parts += _amiss(status)
    if recoveries:
        parts.append(_recoveries(recoveries))
    if result is not None:
        how = "ended well" if result.status == 0 else f"ended ({result.status})"
        parts.append(Text(f"the job {how}: {result.reason}"))
    return Group(*parts)


def _headline(name: str, status: Status, now_s: float) -> Text:
    text = Text()
    text.append(name, style="bold")
    text.append(f"  {status.phase}", style="green" if _well(status) else "yellow")
    text.append(f" for {max(0.0, now_s - status.phase_since_s):.1f} s")
    safe = str(status.safe) if status.safe else "none yet"
    text.append(f" · step {status.step}, safe {safe}")
    text.append(f" · root {status.root} · round {status.round}, term {status.term}")
    if status.places < status.wanted:
        text.append(f" · on {status.places} of {status.wanted} machines", "yellow")
    for whom in status.waiting_for:
        text.append(f"\n  waits for {whom}", style="yellow")
    age_s = now_s - status.at_s
    if age_s > 5:
        text.append(f"\n  this is what a root said {age_s:.1f} s ago", style="red")
    return text


def _well(status: Status) -> bool:
    return status.phase == "training" and not status.waiting_for


def _machines(status: Status) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("machine", "rank", "", "ranks (process)", "captures", "copies of"):
        table.add_column(column)
    for machine in status.machines:
        table.add_row(*_machine(machine, status))
    return table


def _machine(machine: MachineStatus, status: Status) -> list[str]:
    standby = machine.machine_rank < 0
    role = "standby" if standby else ""
    if machine.machine == status.root:
        role = f"{role} ROOT".strip()
    ranks = " ".join(f"{rank} ({pid})" for rank, pid in sorted(machine.ranks.items()))
    shared = [] if standby or not status.shared else ["shared"]
    return [
        machine.machine,
        "" if standby else str(machine.machine_rank),
        role,
        ranks,
        " ".join([*map(str, sorted(machine.ranks)), *shared]),
        " ".join(map(str, machine.holds)),
    ]


def _amiss(status: Status) -> list[Text]:
    """What is wrong with machines, a line each."""
    lines: list[Text] = []
    for machine in status.machines:
        if machine.failing:
            lines.append(Text(f"{machine.machine}: {machine.failing}", style="red"))
        for warning in machine.warnings:
            text = f"{machine.machine}: warning: {warning}"
            lines.append(Text(text, style="yellow"))
    return lines


def _memory(status: Status) -> Text:
    if not status.sizes:
        return Text("no slots reserved yet")
    total = sum(status.sizes.values())
    largest = max(status.sizes.values())
    shards = f"{len(status.sizes)} shards, {in_words_bytes(total)} in all"
    holders = f"{status.copies} machine{'s' * (status.copies > 1)}"
    everywhere = ", shared ones on each" if status.shared else ""
    return Text(
        f"{shards}, the largest {in_words_bytes(largest)}; two slots a shard on "
        f"{holders}{everywhere}"
    )


def _promise(status: Status) -> Text:
    """How many machines may still be lost, and which must not be."""
    if status.may_lose < 0:
        return Text("no step is safe yet: a lost machine means step 0", style="yellow")
    if status.copies == 1:
        return Text("each shard is on one machine only: none may be lost")
    if status.only_here:
        names = ", ".join(
            f"{name} (only copy of shard {', '.join(map(str, shards))})"
            for name, shards in status.only_here.items()
        )
        text = f"copies are being made again; must not be lost until then: {names}"
        return Text(text, style="yellow")
    count = status.may_lose
    machines = "machine" if count == 1 else "machines"
    return Text(f"any {count} {machines} may be lost; `twinstep explain` tells more")


def _storage(status: Status) -> list[Text]:
    """What outlives all machines, where something does."""
    if not status.storage:
        return []
    text = f"storage {status.storage}: "
    text += f"step {status.stored}" if status.stored else "no step yet"
    text += f" (written in {status.stored_s:.1f} s)" if status.stored_s else ""
    text += f"; step {status.storing} is being written" if status.storing else ""
    lines = [Text(text)]
    if status.storage_trouble:
        lines.append(Text(f"storage: {status.storage_trouble}", style="yellow"))
    return lines


def _frequency(status: Status) -> list[Text]:
    """How often a step is captured, where that is not always, and what copies cost."""
    lines: list[Text] = []
    if status.every > 1:
        text = f"one step in {status.every} is captured: {status.every_reason}"
        lines.append(Text(text, style="yellow"))
    if status.overhead is not None and status.overhead_noise is not None:
        noise = f"± {status.overhead_noise:.1%}"
        lines.append(Text(f"copies lengthen steps by {status.overhead:.1%} {noise}"))
    return lines


def _recoveries(recoveries: Sequence[Recovery]) -> Text:
    """Two lines a recovery: what it cost, and when what was done."""
    left_out = max(0, len(recoveries) - RECOVERIES_SHOWN)
    text = Text("recoveries, in seconds after each was detected", style="bold")
    if left_out:
        text.append(f" ({left_out} earlier ones left out)")
    for recovery in recoveries[-RECOVERIES_SHOWN:]:
        text.append(f"\n{recovery.number:3}  {recovery.kind}: {recovery.reason}")
        text.append(f"\n     {_cost(recovery)}", style="default")
        for bad in recovery.bad:
            text.append(f"\n     {bad}", style="red")
    return text


def _cost(recovery: Recovery) -> str:
    moments = [
        f"{name} {getattr(recovery, field) - recovery.detected_s:.2f}"
        for name, field in MOMENTS
        if getattr(recovery, field)
    ]
    if not recovery.decided_s:
        return " · ".join(["under way", *moments])
    lost = f"{recovery.steps_lost} steps lost, back at step {recovery.step}"
    source = f"from {recovery.source}" if recovery.source else ""
    return " · ".join([lost, *filter(None, [source]), *moments])
