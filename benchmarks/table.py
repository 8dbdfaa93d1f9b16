"""What was measured, beside its budget: the rows of `make bench` and of the docs.

A row without a budget is there to compare with. Budgets are those of the design; the
words about a missed one are in docs/benchmarks.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks import recovery, steps

CAPTURE_MIN = 0.9
SEND_MIN = 0.9
RESTORE_MIN = 0.8
REMOTE_MIN = 0.9
NAMES = {
    "alone": "1 machine, 1 rank",
    "ddp": "2 machines, replicas",
    "sent": "2 machines, copies sent",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number."""

    what: str
    measured: str
    budget: str = ""
    met: bool | None = None

    @property
    def verdict(self) -> str:
        return "" if self.met is None else ("met" if self.met else "not met")


def rows_of(result: dict[str, Any]) -> list[Row]:
    """The rows of every stage that was measured."""
    rows: list[Row] = []
    if "capture" in result:
        rows += _capture(result["capture"])
    if "transfer" in result:
        rows += _transfer(result["transfer"])
    for name in NAMES:
        if f"steps {name}" in result:
            rows += _steps(name, result[f"steps {name}"])
    if "recovery" in result:
        rows += _recovery(result["recovery"])
    return rows


def _capture(found: dict[str, Any]) -> list[Row]:
    def row(what: str, key: str, least: float | None) -> Row:
        one = found[key]
        return Row(
            what=what,
            measured=f"{one['ratio']:.2f} ({one['ratio_low']:.2f} to "
            f"{one['ratio_high']:.2f}) of memcpy, {one['gb_per_s']:.1f} GB/s",
            budget=f">= {least}" if least else "",
            met=one["ratio"] >= least if least else None,
        )

    return [
        row("capture into a slot", "capture", CAPTURE_MIN),
        row("local restore, bytes in place", "restore", RESTORE_MIN),
        row(
            "local restore, verified first, one thread",
            "verified_restore",
            None,
        ),
    ]


def _transfer(found: dict[str, Any]) -> list[Row]:
    def row(what: str, way: str, least: float | None) -> Row:
        ratio, rate = found["ratio_to_plain"][way], found["median_gb_per_s"][way]
        return Row(
            what=what,
            measured=f"{ratio:.2f} of a plain copy, {rate:.2f} GB/s",
            budget=f">= {least}" if least else "",
            met=ratio >= least if least else None,
        )

    return [
        row("send with checksums, one stream", "send", SEND_MIN),
        row("send, digests known", "send, digests known", SEND_MIN),
        row("remote restore", "restore", REMOTE_MIN),
        *(
            row(f"  send with credentials: {kind}", f"send, {kind}", None)
            for kind in ("token", "plain after TLS", "sealed", "TLS")
            if f"send, {kind}" in found["ratio_to_plain"]
        ),
        row("plain copy to itself (noise)", "plain, again", None),
    ]


def _steps(name: str, found: dict[str, Any]) -> list[Row]:
    share, ours = found["blocked_share"], found["twinstep"]
    titled = NAMES[name]
    low, high = ours["extra_low"] * 1e3, ours["extra_high"] * 1e3
    # What a plain copy takes: what it makes the step longer by, which noise may hide,
    # but at least the copy itself.
    plain_s = max(found["torch"]["extra_median"], found["torch"]["after_s"])
    budgeted = name != "sent"
    rows = [
        Row(
            what=f"loop blocked, {titled}",
            measured=f"{share['median']:.2%} ({share['low']:.2%} to "
            f"{share['high']:.2%}) of a step of {found['none']['step_s']:.2f} s; "
            f"{found['captured']} of {found['told']} captured",
            budget=f"<= {steps.BLOCKED_SHARE_MAX:.0%}",
            met=share["median"] <= steps.BLOCKED_SHARE_MAX,
        ),
        Row(
            what=f"step longer by, {titled}",
            measured=f"{ours['extra_median'] * 1e3:.0f} ms ({low:.0f} to {high:.0f}), "
            f"{ours['ratio_median']:.3f} of an unprotected step",
            budget=f"<= {plain_s * 1e3:.0f} ms" if budgeted else "",
            met=ours["extra_median"] <= steps.COPIES_MAX * plain_s
            if budgeted
            else None,
        ),
    ]
    for kind, words in (("torch", "torch's copy_"), ("numpy", "one-thread memcpy")):
        each = found[kind]
        rows.append(
            Row(
                what=f"  with a plain copy by {words}, {titled}",
                measured=f"{each['extra_median'] * 1e3:.0f} ms "
                f"({each['extra_low'] * 1e3:.0f} to {each['extra_high'] * 1e3:.0f}), "
                f"the copy itself {each['after_s'] * 1e3:.0f} ms",
            )
        )
    return rows


def _recovery(found: dict[str, Any]) -> list[Row]:
    size = f"2 ranks of {found['megabytes']:.0f} MB"
    rank, machine = found["rank"], found["machine"]
    # The budget is a second and the load: what loading took is not counted in it.
    net_s = [kill["back"] - kill["load"] for kill in rank["kills"]]
    decided = machine["max_s"]["decided"]
    rows = [
        Row(
            what=f"killed rank to first new step, {size}",
            measured=f"{_both(rank, 'back')}, loading {_both(rank, 'load')}",
            budget=f"<= {recovery.RANK_S_MAX:g} s + load",
            met=sorted(net_s)[len(net_s) // 2] <= recovery.RANK_S_MAX,
        ),
        Row(
            what="lost machine to decision",
            measured=_both(machine, "decided"),
            budget=f"<= {recovery.DECISION_S_MAX:g} s",
            met=decided <= recovery.DECISION_S_MAX,
        ),
        Row(what="lost machine to first new step", measured=_both(machine, "back")),
        Row(
            what="steps lost, killed rank and lost machine, at most",
            measured=f"{rank['max_s']['steps_lost']:.0f} and "
            f"{machine['max_s']['steps_lost']:.0f}",
        ),
    ]
    for key, words in (
        ("torchrun", "torch.save into /dev/shm at every step"),
        ("torchrun_bare", "no state"),
    ):
        rows.append(
            Row(
                what=f"  torchrun, killed rank to first new step, {words}",
                measured=_both(found[key], "back"),
            )
        )
    return rows


def _both(found: dict[str, Any], key: str) -> str:
    return f"{found['median_s'][key]:.2f} s, at most {found['max_s'][key]:.2f}"


def table(rows: list[Row]) -> Table:
    """The rows for a terminal."""
    drawn = Table("what", "measured", "budget", "")
    styles = {True: "green", False: "red", None: ""}
    for row in rows:
        drawn.add_row(
            row.what, row.measured, row.budget, row.verdict, style=styles[row.met]
        )
    return drawn


def markdown(result: dict[str, Any]) -> str:
    """The rows for docs/benchmarks.md, with the computer and its load."""
    computer = result["computer"]
    loads = ", ".join(f"{load:.1f}" for load in result["load_before"].values())
    lines = [
        f"{computer['processor']}, {computer['cores']} cores, Linux "
        f"{computer['kernel']}, Python {computer['python']}, torch "
        f"{computer['torch']}; load average before each stage: {loads}; "
        f"{result['seconds']:.0f} s altogether.",
        "",
        "| what | measured: median (quartiles, or the largest) | budget | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row.what.strip()} | {row.measured} | {row.budget} | {row.verdict} |"
        for row in rows_of(result)
    ]
    return "\n".join(lines)
