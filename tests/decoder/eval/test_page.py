"""One evaluation of the double, from the questions to the picture and the page."""

from __future__ import annotations

import base64
import io
import re
import wave
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tests.decoder.eval import oracle
from tests.decoder.eval.test_baselines import Shelf
from twinstep.decoder.config import TINY
from twinstep.decoder.eval import report
from twinstep.decoder.eval.chosen import shown
from twinstep.decoder.eval.run import Judged, Subject, judge
from twinstep.errors import UsageError

TASKS = (
    "image_digit",
    "speech_image_match",
    "video_direction",
    "translation_text",
    "docstring",
)


def subject(slip: int = 0) -> Subject:
    pieces = oracle.tokenizer()
    sampler = oracle.Oracle(pieces, slip=slip)
    return Subject(name="<double>", sampler=sampler, tokenizer=pieces, config=TINY)


@pytest.fixture(scope="module")
def judged() -> Judged:
    return judge(subject(slip=5), Shelf(), limit=24, tasks=TASKS)


@pytest.fixture(scope="module")
def folder(judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    judged.save(place)
    return place


def test_a_row_has_all_that_its_number_is_held_against(judged: Judged) -> None:
    assert [row.task for row in judged.report.rows] == sorted(
        TASKS, key=[row.task for row in judged.report.rows].index
    )
    row = judged.report.row("video_direction")
    assert row is not None
    assert row.reached.holds(row.reached.value)
    assert row.chance == 0.25
    assert row.baseline == 1.0
    assert row.blind is not None
    assert row.blind_is_guessing
    assert row.shuffled is not None
    assert row.shuffled.value < row.reached.value
    text = judged.report.row("translation_text")
    assert text is not None
    assert text.blind is None
    assert set(text.more or ()) == {"bleu", "exact_match"}


def test_the_report_is_kept(judged: Judged, folder: Path) -> None:
    assert report.load(folder / "eval.json") == judged.report
    short = report.short_of(judged.report, {"image_digit": 0.95})
    assert len(short) == 1, "one slip in five"
    assert "image_digit" in short[0]


def test_the_page_is_whole_in_itself(judged: Judged, folder: Path) -> None:
    page = (folder / "answers.html").read_text()
    sources = re.findall(r'(?:src|href|action)="([^"]*)"', page)
    assert sources
    assert all(s.startswith(("data:", "#")) for s in sources)
    text = re.sub(r"data:[^\"]*", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", text)
    assert "<double>" not in page, "names are escaped"
    assert "&lt;double&gt;" in page
    for row in judged.report.rows:
        assert f'id="{row.task}"' in page
    items = shown(judged.outcomes, judged.continuations)
    wrong = [item for some in items.values() for item in some if item.right is False]
    assert len(wrong) >= 3, "one slip in five, in each of four tasks"
    assert page.count('class="wrong"><div') == len(wrong)


def test_media_on_the_page_are_what_was_asked(folder: Path) -> None:
    page = (folder / "answers.html").read_text()
    found = re.findall(r'"data:([a-z/]+);base64,([^"]+)"', page)
    kinds = {kind: base64.b64decode(content) for kind, content in found}
    assert set(kinds) == {"image/png", "image/gif", "audio/wav"}
    assert Image.open(io.BytesIO(kinds["image/gif"])).n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
    with wave.open(io.BytesIO(kinds["audio/wav"])) as sound:
        assert (sound.getframerate(), sound.getnframes()) == (16_000, 1600)


def test_the_picture_has_a_row_for_each_task(folder: Path, judged: Judged) -> None:
    with Image.open(folder / "answers.png") as picture:
        assert picture.height > 140 * len(judged.report.rows)
        assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 500


def test_a_task_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="swimming.*the store has image_digit"):
        judge(subject(), Shelf(), tasks=["swimming"])


def test_the_table_fits_a_console(judged: Judged) -> None:
    narrow = Console(width=80, file=io.StringIO())
    narrow.print(report.table(judged.report, width=80))
    text = narrow.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in text and all(row.task in text for row in judged.report.rows)
    shown = report.table(replace(judged.report, name="tiny"))
    assert shown.row_count == len(TASKS)
