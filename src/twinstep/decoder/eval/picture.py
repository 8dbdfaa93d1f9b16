"""RUN/answers.png: what was asked and what was answered, at one look.

image_digit    [pixels]  digit?   [pixels] ...
0.971          three              seven, not nine
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from twinstep.decoder.data.example import Clip, Part, Picture, Said, Sound
from twinstep.decoder.eval.chosen import Shown, words_of
from twinstep.decoder.eval.report import Report, Row
from twinstep.decoder.model.audio import log_mel

RIGHT, WRONG, INK, PALE, PAPER = "#1a7f4b", "#c0392b", "#22262e", "#737b88", "#ffffff"
RULE = "#e4e7ec"
COLUMNS = 4
WIDTH_IN, HEAD_IN = 14.0, 0.95
MEDIA_IN, TEXT_IN, DOCUMENT_IN = 1.32, 0.86, 1.12
"""Heights of a row, by what its task shows."""
DOTS_PER_INCH = 110
STRIP = 6
"""Frames of a clip that are drawn, from the first to the last."""
LINES: dict[str, Any] = {"va": "top", "linespacing": 1.25}
LABEL = 0.175
"""Share of the width that the tasks' names take."""


def draw(report: Report, items: Mapping[str, Sequence[Shown]], path: Path) -> None:
    """Writes the picture, one row for each task that has items to show."""
    rows = [row for row in report.rows if items.get(row.task)]
    heights = [_height_in(items[row.task][0]) for row in rows]
    height = HEAD_IN + sum(heights) + 0.1
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    _heading(figure, report, height)
    down_in = HEAD_IN
    for row, row_in in zip(rows, heights, strict=True):
        top = 1 - down_in / height
        down_in += row_in
        _label(figure, row, top, MEDIA_IN / height)
        for column, item in enumerate(items[row.task][:COLUMNS]):
            width = (1 - LABEL) / COLUMNS
            left = LABEL + column * width
            _cell(figure, item, (left, top, width - 0.02, MEDIA_IN / height))
    figure.savefig(path)


def _height_in(item: Shown) -> float:
    if item.right is None:
        return DOCUMENT_IN
    return TEXT_IN if all(isinstance(p, str | Said) for p in item.parts) else MEDIA_IN


def _heading(figure: Figure, report: Report, height: float) -> None:
    def say(x: float, down_in: float, text: str, **style: Any) -> None:
        figure.text(x, 1 - down_in / height, text, va="center", **style)

    say(0.015, 0.34, report.name, size=17, weight="bold", color=INK)
    note = "what it answers to what it has not seen: the first three, and the first "
    say(0.015, 0.66, note + "that went wrong", size=9.5, color=PALE)
    say(0.76, 0.5, "right", size=10, weight="bold", color=RIGHT)
    say(0.80, 0.5, "wrong", size=10, weight="bold", color=WRONG)
    say(0.85, 0.5, "and what is right", size=9.5, color=INK)


def _label(figure: Figure, row: Row, top: float, height: float) -> None:
    figure.add_artist(Line2D((0.015, 0.985), (top, top), color=RULE, linewidth=1))
    reached = (
        f"{row.reached.value:.1f}"
        if row.metric == "chrf"
        else f"{row.reached.value:.3f}"
    )
    for down, text, style in (
        (0.17, row.task, {"size": 11, "weight": "bold", "color": INK}),
        (
            0.38,
            f"{reached}  {row.metric.replace('_', ' ')}",
            {"size": 9.5, "color": INK},
        ),
        (0.54, row.family, {"size": 7.5, "color": PALE}),
    ):
        style: dict[str, Any] = {"va": "center", **style}
        figure.text(0.015, top - down * height, text, **style)


