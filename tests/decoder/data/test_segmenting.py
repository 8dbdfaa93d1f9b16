"""What an example becomes, and that asking is the beginning of what was learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.decoder.data.memory_store import memory_store, of, small_tokenizer
from twinstep.decoder.config import TowerConfig
from twinstep.decoder.data.example import Clip, Said
from twinstep.decoder.data.segmenting import chosen_frames, segments
from twinstep.decoder.model.segments import BOS, EOS, Audio, Image, Segment, Text

TOKENIZER = small_tokenizer()
TOWER = TowerConfig()
STORE = memory_store(Path("/nowhere"))


def ids(found: list[Segment]) -> list[int]:
    return [n for part in found if isinstance(part, Text) for n in part.ids]


def weighted(found: list[Segment]) -> list[str]:
    """The texts that the loss is on."""
    return [
        TOKENIZER.decode(part.ids)
        for part in found
        if isinstance(part, Text) and part.weight
    ]


def test_the_loss_is_on_answers_and_the_end_and_nothing_else() -> None:
    example = of("t", 0, "1+1=", Said("2"), "1+2=", answer="3")
    found = segments(example, TOKENIZER, TOWER)
    assert weighted(found) == ["2", "3"]
    assert ids(found)[0] == BOS
    assert ids(found)[-1] == EOS
    assert ids(found).count(EOS) == 1
    assert TOKENIZER.decode(ids(found)) == "1+1=21+2=3"


def test_a_document_is_all_answer() -> None:
    found = segments(of("t", 0, answer="Some text."), TOKENIZER, TOWER)
    assert weighted(found) == ["Some text."]


@pytest.mark.parametrize("task", STORE.tasks())
def test_a_question_is_the_beginning_of_its_answered_form(task: str) -> None:
    for example in STORE.examples(task, "train"):
        asked = ids(segments(example, TOKENIZER, TOWER, answered=False))
        whole = ids(segments(example, TOKENIZER, TOWER))
        assert whole == [*asked, *TOKENIZER.encode(example.answer), EOS]


def test_no_piece_reaches_over_the_border_of_prompt_and_answer() -> None:
    piece = max((TOKENIZER.decode([n]) for n in range(262, 400)), key=len)
    assert len(TOKENIZER.encode(piece)) == 1
    found = segments(of("t", 0, piece[:2], answer=piece[2:]), TOKENIZER, TOWER)
    assert weighted(found) == [piece[2:]]
    assert len(ids(found)) >= 4


def test_media_stand_where_they_were() -> None:
    example = STORE.examples("spoken", "train")[3]
    found = segments(example, TOKENIZER, TOWER)
    kinds = [type(part) for part in found]
    assert kinds == [Text, Audio, Image, Text, Audio, Text]
    first = found[1]
    assert isinstance(first, Audio)
    assert first.frames.shape[1] == TOWER.mel


def test_a_clip_is_time_stamps_and_frames() -> None:
    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 8, 8, 1), np.uint8
    )
    found = segments(of("t", 0, Clip(pixels, 0.25), answer="x"), TOKENIZER, TOWER)
    frames = [part for part in found if isinstance(part, Image)]
    shown = [int(frame.pixels[0, 0, 0]) for frame in frames]
    assert len(shown) == 16
    assert (shown[0], shown[-1]) == (0, 39)
    gaps = np.diff(shown)
    assert gaps.max() - gaps.min() <= 1
    stamps = TOKENIZER.decode(ids(found)[:-1]).removesuffix("x").split()
    assert stamps[:3] == ["0s", f"{shown[1] / 4:g}s", f"{shown[2] / 4:g}s"]
    assert stamps[-1] == "9.75s"


def test_few_frames_are_all_shown() -> None:
    assert chosen_frames(1) == [0]
    assert chosen_frames(16) == list(range(16))


def test_features_that_are_kept_are_used() -> None:
    kept = Audio(np.zeros((5, TOWER.mel), np.float16))
    example = STORE.examples("spoken", "train")[0]
    found = segments(example, TOKENIZER, TOWER, features=lambda _: kept)
    assert [part for part in found if isinstance(part, Audio)] == [kept, kept]
