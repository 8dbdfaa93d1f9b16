"""RUN/answers.html: the results and sampled answers, to look at and to listen to.

One file that needs nothing else and loads nothing: pictures, animated clips and sounds
are inside of it as data.
"""

from __future__ import annotations

import base64
import html
import io
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from twinstep.decoder.data.example import Clip, Part, Picture, Said, Sound
from twinstep.decoder.eval.chosen import Shown
from twinstep.decoder.eval.report import COLUMNS, THRESHOLDS, Report, Row, cells
from twinstep.decoder.eval.style import STYLE

RATE = 16_000


def write(report: Report, items: Mapping[str, Sequence[Shown]], path: Path) -> None:
    """Writes the page."""
    path.write_text(page(report, items), encoding="utf-8")


def page(report: Report, items: Mapping[str, Sequence[Shown]]) -> str:
    """Returns the page: the table, then the answers task by task."""
    name = html.escape(report.name)
    sections = "".join(
        _section(row, items[row.task]) for row in report.rows if items.get(row.task)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: answers</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{name}</h1>
<p class="note">On what it has not seen. Intervals are Wilson's, 95 %, or of a bootstrap
over items. Blind is the same model with black pictures and silence. Below are the first
three items of each task and the first that went wrong. Evaluated in
{report.seconds:.0f} s.</p>
{_table(report)}
{sections}
</main>
</body>
</html>
"""


def _table(report: Report) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in COLUMNS)
    body = "".join(_line(row) for row in report.rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _line(row: Row) -> str:
    texts = [html.escape(cell) for cell in cells(row)]
    texts[0] = f'<a href="#{texts[0]}">{texts[0]}</a>'
    reached = ""
    if row.task in THRESHOLDS:
        reached = "right" if row.reached.value >= THRESHOLDS[row.task] else "wrong"
    kinds = {4: f"reached {reached}", 8: "" if row.blind_is_guessing else "wrong"}
    texts[5] += _bar(row)
    line = "".join(
        f'<td class="{kinds.get(place, "")}">{text}</td>'
        for place, text in enumerate(texts)
    )
    return f"<tr>{line}</tr>"


def _bar(row: Row) -> str:
    """The interval, chance and the baseline on one line from 0 to 1."""
    if row.metric not in ("exact_match", "acc"):
        return ""
    marks = [(row.chance, "chance"), (row.baseline, "baseline")]
    ticks = "".join(
        f'<i class="{kind}" style="left:{100 * value:.1f}%"></i>'
        for value, kind in marks
        if value is not None
    )
    span = max(1.0, 100 * (row.reached.high - row.reached.low))
    left = min(100 * row.reached.low, 100 - span)
    return (
        f'<span class="bar"><b style="left:{left:.1f}%;width:{span:.1f}%"></b>'
        f"{ticks}</span>"
    )


def _section(row: Row, items: Sequence[Shown]) -> str:
    cards = "".join(_card(item) for item in items)
    value = (
        f"{row.reached.value:.1f}"
        if row.metric == "chrf"
        else f"{row.reached.value:.3f}"
    )
    return (
        f'<section id="{row.task}"><h2>{row.task} <span>{value} '
        f"{row.metric.replace('_', ' ')} · {html.escape(row.family)}</span></h2>"
        f'<div class="cards">{cards}</div></section>'
    )


def _card(item: Shown) -> str:
    asked = "".join(_part(part) for part in item.parts)
    if item.right is None:
        return (
            f'<article class="wide"><pre>{asked}<mark>{html.escape(item.answer)}'
            f"</mark></pre><p class=truth>it went on: {html.escape(item.truth)}</p>"
            "</article>"
        )
    kind = "right" if item.right else "wrong"
    truth = "" if item.right else f"<p class=truth>right: {html.escape(item.truth)}</p>"
    answer = html.escape(item.answer) or "(nothing)"
    return (
        f'<article class="{kind}"><div class="asked">{asked}</div>'
        f'<p class="answer">{answer}</p>{truth}</article>'
    )


def _part(part: Part) -> str:
    match part:
        case str():
            return f"<span>{html.escape(part)}</span>"
        case Said(text=text):
            return f"<span class=said>{html.escape(text)}</span>"
        case Picture(pixels=pixels):
            return f'<img alt="picture" src="{_png(pixels)}">'
        case Clip(pixels=pixels, seconds_per_frame=seconds):
            return f'<img alt="clip" src="{_gif(pixels, seconds)}">'
        case Sound(samples=samples):
            return f'<audio controls preload="metadata" src="{_wav(samples)}"></audio>'


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    return _saved([Image.fromarray(pixels[..., 0])], "png")


def _gif(pixels: np.ndarray, seconds: float) -> str:
    from PIL import Image

    frames = [Image.fromarray(frame[..., 0]) for frame in pixels]
    return _saved(frames, "gif", duration=round(1000 * seconds), loop=0)


def _saved(frames: Sequence[object], kind: str, **settings: object) -> str:
    written = io.BytesIO()
    first, *rest = frames
    if rest:
        settings |= {"save_all": True, "append_images": rest}
    first.save(written, kind.upper(), **settings)  # pyright: ignore[reportAttributeAccessIssue]
    return _data(f"image/{kind}", written.getvalue())


def _wav(samples: np.ndarray) -> str:
    written = io.BytesIO()
    with wave.open(written, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return _data("audio/wav", written.getvalue())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
