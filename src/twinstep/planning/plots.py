"""Draws a plan, and the paper's figures computed again, as PNG files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from twinstep.errors import UsageError
from twinstep.placement.strategy import place
from twinstep.placement.survival import corollary_1, survival
from twinstep.planner.failures import Failures
from twinstep.planner.gemini_report import BEFORE
from twinstep.planner.job import MACHINES_MAX, Job
from twinstep.planner.model import Forecast, forecast
from twinstep.planner.paper import (
    FIGURE_15,
    GBPS,
    STEP_S,
    STORAGE,
    gpt_100b,
    ratio,
)
from twinstep.planner.policies import MAKERS, Costs
from twinstep.planner.policy import wasted_s
from twinstep.planning.plan import Plan

DPI = 130
POINTS = 60
INK = "#303030"
COLORS = {
    "strawman": "#b9b9b9",
    "highfreq": "#8c8c8c",
    "best interval": "#d98c3f",
    "sharded": "#b5651d",
    "local disk": "#7f9f4f",
    "gemini": "#7aa6c9",
    "twinstep": "#1f4e79",
}
HEAVY = ("twinstep",)


def picture(plan: Plan, path: Path) -> None:
    """The file is a PNG: what each policy leaves of the time and loses to a failure,
    against the rate of failures, the number of machines and the speed of storage."""
    request = plan.request
    job, failures, costs = request.job, request.failures, request.costs
    per_day = max(0.01, failures.per_day(job.machines))
    most = min(MACHINES_MAX, 30 * job.machines)
    figure, axes = _made().subplots(2, 3, figsize=(14, 7.5), sharex="col")

    rates = np.geomspace(per_day / 30, per_day * 30, POINTS)
    counts = np.geomspace(max(job.copies, job.machines / 30), most, POINTS).round()
    speed = job.storage_bytes_per_s
    speeds = np.geomspace(speed / 30, speed * 3000, POINTS)
    columns: Sequence[tuple[str, Any, float, Callable[[float], tuple[Job, Failures]]]]
    columns = (
        (
            "failures a day",
            rates,
            per_day,
            lambda x: (job, _times(failures, x / per_day)),
        ),
        (
            "machines (of the same state each)",
            counts,
            job.machines,
            lambda x: (_grown(job, int(x)), failures),
        ),
        (
            "storage, Gbit/s, all machines together",
            speeds,
            speed,
            lambda x: (dataclasses.replace(job, storage_bytes_per_s=x), failures),
        ),
    )
    for place_, (label, xs, here, at) in enumerate(columns):
        scale = 1 / GBPS if label.startswith("storage") else 1.0
        above, below = axes[0][place_], axes[1][place_]
        for name, maker in MAKERS.items():
            found: list[Forecast] = []
            for x in xs:
                one, failing = at(float(x))
                found.append(forecast(maker(one, failing, costs), one, failing))
            style = {"color": COLORS[name], "lw": 2.4 if name in HEAVY else 1.4}
            above.plot(xs * scale, [f.goodput for f in found], label=name, **style)
            below.plot(xs * scale, [f.wasted_s / 60 for f in found], **style)
        for axis in (above, below):
            axis.set_xscale("log")
            axis.axvline(here * scale, color=INK, lw=0.8, ls=":")
            _plain(axis)
        below.set_yscale("log")
        below.set_xlabel(label)
        above.set_ylim(0, 1.02)
    _draw_catching_up(plan, (axes[0][2], axes[1][2]))
    axes[0][0].set_ylabel("goodput")
    axes[1][0].set_ylabel("lost and read again, min a failure")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        ncols=len(MAKERS),
        loc="lower center",
        bbox_to_anchor=(0.5, -0.01),
        frameon=False,
    )
    title = (
        f"{job.machines} machines, {per_day:.3g} failures a day (dotted: as planned)"
    )
    figure.suptitle(title, x=0.125, y=0.93, ha="left", color=INK, fontsize=11)
    _save(figure, path)


def _draw_catching_up(plan: Plan, axes: Sequence[Any]) -> None:
    """A line where plain storage is as good as copies in memory."""
    speed = plan.storage_bytes_per_s / GBPS
    low, high = axes[0].get_xlim()
    if not low < speed < high:
        return
    for axis in axes:
        axis.axvline(speed, color=COLORS["best interval"], lw=1.2, ls="--")
    axes[0].annotate(
        "best interval\nwithin 1 %",
        (speed, 0.06),
        xytext=(4, 0),
        textcoords="offset points",
        color=COLORS["best interval"],
        fontsize=8,
    )


def paper_picture(costs: Costs, path: Path) -> None:
    """The file is a PNG with Figures 9, 10, 11, 12 and 15 of GEMINI, computed, and the
    last with twinstep's costs in it."""
    figure, axes = _made().subplots(2, 3, figsize=(14, 7.5))
    _figure_9(axes[0][0])
    _figure_10(axes[0][1])
    _figure_11(axes[0][2])
    _figure_12(axes[1][0])
    _figure_15(axes[1][1], costs)
    _report(axes[1][2], costs)
    for axis in axes.flat:
        _plain(axis)
    figure.tight_layout()
    _save(figure, path)


