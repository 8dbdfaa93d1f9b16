"""A loop that is killed and goes on ends in the bits of one that was not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from tests.decoder.train.double import CONFIG, SPEC, TRAIN, Batches, loss
from twinstep.decoder.train.initial import initial_state
from twinstep.decoder.train.ledger import Ledger, summarise
from twinstep.decoder.train.loop import Controls, train
from twinstep.decoder.train.metrics import Metrics, read
from twinstep.decoder.train.step import make_step


@pytest.fixture(scope="module")
def step() -> Any:
    return make_step(CONFIG, TRAIN, loss=loss, spec=SPEC)


class Killed(Exception):
    pass


@dataclass
class Memory:
    """A session that outlives its loop, and whose copies lag a step behind."""

    copies: dict[int, Any] = field(default_factory=dict)
    kill_at: int = -1

    def restore(self, *, like: Any) -> tuple[Any, int]:
        newest = max(self.copies, default=0) - 1
        if newest not in self.copies:
            return like, 0
        return jax.tree.map(jax.numpy.asarray, self.copies[newest]), newest

    def after_step(self, step: int, state: Any) -> None:
        self.copies[step] = jax.tree.map(np.array, state)
        if step == self.kill_at:
            self.kill_at = -1
            raise Killed

    def statistics(self) -> Any:
        return SimpleNamespace(captured=len(self.copies))


def attempt(step: Any, folder: Path, memory: Memory, **changes: Any) -> Any:
    ledger = Ledger(folder / "ledger.jsonl")
    metrics = Metrics(
        folder / "metrics.jsonl",
        steps=TRAIN.steps,
        tensorboard=folder / "board",
        console=Console(file=(folder / "out").open("a"), width=200),
    )
    parts: dict[str, Any] = {"source": Batches(), "hooks": ()} | changes
    controls = Controls(
        step=step,
        steps=TRAIN.steps,
        session=memory,
        ledger=ledger,
        metrics=metrics,
        **parts,
    )
    try:
        state = train(initial_state(CONFIG, TRAIN, spec=SPEC), controls)
        ledger.end()
        return state
    finally:
        metrics.close()
        ledger.leave()
        controls.metrics._console.file.close()  # pyright: ignore[reportPrivateUsage, reportOptionalMemberAccess]


def bits(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def test_a_killed_run_ends_in_the_bits_of_a_calm_one(step: Any, tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "killed").mkdir()
    calm = attempt(step, tmp_path / "calm", Memory())
    memory = Memory()
    for at in (5, 17):
        memory.kill_at = at
        with pytest.raises(Killed):
            attempt(step, tmp_path / "killed", memory)
    killed = attempt(step, tmp_path / "killed", memory)
    assert bits(killed) == bits(calm)

    lines = [read(tmp_path / name / "metrics.jsonl") for name in ("calm", "killed")]
    assert [line["step"] for line in lines[1]] == list(range(1, TRAIN.steps + 1))
    for mine, other in zip(*lines, strict=True):
        assert mine["loss"] == other["loss"] and mine["lr"] == other["lr"]
    summary = summarise(tmp_path / "killed" / "ledger.jsonl")
    assert (summary.attempts, summary.step) == (3, TRAIN.steps)
    assert summary.steps_replayed == 2, "a step is lost with each kill"
    assert {"recover", "replay", "compile"} <= set(summary.badput_s)
    assert "replay" not in summarise(tmp_path / "calm" / "ledger.jsonl").badput_s
    assert f"step {TRAIN.steps}/{TRAIN.steps}" in (tmp_path / "killed/out").read_text()
    assert list((tmp_path / "killed" / "board").iterdir())


def test_a_step_without_an_update_is_reported(step: Any, tmp_path: Path) -> None:
    attempt(step, tmp_path, Memory(), source=Batches(poison=7))
    lines = read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if not line["finite"]] == [8]
    assert summarise(tmp_path / "ledger.jsonl").badput_s["skipped"] > 0


def test_a_hook_sees_each_step_and_its_time_is_its_own(
    step: Any, tmp_path: Path
) -> None:
    seen: list[int] = []

    def hook(number: int, state: Any, ledger: Ledger) -> None:
        assert int(state["step"]) == number
        with ledger.event("eval"):
            seen.append(number)

    attempt(step, tmp_path, Memory(), hooks=(hook,))
    assert seen == list(range(1, TRAIN.steps + 1))
    assert "eval" in summarise(tmp_path / "ledger.jsonl").badput_s


def test_a_batch_that_cannot_be_made_ends_the_loop(step: Any, tmp_path: Path) -> None:
    with pytest.raises(IndexError):
        attempt(step, tmp_path, Memory(), source=Batches(steps=3))
    assert len(read(tmp_path / "metrics.jsonl")) == 3


def test_lines_that_a_kill_has_torn_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    metrics = Metrics(path, steps=3)
    metrics.begin(1)
    metrics.add(2, {"loss": 1.5})
    assert not metrics.is_due(3), "nobody watches"
    metrics.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2] and lines[1]["loss"] == 1.5