def _cell(
    figure: Figure, item: Shown, place: tuple[float, float, float, float]
) -> None:
    left, top, width, height = place
    media = [part for part in item.parts if isinstance(part, Picture | Clip | Sound)]
    if item.right is None:
        _document(figure, item, place)
        return
    words = words_of(item.parts)
    if media:
        _media(figure, media, (left, top - 0.62 * height, width, 0.52 * height))
        asked, down = textwrap.shorten(words, 46, placeholder=" ..."), 0.66
    else:
        asked, down = _wrapped(words, 42, 5), 0.10
    figure.text(left, top - down * height, asked, size=8, color=PALE, **LINES)
    down += 0.115 * (asked.count("\n") + 1) + 0.01
    answer = _plain(
        textwrap.shorten(item.answer or "(nothing)", 34, placeholder=" ...")
    )
    color = RIGHT if item.right else WRONG
    figure.text(
        left, top - down * height, answer, size=10, weight="bold", color=color, va="top"
    )
    if not item.right:
        truth = _plain(textwrap.shorten(item.truth, 34, placeholder=" ..."))
        if media:
            down = 0.66
        elif len(answer) + len(truth) > 30:
            down += 0.13
        figure.text(
            left + 0.98 * width, top - down * height, truth, size=8.5, color=INK,
            va="top", ha="right",
        )  # fmt: skip


def _document(
    figure: Figure, item: Shown, place: tuple[float, float, float, float]
) -> None:
    left, top, _, height = place
    style: dict[str, Any] = {
        "size": 7,
        "va": "top",
        "family": "monospace",
        "linespacing": 1.2,
    }
    given = _wrapped(words_of(item.parts), 40, 4)
    figure.text(left, top - 0.08 * height, given, color=PALE, **style)
    written = _wrapped(item.answer or "(nothing)", 40, 4)
    figure.text(left, top - 0.52 * height, written, color=INK, **style)


def _media(
    figure: Figure,
    media: Sequence[Part],
    place: tuple[float, float, float, float],
) -> None:
    """Pictures, spectrograms and strips of frames beside one another, all as high as
    the place and no wider than it."""
    left, bottom, width, height = place
    top = bottom + height
    size = figure.get_size_inches()
    shapes = [_pixels(part) for part in media]
    ratios = [pixels.shape[1] / pixels.shape[0] for pixels in shapes]
    ratios = [
        min(r, 3.0) if isinstance(p, Sound) else r
        for p, r in zip(media, ratios, strict=True)
    ]
    gap = 0.006
    unit = height * size[1] / size[0]
    scale = min(1.0, (width - gap * (len(media) - 1)) / (unit * sum(ratios)))
    for part, pixels, ratio in zip(media, shapes, ratios, strict=True):
        axes = figure.add_axes(
            (left, top - height * scale, unit * ratio * scale, height * scale)
        )
        if isinstance(part, Sound):
            axes.imshow(pixels, origin="lower", aspect="auto", cmap="magma")
        else:
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
        _bare(axes)
        left += unit * ratio * scale + gap


def _pixels(part: Part) -> np.ndarray:
    """What is drawn: pixels, a strip of frames, a spectrogram."""
    match part:
        case Picture(pixels=pixels):
            return pixels[..., 0]
        case Clip(pixels=pixels):
            frames = pixels[
                np.linspace(0, len(pixels) - 1, min(STRIP, len(pixels))).astype(int)
            ]
            bordered = np.pad(
                frames[..., 0], ((0, 0), (0, 0), (0, 1)), constant_values=90
            )
            return np.concatenate(list(bordered), axis=1)[:, :-1]
        case Sound(samples=samples):
            return log_mel(samples).astype(np.float32).T
        case _:
            raise AssertionError(part)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _wrapped(text: str, width: int, lines: int) -> str:
    wrapped = [
        piece
        for line in text.expandtabs(4).splitlines()
        for piece in (textwrap.wrap(line, width, drop_whitespace=False) or [""])
    ]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 4] + " ..."]
    return _plain("\n".join(wrapped))


def _plain(text: str) -> str:
    """A dollar would begin mathematics, and control letters have no shape."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{WHITE SQUARE}" for c in text
    )
    return shown.replace("$", r"\$")
