"""A rank and a machine are killed, and the weights end in the same bits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from safetensors.numpy import save_file

from tests.decoder.tiny_run import make
from tests.trial import takes_long
from twinstep.decoder.answering import Question, answer
from twinstep.decoder.prove import Blow, differing_tensors, prove
from twinstep.decoder.recipe import Recipe, changed
from twinstep.decoder.run import Run
from twinstep.decoder.weights import TENSORS
from twinstep.errors import UsageError

LONG = {
    "data.amount": 0.05,
    "train.steps": 400,
    "train.shape.tokens": 128,
    "job.machines": 2,
}
"""Steps of some 20 ms: enough of them are left when the first blow was found out."""
RANK = Blow(kind="rank", victim="1", at_step=20)
MACHINE = Blow(kind="machine", victim="0", at_step=150)


@takes_long
@pytest.mark.timeout(900)
def test_an_injured_run_ends_in_the_bits_of_an_undisturbed_one(tmp_path: Path) -> None:
    run = make(tmp_path / "run", **LONG)
    recipe = changed(run.recipe(), {"job.standbys": 1})
    screen = Console(file=io.StringIO(), width=120)
    status = prove(run, recipe, [RANK, MACHINE], console=screen)
    proof = run.folder / "proof"
    assert status == 0, screen.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    record = json.loads((proof / "proof.json").read_text())
    calm, injured = record["runs"]["undisturbed"], record["runs"]["injured"]
    assert record["bit_identical"] and calm["step"] == injured["step"] == 400
    assert (calm["attempts"], injured["attempts"]) == (1, 3)
    kinds = [each["kind"] for each in injured["recoveries"]]
    assert kinds in (["rank", "machine"], ["rank", "root"])
    assert "recover" in injured["badput_s"] and "recover" not in calm["badput_s"]
    assert (proof / "goodput.png").read_bytes().startswith(b"\x89PNG")

    trained = Run(proof / "injured")
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    question = Question(text="digit?", images=[tmp_path / "white.png"])
    assert answer(trained, question, tokens_max=4) == answer(
        Run(proof / "undisturbed"), question, tokens_max=4
    )


def test_a_blow_after_the_end_is_refused(tmp_path: Path) -> None:
    late = changed(Recipe(), {"train.steps": 8, "train.warm_up": 1})
    with pytest.raises(UsageError, match="steps are 1 to 7"):
        prove(Run(tmp_path), late, [RANK], console=Console(file=io.StringIO()))


def test_one_bit_is_a_difference(tmp_path: Path) -> None:
    one = {"a": np.zeros(3, np.float32), "b": np.ones(2, np.float32)}
    folders = [tmp_path / name for name in ("one", "same", "other", "less")]
    other = {"a": -one["a"], "b": one["b"]}  # minus zero equals zero, and is not it
    for folder, tensors in zip(
        folders, (one, one, other, {"a": one["a"]}), strict=True
    ):
        folder.mkdir()
        save_file(tensors, folder / TENSORS)
    assert differing_tensors(folders[0], folders[1]) == []
    assert differing_tensors(folders[0], folders[2]) == ["a"]
    assert differing_tensors(folders[0], folders[3]) == ["b"]