def _figure_9(axis: Any) -> None:
    sizes = list(range(16, 129, 4))
    for strategy, color in (("group", COLORS["twinstep"]), ("ring", INK)):
        for lost, style in ((2, "-"), (3, "--")):
            shares = [
                survival(place(n, copies=2, strategy=strategy), lost=lost)
                for n in sizes
            ]
            label = f"{strategy}, {lost} lost"
            axis.plot(sizes, shares, color=color, ls=style, label=label)
    printed = [1 - 2 * (1 - corollary_1(n, copies=2, lost=3)) for n in sizes]
    label = "ring, 3 lost, as printed"
    axis.plot(sizes, printed, color=INK, ls=":", lw=1, label=label)
    axis.set(title="Figure 9: recovery from memory", xlabel="machines")
    axis.legend(frameon=False, fontsize=8)


def _figure_10(axis: Any) -> None:
    write_s = gpt_100b().state_bytes / STORAGE
    bars = {
        "strawman": wasted_s(checkpoint_s=write_s, interval_s=10800, read_s=write_s),
        "highfreq": wasted_s(checkpoint_s=write_s, interval_s=558, read_s=write_s),
        "gemini": wasted_s(checkpoint_s=STEP_S, interval_s=STEP_S, read_s=0),
    }
    printed = {"strawman": 98.0, "highfreq": 23.1, "gemini": 1.55}
    for at, (name, seconds) in enumerate(bars.items()):
        axis.bar(at, seconds / 60, color=COLORS[name])
        axis.plot([at - 0.4, at + 0.4], [printed[name]] * 2, color=INK, ls=":")
        axis.text(at, seconds / 60, f" {seconds / 60:.3g}", ha="center", va="bottom")
    axis.set_xticks(range(len(bars)), list(bars))
    axis.set_yscale("log")
    axis.set(title="Figure 10: wasted time, min (dotted: printed)")


def _figure_11(axis: Any) -> None:
    sizes = range(4, 17, 4)
    for gbps, color in ((100, COLORS["gemini"]), (400, COLORS["twinstep"])):
        times = [n * gbps * 0.85 / 20 for n in sizes]
        axis.plot(sizes, times, marker="o", color=color, label=f"{gbps} Gbps")
    axis.set(title="Figure 11: checkpoint time shorter, times", xlabel="machines")
    axis.legend(frameon=False, fontsize=8)


def _figure_12(axis: Any) -> None:
    often = {
        "strawman": 1 / 3,
        "highfreq": 3600 / (9 * STEP_S),
        "gemini": 3600 / STEP_S,
    }
    for at, (name, per_hour) in enumerate(often.items()):
        axis.bar(at, per_hour, color=COLORS[name])
        axis.text(at, per_hour, f"{per_hour:.3g}", ha="center", va="bottom")
    axis.set_xticks(range(len(often)), list(often))
    axis.set_yscale("log")
    axis.set(title="Figure 12: checkpoints an hour")


def _figure_15(axis: Any, costs: Costs) -> None:
    machines = np.arange(16, 1001, 16)
    per_day = 0.015 * machines
    for name in FIGURE_15:
        ratios = [ratio(name, per_day=float(x)) for x in per_day]
        axis.plot(machines, ratios, color=COLORS[name], label=name)
    ours: list[float] = []
    for count in machines:
        job = dataclasses.replace(
            gpt_100b(), machines=int(count), parameters=100e9 * count / 16
        )
        failures = Failures(process_per_machine_day=0.015)
        policy = MAKERS["twinstep"](job, failures, costs)
        ours.append(forecast(policy, job, failures).goodput)
    color = COLORS["twinstep"]
    axis.plot(machines, ours, color=color, lw=2.4, label=f"twinstep ({costs.source})")
    title = "Figure 15: ratio at 1.5 % of machines a day"
    axis.set(title=title, xlabel="machines", ylim=(0, 1.02))
    axis.legend(frameon=False, fontsize=8)


def _report(axis: Any, costs: Costs) -> None:
    from twinstep.planner.gemini_report import largest_job

    job = largest_job()
    rates = np.geomspace(0.3, 300, POINTS)
    for name in ("strawman", "best interval", "sharded", "gemini", "twinstep"):
        shares: list[float] = []
        for rate in rates:
            failures = Failures(
                process_per_machine_day=float(rate) / job.machines / 2,
                machine_per_machine_day=float(rate) / job.machines / 2,
            )
            policy = MAKERS[name](job, failures, costs)
            shares.append(forecast(policy, job, failures).goodput)
        axis.plot(rates, shares, color=COLORS[name], label=name)
    for share in (BEFORE, 0.97):
        axis.axhline(share, color=INK, lw=0.8, ls=":")
    axis.set_xscale("log")
    axis.set(
        title="Gemini 1.0: 85 % to 97 %, one superpod",
        xlabel="failures a day",
        ylim=(0.5, 1.02),
    )
    axis.legend(frameon=False, fontsize=8, loc="lower left")


def _times(failures: Failures, factor: float) -> Failures:
    return dataclasses.replace(
        failures,
        process_per_machine_day=failures.process_per_machine_day * factor,
        machine_per_machine_day=failures.machine_per_machine_day * factor,
    )


def _grown(job: Job, machines: int) -> Job:
    """As many machines, each with as much state as before."""
    parameters = job.parameters * machines / job.machines
    return dataclasses.replace(job, machines=machines, parameters=parameters)


def _made() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return cast("Any", pyplot)


def _plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(colors=INK, labelsize=9)
    axis.title.set_fontsize(10)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=DPI, bbox_inches="tight", facecolor="white")
    except (OSError, ValueError) as error:
        raise UsageError(f"--png {path} cannot be written: {error}") from error
    finally:
        _made().close(figure)
