"""Draws the demo's picture: loss curves with the failures, and what recovery took.

Left, for each style, the loss of both runs: the injured run lies on the undisturbed
one to the bit, so it is drawn as dots on a line. Right, a bar a failure, its parts the
phases of recovery in their order, in seconds since the blow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from twinstep.demo.record import Failure
from twinstep.demo.show import NAMES
from twinstep.demo.trial import Run

INK, PALE, RED = "#22303c", "#9fb3c8", "#d64545"
DOT = "#0b7285"
PHASES = (
    ("detected", "noticed", "#d64545"),
    ("decided", "machine found, step chosen", "#f0b429"),
    ("ranks up", "ranks started", "#829ab1"),
    ("loaded", "state loaded", "#0b7285"),
    ("first step", "first new step made", "#63b3a4"),
)
DPI = 150


def draw(pairs: Sequence[tuple[Run, Run]], path: Path) -> None:
    """The file is a PNG of the runs: pairs of an undisturbed and an injured one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = cast("Any", pyplot).figure(figsize=(13, 3.6 * max(2, len(pairs))))
    grid = figure.add_gridspec(
        len(pairs), 2, width_ratios=(1.15, 1), hspace=0.42, wspace=0.58
    )
    for index, (calm, injured) in enumerate(pairs):
        _losses(figure.add_subplot(grid[index, 0]), calm, injured)
    _bars(
        figure.add_subplot(grid[:, 1]),
        [failure for _, injured in pairs for failure in injured.failures],
    )
    figure.savefig(path, dpi=DPI, bbox_inches="tight", facecolor="white")
    pyplot.close(figure)


def _plain(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9)


def _losses(axes: Any, calm: Run, injured: Run) -> None:
    _plain(axes)
    axes.plot(
        [each.step for each in calm.losses],
        [each.loss for each in calm.losses],
        color=PALE,
        linewidth=4,
        label="undisturbed",
    )
    axes.plot(
        [each.step for each in injured.losses],
        [each.loss for each in injured.losses],
        ".",
        color=DOT,
        markersize=3.5,
        label="injured",
    )
    top = max(each.loss for each in calm.losses)
    for failure in injured.failures:
        axes.axvline(failure.at_step, color=RED, linewidth=0.9, alpha=0.7, zorder=0)
        axes.annotate(
            failure.kind,
            (failure.at_step, top),
            xytext=(3, 0),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=7.5,
            color=RED,
        )
    name = NAMES.get(calm.style, calm.style)
    same = "the same bits" if calm.digests == injured.digests else "OTHER BITS"
    axes.set_title(
        f"{name}: both runs end in {same}", loc="left", fontsize=11, color=INK
    )
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel("mean loss", color=INK)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")


def _bars(axes: Any, failures: Sequence[Failure]) -> None:
    _plain(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for place, failure in enumerate(failures):
        reached_s = 0.0
        for moment, _, color in PHASES:
            end_s = max(reached_s, failure.moments.get(moment, reached_s))
            axes.barh(
                place, end_s - reached_s, left=reached_s, height=0.62, color=color
            )
            reached_s = end_s
        lost = f"{failure.steps_lost} step" + ("s" if failure.steps_lost != 1 else "")
        axes.annotate(
            f" {reached_s:.1f} s, {lost} lost",
            (reached_s, place),
            va="center",
            fontsize=8.5,
            color=INK,
        )
    names = [f"{NAMES.get(f.style, f.style)}: {f.what}" for f in failures]
    axes.set_yticks(range(len(failures)), names, fontsize=9)
    axes.invert_yaxis()
    longest_s = max((failure.resumed_s for failure in failures), default=1.0)
    axes.set_xlim(0, 1.28 * longest_s)
    axes.set_xlabel("seconds since the blow", color=INK)
    axes.set_title("Recovery, phase by phase", loc="left", fontsize=11, color=INK)
    handles = [
        axes.barh(0, 0, color=color, label=label).patches[0]
        for _, label, color in PHASES
    ]
    axes.legend(
        handles=handles,
        labels=[label for _, label, _ in PHASES],
        frameon=False,
        fontsize=8.5,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.07),
        ncol=3,
    )
