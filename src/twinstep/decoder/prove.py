"""The same training twice, undisturbed and injured, ends in the same weights.

Both runs use one run's data and tokenizer, and compile for themselves. In the second, a
rank is killed and then a machine (SIGKILL, from outside, as `twinstep inject` does),
each once a step is reached, every copy exists, and the newest steps are safe. Then the
weights are compared bit by bit, and both ledgers say what it cost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from safetensors.numpy import load_file

from twinstep import inject, jobs
from twinstep.agent.lifeline import tied
from twinstep.agent.record import Recovery
from twinstep.agent.status import Status
from twinstep.clock import monotonic_s
from twinstep.cloud.description import read_job
from twinstep.decoder import weights
from twinstep.decoder.recipe import Recipe
from twinstep.decoder.run import Run, replace_text
from twinstep.decoder.train import ledger_view
from twinstep.decoder.train.ledger import Bar, Summary, summarise
from twinstep.decoder.train.metrics import read as read_metrics
from twinstep.errors import DeadlinePassed, TwinstepError, UsageError

PICTURE = "goodput.png"
SHARED = ("data", "tokenizer.model")
SAFE_BEHIND_MAX = 2
LOOK_S = 0.1
WAIT_S_MAX = 900.0
"""For the next thing that is waited for: a first step, which is compiled, or an end."""
END_S_MAX = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """What is killed once a step is reached: a rank's number, or a machine's name."""

    kind: str
    victim: str
    at_step: int

    def strike(self, status: Status) -> inject.Injury:
        if self.kind == "rank":
            return inject.kill_rank(status, int(self.victim))
        return inject.kill_machine(status, self.victim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run that has ended well."""

    summary: Summary
    bars: list[Bar]
    about: weights.About
    recoveries: list[dict[str, Any]]


