"""Reads a rank's stack and says in one word, and in words, what the rank is doing.

The text is what Python's faulthandler writes, which shows Python's frames only: a C
call, such as the one that sleeps, is seen by the line that made it and by what the
kernel says the thread waits in. Told apart are

    COLLECTIVE  in torch.distributed: it waits for other ranks
    FRAMEWORK   in backward, in jax, at a stream: it computes, or waits for others
    LOCK SLEEP  it waits for a lock, a thread or a queue of its own; it sleeps
    DATA        in a data loader
    AGENT       in twinstep: it waits for its machine's agent
    OWN         anywhere else: its own code
    UNSEEN      it showed no stack

Leaves out: who is to blame, which takes the stacks of all ranks (culprits.py).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

FRAMES_MAX = 100  # faulthandler's own bound
WORDS_MAX = 160
"""A source line or path is shown up to this many characters."""

_HEAD = re.compile(r"^(Current thread|Thread|Stack)\b.*\(most recent call first\):")
_FRAME = re.compile(r'^  File "(?P<file>[^"]*)", line (?P<line>\d+) in (?P<name>.+)$')
_SPY_HEAD = re.compile(r'^Thread \S+ \(\w+(?:\+\w+)?\)(?:: "(?P<name>[^"]*)")?')
_SPY_FRAME = re.compile(r"^    (?P<name>\S+) \((?P<file>.+):(?P<line>\d+)\)$")

COLLECTIVES = (
    "/torch/distributed/distributed_c10d.py",
    "/torch/distributed/c10d_logger.py",
    "/torch/distributed/_functional_collectives.py",
    "/torch/distributed/rendezvous.py",
    "/torch/distributed/nn/functional.py",
)
"""Not all of torch.distributed: a rank that saves a checkpoint is in its folder too."""
FRAMEWORKS = (
    "/torch/autograd/",
    "/torch/cuda/",
    "/torch/nn/parallel/distributed.py",
    "/jax/",
    "/jaxlib/",
)
TRANSPARENT = (
    "/torch/_ops.py",
    "/torch/utils/_contextlib.py",
    "/torch/nn/modules/module.py",
    "/torch/optim/",
    "/contextlib.py",
    "/functools.py",
    "/twinstep/adapters/",
)
"""Frames that only call what the user or the framework asked for."""
DATA = ("/torch/utils/data/", "/torchdata/")
LOCKS = ("/threading.py", "/queue.py", "/concurrent/futures/", "/multiprocessing/")
OURS = ("/twinstep/session.py", "/twinstep/loading.py", "/twinstep/agent/")
LIBRARIES = (
    "/site-packages/",
    "/dist-packages/",
    "/lib/python",
    "/twinstep/adapters/",
)
OUTSIDE = ("/subprocess.py", "/selectors.py", "/socket.py", "/ssl.py")
"""It waits for another process or a connection: nobody can say how long that takes."""
_ACQUIRES = re.compile(r"\.acquire\(|\.join\(|^with .*lock", re.IGNORECASE)
_AWAITS = re.compile(r"\.(wait|item|synchronize|result|numpy|cpu|tolist)\(")


class Doing(enum.StrEnum):
    """What a rank's main thread is doing."""

    COLLECTIVE = "collective"
    FRAMEWORK = "framework"
    LOCK = "lock"
    SLEEP = "sleep"
    DATA = "data"
    AGENT = "agent"
    OWN = "own"
    UNSEEN = "unseen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    file: str
    line: int
    name: str

    @property
    def place(self) -> str:
        return f"{self.file.rpartition('/')[2]}:{self.line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a stack says: the kind, what is called, and the user's own place."""

    doing: Doing
    call: str = ""
    """The collective's name, or the source line, as far as known."""
    place: str = ""
    """The innermost line of the user's own files, as file:line."""


def main_thread(text: str) -> list[Frame]:
    """Returns the frames of the main thread, innermost first; none if it is not there.

    It is the only thread, or else the last that faulthandler lists, as it lists the
    youngest first; py-spy names it."""
    threads: list[tuple[str, list[Frame]]] = []
    for line in text.splitlines():
        spied = _SPY_HEAD.match(line)
        if _HEAD.match(line) or spied:
            name = (spied["name"] or "") if spied else ""
            threads.append((name, []))
            continue
        found = _FRAME.match(line) or _SPY_FRAME.match(line)
        if found and threads and len(threads[-1][1]) < FRAMES_MAX:
            frame = Frame(
                file=found["file"], line=int(found["line"]), name=found["name"]
            )
            threads[-1][1].append(frame)
    for name, frames in threads:
        if name == "MainThread":
            return frames
    return threads[-1][1] if threads else []


def own_frame(frames: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the user's own files, whose source line is worth a look;
    None where all are of libraries."""
    return next((frame for frame in frames if not _of_a_library(frame)), None)


def read(frames: Sequence[Frame], *, source: str, waits_in: str) -> Reading:
    """Says what a main thread is doing.

    `source` is the line of `own_frame`, `waits_in` the kernel function that the thread
    sleeps in (/proc/PID/wchan); both may be empty."""
    if not frames:
        return Reading(doing=Doing.UNSEEN)
    own = own_frame(frames)
    place = own.place if own is not None else frames[-1].place
    line = " ".join(source.split())[:WORDS_MAX]
    seen = [frame for frame in frames if not _in(frame, TRANSPARENT)] or [frames[-1]]
    doing, call = _innermost(seen)
    if doing is Doing.OWN and seen[0] is own:
        doing, call = _own_line(line, waits_in=waits_in), line
    elif doing in (Doing.OWN, Doing.LOCK):
        call = line or call
    return Reading(doing=doing, call=call, place=place)


def _innermost(seen: Sequence[Frame]) -> tuple[Doing, str]:
    """What the innermost frames are of, past those of Python's own waiting."""
    inner = next((f for f in seen if not _in(f, (*LOCKS, *OUTSIDE))), None)
    if inner is None:
        return Doing.OWN, seen[0].name
    if _in(inner, COLLECTIVES):
        # The outermost frame of this visit has the name that the user called.
        names = [inner.name]
        for frame in seen[seen.index(inner) :]:
            if not _in(frame, COLLECTIVES):
                break
            if frame.name != "wrapper":
                names.append(frame.name)
        return Doing.COLLECTIVE, names[-1]
    if _in(inner, DATA):
        return Doing.DATA, "the data loader"
    if _in(inner, OURS):
        return Doing.AGENT, inner.name
    if _in(inner, FRAMEWORKS):
        backward = inner.name == "_engine_run_backward" or inner.name == "backward"
        return Doing.FRAMEWORK, "backward" if backward else inner.name
    waiting = [frame for frame in seen[: seen.index(inner)] if _in(frame, OUTSIDE)]
    if not waiting and _in(seen[0], LOCKS):
        return Doing.LOCK, seen[0].name
    return Doing.OWN, inner.name


def _own_line(line: str, *, waits_in: str) -> Doing:
    if "sleep(" in line or "nanosleep" in waits_in:
        return Doing.SLEEP
    if _AWAITS.search(line):
        return Doing.FRAMEWORK  # a handle of a collective, or a value on its way
    if _ACQUIRES.search(line):
        return Doing.LOCK
    return Doing.OWN


def _in(frame: Frame, places: Sequence[str]) -> bool:
    return any(place in frame.file for place in places)


def _of_a_library(frame: Frame) -> bool:
    return frame.file.startswith("<") or any(
        part in frame.file for part in (*LIBRARIES, *OURS)
    )
