"""The planner's answer as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from twinstep.decoder import scaling
from twinstep.decoder.run import replace_text
from twinstep.decoder.scaling import Budget, Law
from twinstep.decoder.scaling_fit import Fit, SmallRun, fit, read_runs
from twinstep.errors import UsageError


def show(
    *,
    flops: float | None,
    served: float,
    law: str,
    runs: Path | None,
    hold_out: bool,
    draws: int,
    json_file: Path | None,
    console: Console,
) -> None:
    """Prints what to train for the budget, by the law of that name or by that of own
    runs, and writes the same to `json_file`.

    Raises: UsageError when there is nothing to say, or the runs do not suffice."""
    if flops is None and runs is None:
        raise UsageError("say --flops, or --seconds of training, or --fit RUNS.jsonl")
    record: dict[str, Any] = {}
    chosen = scaling.law_named(law)
    if runs is not None:
        found, kept_out = _fitted(read_runs(runs), hold_out=hold_out, draws=draws)
        chosen = found.law
        console.print(_constants(found))
        record["fit"] = asdict(found.law) | {"intervals": found.intervals()}
        if kept_out is not None:
            record["held_out"] = _foretold(found, kept_out, console)
    if flops is not None:
        budgets = _budgets(flops, served, chosen)
        console.print(_table(flops, budgets))
        record["flops"] = flops
        record["budgets"] = {name: _plain(each) for name, each in budgets.items()}
    if json_file is not None:
        text = msgspec.json.format(msgspec.json.encode(record)).decode()
        replace_text(json_file, text + "\n")


def _fitted(
    runs: list[SmallRun], *, hold_out: bool, draws: int
) -> tuple[Fit, SmallRun | None]:
    if not hold_out or not runs:
        return fit(runs, draws=draws), None
    largest = max(runs, key=lambda run: run.parameters * run.tokens)
    rest = [run for run in runs if run is not largest]
    return fit(rest, draws=draws), largest


def _foretold(found: Fit, run: SmallRun, console: Console) -> dict[str, Any]:
    loss, between = found.prediction(run)
    text = f"held out: {run.parameters:.3g} parameters, {run.tokens:.3g} tokens: "
    text += f"loss {run.loss:.4f}, foretold {loss:.4f}"
    if between is not None:
        text += f" ({between[0]:.4f} to {between[1]:.4f})"
    console.print(text, highlight=False)
    return {"loss": run.loss, "foretold": loss, "interval": between}


def _budgets(flops: float, served: float, law: Law) -> dict[str, Budget]:
    best = scaling.best(flops, law)
    budgets = {
        f"best by {law.source}": best,
        "20 tokens a parameter": scaling.rule_of_thumb(flops, law),
    }
    for other in scaling.LAWS.values():
        if other != law:
            budgets[f"best by {other.source}"] = scaling.best(flops, other)
    if served:
        assert best.loss is not None
        budgets[f"cheapest with {served:.3g} tokens served, of equal loss"] = (
            scaling.best_for_serving(best.loss, served, law)
        )
    return budgets


def _table(flops: float, budgets: Mapping[str, Budget]) -> Table:
    table = Table(title=f"{flops:.3g} FLOPs of training", title_justify="left")
    columns = ("", "parameters", "tokens", "tokens/parameter", "loss", "FLOPs in all")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    for name, budget in budgets.items():
        loss = f"{budget.loss:.4f}" if budget.loss is not None else ""
        table.add_row(
            name,
            f"{budget.parameters:.3g}",
            f"{budget.tokens:.3g}",
            f"{budget.tokens_per_parameter:.1f}",
            loss,
            f"{budget.flops:.3g}",
        )
    return table


def _constants(found: Fit) -> Table:
    table = Table(
        title=f"L = E + A/N^alpha + B/D^beta of own runs, off by at most "
        f"{found.error_max:.2%}",
        title_justify="left",
    )
    intervals = found.intervals()
    names = {
        "irreducible": "E",
        "parameters_scale": "A",
        "tokens_scale": "B",
        "alpha": "alpha",
        "beta": "beta",
    }
    for column in ("constant", "value", "5 %", "95 %"):
        table.add_column(column, justify="right")
    for field, name in names.items():
        low, high = intervals.get(field, (float("nan"),) * 2)
        table.add_row(
            name, f"{getattr(found.law, field):.4g}", f"{low:.4g}", f"{high:.4g}"
        )
    return table


def _plain(budget: Budget) -> dict[str, Any]:
    return asdict(budget) | {
        "flops": budget.flops,
        "tokens_per_parameter": budget.tokens_per_parameter,
    }
