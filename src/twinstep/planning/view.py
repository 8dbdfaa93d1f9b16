"""Draws a plan for people: the job's arithmetic, a line a policy, settings and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from twinstep.planner.gemini_report import AFTER, BEFORE, Assumption
from twinstep.planner.model import parts_s
from twinstep.planner.paper import ERRATA, Row
from twinstep.planner.policies import Costs
from twinstep.planner.quantities import in_words_s, in_words_speed
from twinstep.planner.room import in_words
from twinstep.planner.topology import Pods, near_cubic
from twinstep.planner.wiring import draw as draw_cubes, fit
from twinstep.planning.plan import REPAIR_S, Plan, Priced

LONG = 2.0
"""The longest side of a torus over its shortest, from which on it is worth a word."""


def draw(plan: Plan) -> RenderableType:
    """Returns a plan as tables and sentences."""
    job = plan.request.job
    per_day = plan.priced[0].forecast.failures_per_day
    rate = f"{per_day:.3g} failures a day, one in {in_words_s(86400 / per_day)}"
    if plan.request.trace:
        rate = f"the {len(plan.request.trace)} failures of a trace"
    head = f"{job.machines} machines, {rate if per_day else 'nothing fails'}"
    costs = plan.request.costs
    parts: list[RenderableType] = [
        Text(head, style="bold"),
        *(Text(f"  {line}") for line in in_words(plan.room, job)),
        Text(""),
        _policies(plan),
        Text(""),
        _parts(plan),
        Text(""),
        Text(_catching_up(plan)),
        Text(""),
        _settings(plan),
        Text(""),
        *_pods(plan),
        Text(f"costs of a recovery: {costs.source}", style="dim"),
    ]
    if plan.request.assumed:
        assumed = "; ".join(plan.request.assumed)
        parts.append(Text(f"assumed: {assumed}", style="dim"))
    notes = dict.fromkeys(note for one in plan.priced for note in one.policy.notes)
    parts += [Text(f"note: {note}", style="yellow") for note in notes]
    return Group(*parts)


def _pods(plan: Plan) -> list[RenderableType]:
    """The cubes of a pod, and what the loss of a part costs."""
    pods, job = plan.request.pods, plan.request.job
    if pods is None:
        return []
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("lost", "its place", "read from", "stopped", "steps lost", ""):
        table.add_column(column)
    for one in plan.losses:
        table.add_row(
            one.what,
            one.takes_place,
            one.read_from,
            in_words_s(one.stopped_s),
            f"{one.lost_steps:.3g}",
            "" if one.survives else "memory does not survive it",
        )
    service = plan.upkeep
    lines = [Text(draw_cubes(pods)), Text(""), table, *map(Text, _cubes(plan, pods))]
    if service is not None:
        every = f"an hour of service a cube, {in_words_s(job.step_s)} steps"
        lines.append(Text(f"rolling service ({every}): {service.says}"))
    return [*lines, Text("")]


def _cubes(plan: Plan, pods: Pods) -> list[str]:
    """What becomes of a pod with a lost cube, and how many should wait."""
    count = pods.training_cubes
    lines = [f"a cube lost: {fit(pods, cubes=count, lost=[0]).says}"]
    if plan.standby_cubes:
        lines.append(
            f"standby cubes: with {plan.standby_cubes} of a pod's {pods.cubes_per_pod} "
            f"a lost one finds another, 99 times in 100 ({in_words_s(REPAIR_S)} to "
            "repair one)"
        )
    compact = near_cubic(pods.cubes_per_pod, cube=pods.cube, ratio=LONG)
    if pods.torus.chips[2] > LONG * pods.torus.chips[0]:
        lines.append(
            f"{count} cubes only make a torus of {pods.torus}; fewer make {compact}"
        )
    return lines


def _policies(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("policy", "keeps"):
        table.add_column(column)
    for column in ("lost+read", "restart", "stalls", "goodput"):
        table.add_column(column, justify="right")
    sampled = any(one.outcome for one in plan.priced)
    if sampled:
        table.add_column(f"{plan.samples} x {plan.days:g} days, 9 of 10")
    for one in plan.priced:
        table.add_row(*_row(one), style="bold" if one.policy.name == "twinstep" else "")
    return table


def _parts(plan: Plan) -> Table:
    """What one lost machine costs, in the order in which it is paid."""
    request = plan.request
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("a lost machine costs")
    for place, one in enumerate(plan.priced):
        parts = parts_s(one.policy, request.job, request.failures)
        if place == 0:
            for name in parts:
                table.add_column(name, justify="right")
        cells = [in_words_s(value) if value >= 1e-3 else "" for value in parts.values()]
        table.add_row(one.policy.name, *cells)
    return table


def _row(one: Priced) -> list[str]:
    found, outcome = one.forecast, one.outcome
    cells = [
        one.policy.name,
        one.policy.says,
        in_words_s(found.wasted_s),
        in_words_s(found.recovery_s),
        f"{one.policy.slowdown:.1%}",
        f"{found.goodput:.1%}",
    ]
    if outcome:
        cells.append(f"{outcome.goodput:.1%} ({outcome.low:.1%} to {outcome.high:.1%})")
    return cells


def _catching_up(plan: Plan) -> str:
    if math.isinf(plan.storage_bytes_per_s):
        return (
            "No storage that all machines share comes within 1 % of copies in memory "
            "here, however fast."
        )
    return (
        "Plain storage at its best interval, with as quick a restart, comes within 1 % "
        f"of copies in memory from {in_words_speed(plan.storage_bytes_per_s)} on (all "
        "machines together)."
    )


def _settings(plan: Plan) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("setting", "use", "because"):
        table.add_column(column)
    for one in plan.settings:
        table.add_row(one.name, one.value, one.reason)
    return table


def draw_paper(
    rows: Sequence[Row],
    assumptions: Sequence[Assumption],
    ours: Sequence[Mapping[str, float]],
    costs: Costs,
) -> RenderableType:
    """Returns the paper's numbers beside ours, and what is wrong with the printed."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("what", ""):
        table.add_column(column)
    for column in ("published", "computed", "differs"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        close = f"{row.relative_difference:+.1%}" if row.relative_difference else ""
        said = f"erratum: {row.erratum}" if row.erratum else row.note
        table.add_row(
            row.what,
            row.unit,
            f"{row.bound} {row.published:.4g}".strip(),
            f"{row.computed:.4g}",
            close,
            said,
            style="" if row.explained else "red",
        )
    explained = sum(row.explained for row in rows)
    used = dict.fromkeys(row.erratum for row in rows if row.erratum)
    return Group(
        table,
        Text(""),
        Text(f"{explained} of {len(rows)} rows are within 2 % or name their erratum:"),
        *(Text(f"  {name}: {ERRATA[name]}") for name in used),
        Text(""),
        Text(f"Figure 15 with twinstep's costs of a recovery ({costs.source}):"),
        _figure_15(ours),
        Text(""),
        draw_report(assumptions),
    )


def _figure_15(ours: Sequence[Mapping[str, float]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("machines", "failures a day", "gemini", "twinstep", "costs each"):
        table.add_column(column, justify="right")
    for row in ours:
        table.add_row(
            f"{row['machines']:g}",
            f"{row['failures_per_day']:.3g}",
            f"{row['gemini_published']:.3f}",
            f"{row['twinstep']:.3f}",
            in_words_s(row["cost_s"]),
        )
    return table


def draw_report(assumptions: Sequence[Assumption]) -> RenderableType:
    """Returns what 85 % and 97 % of the Gemini 1.0 report assume."""
    title = (
        f"Gemini 1.0 report, section 3: goodput from {BEFORE:.0%} to {AFTER:.0%}. One "
        "superpod of 4,096 chips (1,024 hosts), 500e9 parameters and 1 Tbit/s of "
        "storage are assumed, since the report gives none."
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("before")
    for column in (
        "85 % at",
        "where each costs",
        "97 %: at most",
        "twinstep",
        "costs each",
    ):
        table.add_column(column, justify="right")
    for one in assumptions:
        table.add_row(
            one.policy,
            f"{one.per_day:.3g} a day",
            in_words_s(one.cost_before_s),
            in_words_s(one.cost_after_s),
            f"{one.reached:.1%}",
            in_words_s(one.reached_cost_s),
        )
    return Group(Text(title), table)
