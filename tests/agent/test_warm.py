"""Ranks that are forked or started: what scripts see, and that nobody is left over.

Real processes, no sleeps: every wait is on a descriptor, with a deadline.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest

from tests.agent.processes import is_gone
from twinstep.agent.ranks import PlainRanks, RankEvent, Ranks, WarmGone, WarmRanks
from twinstep.agent.warm import Exited, Fork, Forked, Ready, Unable
from twinstep.clock import monotonic_s
from twinstep.errors import Refused

WAIT_S = 30.0
HEARD: WeakKeyDictionary[Ranks, list[RankEvent]] = WeakKeyDictionary()


def hear(ranks: Ranks, kind: type[RankEvent], timeout_s: float = WAIT_S) -> RankEvent:
    """The next event of a kind; others are kept for those who ask for them."""
    heard = HEARD.setdefault(ranks, [])
    poll = select.poll()
    poll.register(ranks.fileno(), select.POLLIN)
    until_s = monotonic_s() + timeout_s
    while True:
        for event in heard:
            if isinstance(event, kind):
                heard.remove(event)
                return event
        if not poll.poll(max(0.0, until_s - monotonic_s()) * 1000):
            raise AssertionError(f"no {kind.__name__} within {timeout_s} s: {heard}")
        heard += ranks.receive()


@dataclass(kw_only=True)
class Rank:
    """A rank under test, its output in files."""

    ranks: Ranks
    folder: Path
    pid: int = 0
    requests: Iterator[int] = field(default_factory=lambda: iter(range(1, 99)))

    def start(
        self, text: str, *arguments: str, script: str = "train.py", **environment: str
    ) -> Rank:
        (self.folder / script).write_text(text)
        fork = Fork(
            request=next(self.requests),
            script=str(self.folder / script),
            arguments=list(arguments),
            folder=str(self.folder),
            environment=environment,
        )
        with self.file("out").open("wb") as out, self.file("err").open("wb") as err:
            self.ranks.start(fork, stdout=out.fileno(), stderr=err.fileno())
        forked = hear(self.ranks, Forked)
        assert isinstance(forked, Forked)
        self.pid = forked.pid
        return self

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def ended(self) -> tuple[int, str, str]:
        exited = hear(self.ranks, Exited)
        assert isinstance(exited, Exited) and exited.pid == self.pid
        return exited.status, self.file("out").read_text(), self.file("err").read_text()


@pytest.fixture(params=["warm", "plain"])
def rank(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rank]:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # ranks see to it
    ranks: Ranks
    if request.param == "warm":
        ranks = WarmRanks(preload=["json"], folder=str(tmp_path))
    else:
        ranks = PlainRanks()
    with contextlib.closing(ranks):
        yield Rank(ranks=ranks, folder=tmp_path)


@pytest.fixture
def warm(tmp_path: Path) -> Iterator[Rank]:
    ranks = WarmRanks(preload=[], folder=str(tmp_path))
    with contextlib.closing(ranks):
        yield Rank(ranks=ranks, folder=tmp_path)


SEEN = """
import os, sys
step: int = 0
print(sys.argv)
print(sys.path)
print(os.getcwd())
print(os.environ["RANK"], os.environ["WORLD_SIZE"])
print(__name__, __file__, __package__, __spec__, __cached__, __annotations__)
print(sorted(name for name in globals() if name not in ("os", "sys")))
print(sys.modules["__main__"].__dict__ is globals())
print(sys.stdin.read() == "")
files = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
print(sum("twinstep-stacks" not in name for name in files))
import beside
"""


def test_a_script_sees_what_python_would_show_it(rank: Rank) -> None:
    (rank.folder / "beside.py").write_text("print('imported', __name__)\n")
    rank.start(SEEN, "--lr", "0.1", RANK="3", WORLD_SIZE="4")
    status, out, err = rank.ended()
    direct = subprocess.run(
        [sys.executable, rank.folder / "train.py", "--lr", "0.1"],
        env={**os.environ, "RANK": "3", "WORLD_SIZE": "4"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=rank.folder,
        check=False,
    )
    assert (status, err) == (direct.returncode, direct.stderr) == (0, "")
    # Where an object lies differs.
    places = re.compile(r"0x[0-9a-f]+")
    assert places.sub("", out) == places.sub("", direct.stdout)


ENDINGS = {
    "well": "print('done')",
    "status": "import sys; sys.exit(7)",
    "text": "import sys; sys.exit('no data')",
    "none": "raise SystemExit",
    "hard": "import os; os._exit(9)",
    "error": "def f():\n    return 1 / 0\n\nprint('before')\nf()\n",
    "chain": "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError(1) from e",
    "syntax": "x = (1,\n",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "exit function": "import atexit; atexit.register(print, 'at exit'); 1 / 0",
    "thread": "import threading, time\n"
    "def f():\n    time.sleep(0.1); print('from a thread')\n"
    "threading.Thread(target=f).start()",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_script_ends_as_under_python(rank: Rank, name: str) -> None:
    rank.start(ENDINGS[name])
    status, out, err = rank.ended()
    direct = subprocess.run(
        [sys.executable, rank.folder / "train.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (status, out, err) == (direct.returncode, direct.stdout, direct.stderr)


def test_a_script_that_is_not_there_says_so(warm: Rank) -> None:
    warm.start("", script="other.py")
    hear(warm.ranks, Exited)
    fork = Fork(
        request=2,
        script="/nowhere/train.py",
        arguments=[],
        folder="/",
        environment={},
    )
    with warm.file("err").open("wb") as err:
        warm.ranks.start(fork, stdout=err.fileno(), stderr=err.fileno())
    exited = hear(warm.ranks, Exited)
    assert isinstance(exited, Exited) and exited.status == 2
    assert "can't open file '/nowhere/train.py'" in warm.file("err").read_text()


PICKLES = """
import multiprocessing, pickle
class State:
    pass
