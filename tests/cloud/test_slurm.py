"""A real Slurm: runs that lose nodes, and what its operator asks Slurm for."""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.cloud.slurm_nodes import Slurm, needs_slurm
from tests.trial import PRELOAD, WORKLOADS, undisturbed
from twinstep.agent.deadlines import overdue
from twinstep.agent.kv import Delete, KeyValueStore, Put
from twinstep.agent.kv_server import serve
from twinstep.agent.phase import Phase
from twinstep.agent.record import Recovery
from twinstep.agent.roster import Roster
from twinstep.agent.status import Status
from twinstep.cloud import slurm_places as places
from twinstep.cloud.slurm import SlurmOperator, is_bad
from twinstep.cloud_settings import Slurm as Settings
from twinstep.config import Timing, Trust
from twinstep.demo.hosts.network import SWITCH
from twinstep.environment import SlurmPlace
from twinstep.jobs import JobView

pytestmark = needs_slurm
RECIPE = Path(__file__).parents[2] / "recipes/slurm/train.sbatch"
STEPS = "300"
RUN_S_MAX = 60.0


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm(4) as made:
        made.ready()
        yield made


def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=("--steps", STEPS))


class Run:
    """A run of the recipe, with a store that no node of Slurm's keeps."""

    def __init__(self, slurm: Slurm, folder: Path, stack: ExitStack) -> None:
        self.slurm, self.folder = slurm, folder
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        config = folder / "run.toml"
        config.write_text(
            f'{PRELOAD}machines = 2\n[trust]\ntoken_file = "{token}"\n'
            "[slurm]\nlook_s = 0.5\n"
        )
        own = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CONFIG": str(config),
            "TRAIN": f"{WORKLOADS / 'linear.py'} --steps {STEPS}",
            "LOOK_S": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(slurm.folder),
        }
        self.environment = slurm.environment() | own
        address = slurm.network.address(SWITCH)
        command = ["twinstep", "store", "--host", address, "--config", str(config)]
        store = stack.enter_context(
            subprocess.Popen(
                slurm.network.at(SWITCH, command),
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment,
            )
        )
        stack.callback(store.kill)
        assert store.stdout is not None
        found = re.search(r"is at (\S+)", store.stdout.readline())
        assert found is not None
        self.store, self.trust = found.group(1), Trust(token_file=str(token))
        self.view: JobView | None = None

    def submit(self, *options: str) -> str:
        """Returns the Slurm job, once its machines are known."""
        line = ["sbatch", "--parsable", *options, str(RECIPE)]
        done = subprocess.run(
            self.slurm.network.at(SWITCH, line),
            env=self.environment | {"STORE": self.store},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr

        def known() -> JobView | None:
            try:
                return JobView(self.store, trust=self.trust)
            except Exception:
                return None

        with self.slurm.network.entered():
            self.view = self.slurm.until(known, f"the job{self}")
        return done.stdout.strip()

    def training(self, step: int, *, machines: int) -> Status:
        """Returns the status once `step` is safe and so many machines are there."""
        view = self.view
        assert view is not None

        def reached() -> Status | None:
            status = view.status()
            if status is None or status.phase != "training" or status.safe < step:
                return None
            return status if len(status.machines) >= machines else None

        what = f"step {step} on {machines} machines"
        with self.slurm.network.entered():
            return self.slurm.until(reached, f"{what}{self}", timeout_s=RUN_S_MAX)

    def over(self) -> list[Recovery]:
        """Returns what was recovered from, once the run has ended well."""
        view = self.view
        assert view is not None
        with self.slurm.network.entered(), closing(view):
            found = self.slurm.until(view.result, f"the end{self}", timeout_s=RUN_S_MAX)
            assert found.status == 0, f"{found}{self}"
            return view.recoveries()

    def no_jobs(self) -> None:
        """No Slurm job is left."""
        self.slurm.until(
            lambda: not self.slurm.run("squeue", "-h"), f"Slurm jobs to end{self}"
        )

    def digests(self) -> dict[int, str]:
        text = "\n".join(path.read_text() for path in self.folder.glob("*.log"))
        found = re.findall(r"^\[rank (\d+)\] digest (\w+)$", text, re.MULTILINE)
        return {int(rank): digest for rank, digest in found}

    def __str__(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "".join(f"\n--- {p.name}\n{p.read_text()[-3000:]}" for p in logs)


@pytest.fixture
def run(slurm: Slurm, tmp_path: Path) -> Iterator[Run]:
    with ExitStack() as stack:
        made = Run(slurm, tmp_path, stack)
        try:
            yield made
        finally:
            slurm.run("scancel", "--user=root", check=False)
            made.no_jobs()
            if made.view is not None:
                made.view.close()


@pytest.mark.skipif(
    "TWINSTEP_ENGINES" not in os.environ, reason="takes long: make test-engines"
)
def test_a_run_outlives_all_that_it_began_with(slurm: Slurm, run: Run) -> None:
    job = run.submit("--nodes=3")
    run.training(40, machines=3)
    kill_agent("n2")
    # The spare has its place; its node lives, and stands by.
    status = run.training(90, machines=3)
    assert names(status) == {"n1", "n2-2", "n3"}, str(run)
    # The node of the batch script, of `srun`, and of the root.
    slurm.kill("n1")
    # Now one from outside of the job stands by.
    status = run.training(150, machines=3)
    (other,) = names(status) - {"n2-2", "n3"}
    assert other.startswith("n4."), str(run)
    slurm.kill("n3")
    recoveries = run.over()
    for recovery, lost in zip(recoveries, ("n2", "n1", "n3"), strict=True):
        assert recovery.who in (lost, "root"), str(run)  # who is root is its matter
    assert max(r.steps_lost for r in recoveries) <= 3, str(run)
    assert [r.source for r in recoveries] == [
        "memory of n1",
        "memory of n3",
        "memory of n2-2",
    ]
    assert run.digests() == reference(), str(run)
    assert str(run).count("was submitted: n2") == 0, "its node was there"
    run.no_jobs()
    states = slurm.run("squeue", "-h", "--states=all", "-j", job, "-o", "%T")
    assert states == "CANCELLED", "nobody else ends a job without its batch script"
    for node in ("n1", "n3"):
        assert not slurm.state(node)[1].startswith("twinstep"), "a dead node, not bad"
        slurm.start(node)
    slurm.ready()


def names(status: Status) -> set[str]:
    return {machine.machine for machine in status.machines}


def kill_agent(machine: str) -> None:
    """The agent is gone, and its ranks with it; its node lives."""
    of_it = re.compile(rf"twinstep\.cloud\.start \S+ {machine} ")
    found = [pid for pid, command in processes().items() if of_it.search(command)]
    assert len(found) == 1, found
    os.kill(found[0], signal.SIGKILL)


def processes() -> dict[int, str]:
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        found[int(path.parent.name)] = b" ".join(words).decode(errors="replace")
    return found


# The operator alone, in a Slurm job that does nothing.

ADDRESS = "etcd://e1:2379,e2:2379/run"
TELL = "echo store $TWINSTEP_STORE for $SLURM_JOB_ID $TWINSTEP_REPLACES"


@pytest.fixture
def store() -> Iterator[KeyValueStore]:
    with closing(serve()) as server:
        yield server.store


@pytest.fixture
def operator(
    slurm: Slurm, store: KeyValueStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[SlurmOperator]:
    monkeypatch.chdir(tmp_path)
    wrapped = ("--wrap", f"{TELL}; sleep 1000", "--nodelist=n1", "--job-name=run")
    job = slurm.run("sbatch", "--parsable", *wrapped)
    monkeypatch.setenv("SLURM_CONF", str(slurm.config))
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    places.take(store, places.here(), machines=1, standby=False)
    settings = Settings(look_s=0.05, return_s=0.2)
    with slurm.network.entered():
        yield SlurmOperator(
            store, name="run", machine="n1", address=ADDRESS, settings=settings
        )
        slurm.run("scancel", "--user=root")
        slurm.until(lambda: not slurm.run("squeue", "-h"), "no Slurm jobs")


def given(slurm: Slurm, operator: SlurmOperator, request: str) -> str:
    answer = slurm.until(lambda: operator.answer(request), f"an answer to {request}")
    assert answer.machine, answer
    return answer.machine


def test_asking_twice_is_one_slurm_job(
    slurm: Slurm, operator: SlurmOperator, store: KeyValueStore
) -> None:
    assert operator.answer("for-n2") is None
    operator.ask("for-n2", reason="n2 was lost")
    machine = given(slurm, operator, "for-n2")
    node, _, job = machine.partition(".")
    operator.ask("for-n2", reason="n2 was lost")
    out = Path(f"slurm-{job}.out")
    said = f"store {ADDRESS} for {job} 1\n"
    slurm.until(lambda: out.exists() and out.read_text() == said, "its output")
    # A root that died before it had noted the job finds it by its name.
    store.transact([Delete(key=f"{places.REQUESTS}for-n2")])
    operator.ask("for-n2", reason="n2 was lost")
    assert given(slurm, operator, "for-n2") == machine
    assert len(slurm.run("squeue", "-h").splitlines()) == 2
    assert [m.state for m in operator.machines()] == ["living"]
    place = SlurmPlace(
        job=job, node=node, node_id=0, replacement=True, launcher=("", 0)
    )
    assert places.take(store, place, machines=1, standby=False) == (machine, True)
    operator.give_back(machine, reason="silent for 1.5 s: its lease lapsed")
    slurm.until(lambda: operator.machines()[0].state == "ended", "its end")
    assert slurm.state(node)[1] == "none", "a lost lease is not yet a bad node"


def test_a_bad_node_is_drained_with_its_reason_and_not_used_again(
    slurm: Slurm, operator: SlurmOperator, store: KeyValueStore
) -> None:
    place = SlurmPlace(
        job="7", node="n2", node_id=1, replacement=False, launcher=("", 0)
    )
    places.take(store, place, machines=2, standby=False)
    operator.give_back("n2", reason="its ranks died 3 times in 60 s")
    try:
        state, reason = slurm.state("n2")
        assert state in ("drained", "draining")
        assert reason == "twinstep: n2 of run: its ranks died 3 times in 60 s"
        with pytest.raises(Exception, match="n2 is not used by this run any more"):
            places.take(store, place, machines=2, standby=False)
    finally:
        slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
    operator.ask("for-n2", reason="n2 was lost")
    job = given(slurm, operator, "for-n2").partition(".")[2]
    assert "ExcNodeList=n2" in slurm.run("scontrol", "show", "job", job)


def test_a_drain_that_is_refused_is_said(
    operator: SlurmOperator, store: KeyValueStore, caplog: pytest.LogCaptureFixture
) -> None:
    place = SlurmPlace(
        job="7", node="n99", node_id=1, replacement=False, launcher=("", 0)
    )
    places.take(store, place, machines=2, standby=False)
    with caplog.at_level(logging.WARNING):
        operator.give_back("n99", reason="disk full")
    assert "could not be drained" in caplog.text and "Invalid node" in caplog.text
    assert "n99" in places.bad_nodes(store)


def test_who_has_returned_is_taken_before_slurm_is_asked(
    slurm: Slurm, operator: SlurmOperator, store: KeyValueStore
) -> None:
    place = SlurmPlace(
        job="7", node="n2", node_id=1, replacement=False, launcher=("", 0)
    )
    names = [places.take(store, place, machines=2, standby=False) for _ in range(3)]
    assert names == [("n2", False), ("n2-2", True), ("n2-3", True)]
    store.transact([Put(key="live/machines/n2-3", value=b"")])
    operator.ask("for-n2", reason="n2 was lost")
    assert given(slurm, operator, "for-n2") == "n2-3"
    # Not twice; and while Slurm's queue is full, one who returns is as good.
    full = ("--wrap", "sleep 1000", "--nodes=3", "--exclusive")
    job = slurm.run("sbatch", "--parsable", *full)
    state = ("squeue", "-h", "-j", job, "-o", "%T")
    slurm.until(lambda: slurm.run(*state) == "RUNNING", "a full queue")
    operator.ask("for-n3", reason="n3 was lost")
    assert operator.answer("for-n3") is None
    store.transact([Put(key="live/machines/n2-2", value=b"")])
    assert given(slurm, operator, "for-n3") == "n2-2"
    slurm.until(lambda: "for-n3" not in slurm.run("squeue", "-h", "-o", "%j"), "it")


def test_nothing_is_asked_for_a_run_that_was_cancelled(
    slurm: Slurm, operator: SlurmOperator
) -> None:
    operator.ask("for-n2", reason="n2 was lost")
    given(slurm, operator, "for-n2")
    slurm.run("scancel", os.environ["SLURM_JOB_ID"])
    slurm.until(lambda: "|run" not in slurm.run("squeue", "-h", "-o", "%i|%j"), "it")
    operator.ask("for-n3", reason="n3 was lost")
    answer = operator.answer("for-n3")
    assert answer is not None and not answer.machine
    assert "has ended CANCELLED" in answer.reason
    slurm.until(lambda: not slurm.run("squeue", "-h"), "the replacement to end, too")


def test_silence_alone_does_not_make_a_node_bad() -> None:
    roster = Roster(machines=1)
    roster.members = ["n1"]
    late = overdue(Phase.STOPPING, 1e9, roster=roster, answered=(), timing=Timing())
    assert late is not None and late.machine == "n1"
    silent = (late.reason, "silent for 1.5 s: its lease lapsed", "its lease lapsed")
    assert not any(is_bad(reason) for reason in silent)
    assert is_bad("its ranks died 3 times in 60 s") and is_bad("disk full")
