"""lm-eval asks a double of known answers; what it reports is known too."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tests.decoder.eval import oracle
from twinstep.decoder.config import TowerConfig
from twinstep.decoder.eval.blind import blank, shuffled
from twinstep.decoder.eval.items import BY_NAME, TASKS, marked, parts_of
from twinstep.decoder.eval.measure import (
    FOLDER,
    Outcome,
    measure,
    outcomes,
    quiet,
    task_manager,
)
from twinstep.decoder.eval.model import DecoderLM
from twinstep.decoder.model.segments import Segment, Text
from twinstep.errors import UsageError

TOWER = TowerConfig()
MEDIA = ("image_digit", "spoken_digit", "speech_image_match", "video_direction")
ALL = (*MEDIA, "addition", "translation_text", "docstring")


@pytest.fixture(scope="module")
def pieces() -> oracle.Tokenizer:
    return oracle.tokenizer()


def test_known_answers_give_known_metrics(pieces: oracle.Tokenizer) -> None:
    model = DecoderLM(oracle.Oracle(pieces), pieces, TOWER, length_max=64)
    found = measure(model, ALL, examples=oracle.examples, limit=12)
    assert list(found) == list(ALL)
    for task in (*MEDIA, "addition"):
        assert found[task].metrics[BY_NAME[task].metric] == 1.0, task
        assert len(found[task].items) == 12
        assert all(i.answer == i.example.answer for i in found[task].items), task
    assert found["translation_text"].metrics["chrf"] == pytest.approx(100)
    texts = [example.answer for example in oracle.examples("docstring", 12)]
    tokens = sum(len(pieces.encode(text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    bits = 0.5 * tokens / math.log(2) / size
    assert found["docstring"].metrics["bits_per_byte"] == pytest.approx(bits)


def test_lm_evals_own_entry_gives_the_same(pieces: oracle.Tokenizer) -> None:
    from lm_eval.evaluator import simple_evaluate

    tasks = ("image_digit", "video_direction")
    model = DecoderLM(oracle.Oracle(pieces, slip=4), pieces, TOWER, length_max=64)
    with quiet():
        results = simple_evaluate(
            model,
            tasks=[f"twinstep_{task}" for task in tasks],
            task_manager=task_manager(oracle.examples, limit=8),
            bootstrap_iters=0,
            torch_random_seed=None,
        )
    found = outcomes(results)
    again = DecoderLM(oracle.Oracle(pieces, slip=4), pieces, TOWER, length_max=64)
    same = measure(again, tasks, examples=oracle.examples, limit=8)
    assert _numbers(found) == _numbers(same)
    assert found["image_digit"].metrics["exact_match"] == 0.75


def test_a_model_that_looks_falls_to_chance_without_media(
    pieces: oracle.Tokenizer,
) -> None:
    sampler = oracle.Oracle(pieces)
    blind = DecoderLM(sampler, pieces, TOWER, length_max=64, see=blank)
    found = measure(blind, MEDIA, examples=oracle.examples, limit=24)
    shares = {task: o.metrics[o.task.metric] for task, o in found.items()}
    # Of six digits one is nearest to black, and to silence; a side is one of four.
    assert shares["image_digit"] == shares["spoken_digit"] == pytest.approx(1 / 6)
    assert shares["video_direction"] == pytest.approx(1 / 4)
    assert shares["speech_image_match"] == pytest.approx(1 / 2)
    assert len({item.answer for item in found["image_digit"].items}) == 1


def test_a_clip_out_of_order_has_the_same_frames_and_another_motion(
    pieces: oracle.Tokenizer,
) -> None:
    clip = oracle.clip(1)
    other = shuffled(clip)
    assert sorted(f.tobytes() for f in other.pixels) == sorted(
        f.tobytes() for f in clip.pixels
    )
    assert not np.array_equal(other.pixels, clip.pixels)
    assert np.array_equal(other.pixels, shuffled(clip).pixels)
    assert shuffled(oracle.picture(2)).pixels.max() == oracle.picture(2).pixels.max()
    for part in (clip, oracle.picture(2)):
        assert blank(part).pixels.shape == part.pixels.shape
        assert not blank(part).pixels.any()
    assert not blank(oracle.sound(3)).samples.any()


def test_requests_go_out_by_length_and_come_back_in_order(
    pieces: oracle.Tokenizer,
) -> None:
    """Alone or among others, with small batches or large: the same numbers."""
    lengths: list[list[int]] = []

    class Watched(oracle.Oracle):
        def score(self, examples: list[list[Segment]], /) -> list[oracle.Scored]:
            lengths.append([_length(row) for row in examples])
            return super().score(examples)

    def run(batch: int) -> dict[str, Outcome]:
        model = DecoderLM(Watched(pieces), pieces, TOWER, length_max=16, batch=batch)
        return measure(model, ["docstring"], examples=oracle.examples, limit=9)

    assert _numbers(run(1)) == _numbers(run(4)) == _numbers(run(256))
    sent = [length for batch in lengths[-1:] for length in batch]
    assert len(sent) > 9, "documents longer than a row become windows"
    assert sent == sorted(sent, reverse=True)
    assert max(sent) <= 16


def test_prompts_come_back_part_by_part() -> None:
    parts = ("Is ", oracle.sound(1), oracle.picture(2), " or ", oracle.clip(0))
    assert parts_of(*marked(parts)) == parts
    assert parts_of("a <image> in code") == ("a <image> in code",)
    assert parts_of("") == ()
    with pytest.raises(UsageError, match="2 times <image> and 1"):
        parts_of("<image><image>", [oracle.picture(0)])


def test_a_prompt_longer_than_a_row_is_refused(pieces: oracle.Tokenizer) -> None:
    model = DecoderLM(oracle.Oracle(pieces), pieces, TOWER, length_max=4)
    with pytest.raises(UsageError, match="rows hold 4"):
        measure(model, ["addition"], examples=oracle.examples, limit=2)


def test_each_task_has_its_file_and_lm_eval_needs_no_network() -> None:
    names = {path.stem for path in Path(FOLDER).glob("*.yaml")}
    assert names == {task.name for task in TASKS}
    index = task_manager(oracle.examples, limit=1).task_index
    for task in TASKS:
        config = index[f"twinstep_{task.name}"].cfg or {}
        assert ("doc_to_image" in config) == task.sees
        assert ("doc_to_audio" in config) == task.hears
        assert {"acc": "multiple_choice", "bits_per_byte": "loglikelihood_rolling"}.get(
            task.metric, "generate_until"
        ) == config["output_type"]


def _numbers(found: dict[str, Outcome]) -> dict[str, list[float]]:
    return {task: [item.score for item in o.items] for task, o in found.items()}


def _length(row: list[Segment]) -> int:
    return sum(len(s.ids) for s in row if isinstance(s, Text))
