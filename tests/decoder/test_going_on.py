"""A training whose whole job was lost goes on from disk, or says why it does not."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.decoder.tiny_run import make, trained
from tests.store.trees import write_tree
from tests.trial import takes_long
from twinstep import inject
from twinstep.decoder import stages, weights
from twinstep.decoder.prove import Training
from twinstep.decoder.recipe import Recipe, changed
from twinstep.decoder.run import WEIGHTS, Run
from twinstep.decoder.train.ledger import summarise
from twinstep.errors import UsageError
from twinstep.store.contents import folder_name

ARRAYS = {"state['w']": (np.ones((4, 2), np.float32), (1, 1))}


def begun(folder: Path) -> Run:
    """A run whose training has left steps 5 and 9 on disk."""
    run = Run(folder)
    run.keep(Recipe())
    run.begin_training(Recipe())
    for step in (5, 9):
        write_tree(run.steps, ARRAYS, ranks=1, step=step)
    return run


def test_the_newest_whole_step_is_the_one_to_go_on_from(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert run.goes_on(Recipe()) == 9
    # How it is trained may change; what bits depend on may not.
    assert run.goes_on(changed(Recipe(), {"job.machines": 3})) == 9
    for path in sorted((run.steps / folder_name(9)).iterdir())[:1]:
        path.unlink()
    assert run.goes_on(Recipe()) == 5


def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    run = begun(tmp_path)
    other = changed(Recipe(), {"train.learning_rate": 1.0, "model.width": 32})
    with pytest.raises(UsageError, match="step 9 .* settings of model, train.*--anew"):
        stages.train(run, other, stages.Speech())
    for name in ("job.machines", "job.storage_every_s"):
        with pytest.raises(UsageError, match="neither --machines 0 nor"):
            stages.train(run, changed(Recipe(), {name: 0}), stages.Speech())
    assert run.goes_on(Recipe()) == 9


def test_a_training_that_is_over_begins_again(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.model.mkdir()
    (run.model / WEIGHTS).touch()
    assert run.goes_on(Recipe()) == 0
    run.ledger.touch()
    run.begin_training(Recipe())
    left = [run.ledger, run.steps, run.model / WEIGHTS]
    assert not any(path.exists() for path in left)


@takes_long
@pytest.mark.timeout(600)
def test_a_run_that_lost_all_machines_ends_in_the_same_bits(tmp_path: Path) -> None:
    changes = {"train.steps": 60, "job.machines": 2, "job.storage_every_s": 0.1}
    run = make(tmp_path / "run", **changes)
    with closing(Training(run)) as training:
        training.wait("a step on disk", lambda: run.newest_step() >= 10)
        status = training.status()
        assert status is not None
        for machine in status.machines:
            inject.kill_machine(status, machine.machine)
    reached, kept = training.step(), run.newest_step()
    assert 10 <= kept <= reached < 60 and not run.model.exists()
    said = io.StringIO()
    digest = trained(run, stages.Speech(stages.Console(file=said, width=200)))
    assert f"goes on from step {kept}" in said.getvalue()
    summary = summarise(run.ledger)
    assert summary.step == 60 and summary.attempts >= 2
    assert digest == trained(make(tmp_path / "calm", **changes))
    assert weights.about(run.model).step == 60