def double(x):
    return 2 * x
if __name__ == "__main__":
    assert type(pickle.loads(pickle.dumps(State()))) is State
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(method, pool.map(double, [1, 2]))
"""


def test_classes_of_the_script_can_be_pickled_and_spawned(rank: Rank) -> None:
    status, out, err = rank.start(PICKLES).ended()
    assert (status, out, err) == (0, "fork [2, 4]\nspawn [2, 4]\n", "")


SIGNALS = """
import signal
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
print(signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN)
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


def test_signals_are_those_of_a_new_process(rank: Rank) -> None:
    assert rank.start(SIGNALS).ended()[1] == "True\nTrue\nTrue\nset()\n"


RANDOM = "import random, numpy\nprint(random.random(), numpy.random.rand())"


def test_ranks_do_not_draw_the_same_numbers(tmp_path: Path) -> None:
    ranks = WarmRanks(preload=["numpy.random", "random"], folder=str(tmp_path))
    with contextlib.closing(ranks):
        rank = Rank(ranks=ranks, folder=tmp_path)
        first = rank.start(RANDOM).ended()[1].split()
        second = rank.start(RANDOM).ended()[1].split()
    assert first[0] != second[0] and first[1] != second[1]


def test_a_line_is_out_before_the_rank_is_killed(rank: Rank) -> None:
    text = (
        "import os, signal\nprint('last words')\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert rank.start(text).ended() == (-9, "last words\n", "")


WAIT = "import signal\nsignal.pause()"


def test_a_stopped_rank_can_be_killed(rank: Rank) -> None:
    rank.start(WAIT)
    rank.ranks.signal(rank.pid, signal.SIGSTOP)
    rank.ranks.signal(rank.pid, signal.SIGKILL)
    assert rank.ended()[0] == -signal.SIGKILL
    rank.ranks.signal(rank.pid, signal.SIGKILL)  # nobody, and nobody else


def test_close_leaves_no_rank(rank: Rank) -> None:
    rank.start(WAIT)
    first = rank.pid
    rank.start(WAIT)
    rank.ranks.close()
    assert is_gone(first, 0.0) and is_gone(rank.pid, 0.0)


def test_ranks_die_with_the_warm_process(warm: Rank) -> None:
    assert isinstance(warm.ranks, WarmRanks)
    warm.start(WAIT)
    os.kill(warm.ranks.pid, signal.SIGKILL)
    gone = hear(warm.ranks, WarmGone)
    assert isinstance(gone, WarmGone) and gone.status == -9
    assert warm.ended()[0] == -9
    with pytest.raises(Refused, match="start another"):
        warm.start(WAIT)


def test_a_warm_process_that_is_stopped_can_be_closed(warm: Rank) -> None:
    assert isinstance(warm.ranks, WarmRanks)
    warm.start(WAIT)
    os.kill(warm.ranks.pid, signal.SIGSTOP)
    warm.ranks.close()
    assert is_gone(warm.ranks.pid, 0.0) and is_gone(warm.pid, 0.0)


def test_what_a_fork_cannot_take_up_is_refused_by_name(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = WarmRanks(preload=[], folder=str(tmp_path), environment=environment)
    with contextlib.closing(ranks):
        for number, threads in enumerate(["1", "2"]):
            fork = Fork(
                request=number,
                script="train.py",
                arguments=[],
                folder=str(tmp_path),
                environment={"OMP_NUM_THREADS": threads, "RANK": "0"},
            )
            ranks.start(fork, stdout=1, stderr=1)
        unable = hear(ranks, Unable)
        assert isinstance(unable, Unable)
        assert unable.request == 1 and unable.reason.startswith("OMP_NUM_THREADS is ")


def test_a_request_without_bound_is_refused(warm: Rank) -> None:
    with pytest.raises(Refused, match="at most 131072"):
        warm.start("", LARGE="x" * 200_000)
    assert warm.start("print(1)").ended()[1] == "1\n"


def test_preload_says_what_failed_and_is_quiet_about_what_is_not_there(
    tmp_path: Path,
) -> None:
    (tmp_path / "broken_module.py").write_text("1 / 0")
    (tmp_path / "needs_module.py").write_text("import not_installed_module")
    text = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from twinstep.agent.warm import preload\n"
        "print(preload(sys.argv[2:]))"
    )
    names = ["json", "not_installed_module", "broken_module", "needs_module", "no.such"]
    said = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path), *names],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "modules=['json']" in said
    assert "'broken_module': 'ZeroDivisionError: division by zero'" in said
    assert "'needs_module': \"ModuleNotFoundError: No module named" in said
    assert "'not_installed_module':" not in said and "no.such" not in said