class Training:
    """A `twinstep decoder train` in a process of its own, seen from outside."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.log = run.folder / "log"
        command = [sys.executable, "-m", "twinstep", "decoder", "train"]
        command += ["--folder", str(run.folder)]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                tied(command, parent=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._view: jobs.JobView | None = None

    def step(self) -> int:
        lines = read_metrics(self.run.metrics)
        return lines[-1]["step"] if lines else 0

    def status(self) -> Status | None:
        """What the job says of itself; None before it does, and while it cannot."""
        with contextlib.suppress(TwinstepError, OSError):
            view = self._seen()
            return view.status() if view is not None else None
        return None

    def recoveries(self) -> list[Recovery]:
        with contextlib.suppress(TwinstepError, OSError):
            view = self._seen()
            return view.recoveries() if view is not None else []
        return []

    def _seen(self) -> jobs.JobView | None:
        """The job whose launcher is our process."""
        for folder in jobs.list_jobs() if self._view is None else ():
            with contextlib.suppress(OSError, ValueError):
                if read_job(folder).launcher == self._process.pid:
                    self._view = jobs.JobView(folder)
        return self._view

    def wait(self, what: str, ready: Callable[[], bool], *, ends: bool = False) -> None:
        """Returns once it is ready. Raises: DeadlinePassed after WAIT_S_MAX, or when
        the training ends before."""
        until_s = monotonic_s() + WAIT_S_MAX
        while not ready():
            status = self._process.poll()
            if status is not None and not ends:
                how = f"training ended with status {status} before {what}"
            elif monotonic_s() > until_s:
                how = f"{WAIT_S_MAX:g} s are over without {what}"
            else:
                time.sleep(LOOK_S)
                continue
            last = self.log.read_text(errors="replace").splitlines()[-15:]
            raise DeadlinePassed("\n".join([f"{how}; {self.log} ends with:", *last]))

    def wait_end(self) -> None:
        """Raises: TwinstepError when it ends with another status than 0."""
        self.wait("its end", lambda: self._process.poll() is not None, ends=True)
        if self._process.returncode:
            last = self.log.read_text(errors="replace").splitlines()[-15:]
            raise TwinstepError(
                "\n".join([f"training failed; {self.log} ends with:", *last])
            )

    def close(self) -> None:
        """Nothing of it is left: what it started dies with it."""
        if self._view is not None:
            with contextlib.suppress(TwinstepError, OSError):
                self._view.close()
        self._process.terminate()
        try:
            self._process.wait(END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S_MAX)


def train(run: Run, blows: list[Blow], tell: Callable[[str], None]) -> Outcome:
    """Returns the outcome of a training that suffered these blows, in order.

    Raises: DeadlinePassed or TwinstepError saying what did not come."""
    recoveries: list[Recovery] = []
    with closing(Training(run)) as training:
        for number, blow in enumerate(blows, start=1):
            _strike(training, blow, tell)
            training.wait(
                f"recovery {number}", lambda n=number: _recovered(training, n)
            )
            recoveries = training.recoveries()
            last = recoveries[-1]
            tell(
                f"  back at step {last.step} from {last.source}, "
                f"{last.steps_lost} steps lost, "
                f"{last.first_step_s - last.detected_s:.1f} s until the next step"
            )
        training.wait_end()
    bars: list[Bar] = []
    summary = summarise(run.ledger, bars=bars)
    return Outcome(
        summary=summary,
        bars=bars,
        about=weights.about(run.model),
        recoveries=[msgspec.to_builtins(recovery) for recovery in recoveries],
    )


def _strike(training: Training, blow: Blow, tell: Callable[[str], None]) -> None:
    """The blow has fallen. Where its victim is gone just then, one looks again."""
    struck: list[inject.Injury] = []

    def fallen() -> bool:
        status = training.status()
        if status is None or not _may_strike(training, status, blow):
            return False
        with contextlib.suppress(UsageError):
            struck.append(blow.strike(status))
        return bool(struck)

    training.wait(f"step {blow.at_step} with safe copies", fallen)
    injury = struck[0]
    tell(f"  step {training.step()}: {injury.kind} {injury.who} ({injury.detail})")


def _may_strike(training: Training, status: Status, blow: Blow) -> bool:
    before = training.recoveries()
    return (
        training.step() >= blow.at_step
        and status.phase == "training"
        and 0 < status.step - SAFE_BEHIND_MAX <= status.safe
        and (not before or before[-1].redundant_s > 0)
    )


def _recovered(training: Training, number: int) -> bool:
    found = training.recoveries()
    return len(found) >= number and found[-1].done


def prove(
    run: Run,
    recipe: Recipe,
    blows: list[Blow],
    *,
    console: Console,
    json_file: Path | None = None,
    whole: bool = False,
) -> int:
    """Returns 0 when both runs end in the same bits, else 1; RUN/proof has both runs,
    goodput.png and proof.json. With `whole` the run's own training is the undisturbed
    one, and `recipe` must be what it was trained by.

    Raises: UsageError when the data or the tokenizer is missing, or a blow comes after
        the last step."""
    for blow in blows:
        if not 0 < blow.at_step < recipe.train.steps:
            raise UsageError(
                f"a {blow.kind} is to be killed at step {blow.at_step}; steps are 1 to "
                f"{recipe.train.steps - 1}, for the run must go on afterwards"
            )
    run.require_data()
    run.require_tokenizer()
    proof = run.folder / "proof"
    runs = {"undisturbed": run if whole else Run(proof / "undisturbed")}
    outcomes: dict[str, Outcome] = {}
    if whole:
        outcomes["undisturbed"] = _own(run, recipe)
    runs["injured"] = Run(proof / "injured")
    for name, its_blows in (("undisturbed", []), ("injured", blows)):
        if name not in outcomes:
            console.print(f"{name}: {recipe.train.steps} steps", highlight=False)
            ours = _prepared(run, runs[name].folder, recipe)
            outcomes[name] = train(ours, its_blows, lambda text: console.print(text))
    return _verdict(proof, runs, outcomes, console, json_file)


def _own(run: Run, recipe: Recipe) -> Outcome:
    """The run's own training, which was the recipe's and undisturbed.

    Raises: UsageError when it was not."""
    bars: list[Bar] = []
    about = weights.about(run.require_model())
    summary = summarise(run.ledger, bars=bars)
    if (about.step, summary.attempts) != (recipe.train.steps, 1):
        raise UsageError(
            f"{run.folder} was trained in {summary.attempts} attempt(s) to step "
            f"{about.step}; to compare with it, it must be 1 to {recipe.train.steps}: "
            "train it anew, or give --steps, and two runs are made"
        )
    return Outcome(summary=summary, bars=bars, about=about, recoveries=[])


def _verdict(
    proof: Path,
    runs: dict[str, Run],
    outcomes: dict[str, Outcome],
    console: Console,
    json_file: Path | None,
) -> int:
    """Says, draws and writes how the runs compare; 0 where they are the same bits."""
    differing = differing_tensors(*(runs[name].model for name in outcomes))
    digests = {name: each.about.state_digest for name, each in outcomes.items()}
    same = not differing and len(set(digests.values())) == 1
    console.print(ledger_view.table({n: each.summary for n, each in outcomes.items()}))
    ledger_view.draw({n: each.bars for n, each in outcomes.items()}, proof / PICTURE)
    verdict = "identical" if same else f"DIFFERENT: {', '.join(differing[:5])}"
    console.print(
        f"final weights and optimizer, bit by bit: {verdict} "
        f"({', '.join(digests.values())})"
    )
    console.print(f"picture: {proof / PICTURE}")
    record = {
        "bit_identical": same,
        "differing": differing,
        "runs": {
            name: ledger_view.record(each.summary)
            | {"state_digest": digests[name], "recoveries": each.recoveries}
            for name, each in outcomes.items()
        },
    }
    text = msgspec.json.format(msgspec.json.encode(record)).decode()
    for path in (proof / "proof.json", json_file):
        if path is not None:
            replace_text(path, text + "\n")
    return 0 if same else 1


def _prepared(run: Run, folder: Path, recipe: Recipe) -> Run:
    """Returns a run in an empty folder, with the data of another."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    for name in SHARED:
        (folder / name).symlink_to((run.folder / name).absolute())
    made = Run(folder)
    made.keep(dataclasses.replace(recipe, tensorboard=False))
    return made


def differing_tensors(one: Path, other: Path) -> list[str]:
    """Returns the names of weights that are not the same bits in both folders."""
    left, right = (load_file(folder / weights.TENSORS) for folder in (one, other))
    return [
        name
        for name in sorted(left | right)
        if name not in left
        or name not in right
        or left[name].shape != right[name].shape
        or not np.array_equal(left[name].view(np.uint8), right[name].view(np.uint8))
    ]