def test_threads_that_a_fork_would_leave_behind_are_counted(tmp_path: Path) -> None:
    (tmp_path / "threaded_module.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    text = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from twinstep.agent.warm import preload\n"
        "print(preload(['json']).threads, preload(['threaded_module']).threads)"
    )
    said = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == ["1", "2"]


TORCH = """
import sys
assert "torch" in sys.modules
import torch
torch.set_num_threads(2)
x = torch.randn(512, 512, requires_grad=True)
(x @ x).sum().backward()
print(x.grad.shape, torch.rand(1).item(), torch.get_num_threads())
"""


def test_torch_computes_in_a_forked_rank(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    ranks = WarmRanks(preload=["torch"], folder=str(tmp_path))
    with contextlib.closing(ranks):
        ready = hear(ranks, Ready, 60)
        assert isinstance(ready, Ready)
        assert (ready.modules, ready.failed, ready.threads) == (["torch"], {}, 1)
        rank = Rank(ranks=ranks, folder=tmp_path)
        said: list[str] = []
        for _ in range(2):
            status, out, err = rank.start(TORCH).ended()
            assert (status, err) == (0, "")
            assert out.startswith("torch.Size([512, 512]) ") and out.endswith(" 2\n")
            said.append(out)
        assert said[0] != said[1]  # chance is theirs, not the warm process's
