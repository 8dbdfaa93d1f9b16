"""How a rank that another launcher started comes to train: to its machine's agent.

The first local rank starts the agent, unless one answers already: in a session of its
own, so that it outlives the ranks and whatever kills their process groups. All ranks
say Arrive, and are admitted when the whole job has come (agent/guestbook.py).

    torchrun ─┬─ rank 0 ──starts──► agent   FOLDER/MACHINE.sock, .log, .ended.json
              └─ rank 1 ──Arrive──►   ▲     FOLDER is TMPDIR/twinstep-UID/JOB
                 rank 0 ──Arrive──────┘

Left out: what the agent is (guesthouse.py); the rest of a rank's way back (loading.py).
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from twinstep import config, last_word
from twinstep.agent import messages as say, stores
from twinstep.agent.guests import ENDED, Ended, identity
from twinstep.agent.own_stack import show_when_asked
from twinstep.agent.tether import Tether
from twinstep.clock import monotonic_s
from twinstep.config import Job
from twinstep.environment import RankPlace, jobs_folder
from twinstep.errors import ConfigError, DeadlinePassed, ProtocolError, Refused
from twinstep.launched import Launch
from twinstep.telling import tell

AGENT_S_MAX = 60.0
"""The machine's agent answers within this time after the first rank has come."""
WAIT_S_MAX = 3600.0
"""The whole job has come within this time; the root gives up long before, and says
whom it waited for (timing.machine_s_max)."""
ATTEMPTS_MAX = 5
"""So often an agent may end while a rank waits, before the rank gives up."""
LOOK_S = 0.02
LOG_LINES = 15
_started: list[subprocess.Popen[bytes]] = []
"""Kept, so that Python does not warn of a child that is meant to outlive us."""


def settings(launch: Launch) -> Job:
    """Returns the job as a launcher and its TOML file describe it.

    Raises: ConfigError, also where several machines have no store."""
    path = Path(launch.config).absolute() if launch.config else None
    job = config.load(
        path,
        machines=launch.machines,
        ranks_per_machine=launch.ranks_per_machine,
        standbys=0,
        store=launch.store or None,
    )
    if job.min_machines:
        raise ConfigError(
            f"min_machines is {job.min_machines}, but {launch.launcher} starts the "
            "ranks and says how many there are; leave min_machines out, or start the "
            "job with `twinstep run` or `twinstep join`"
        )
    if launch.machines > 1 and not job.store:
        raise ConfigError(
            f"{launch.launcher} started ranks on {launch.machines} machines, whose "
            "agents need a key-value store that all of them reach: set "
            "TWINSTEP_STORE=etcd://HOST:2379/JOB, or `store` in the file that "
            "TWINSTEP_CONFIG names. TWINSTEP=off trains without protection"
        )
    return job


def folder_of(launch: Launch, job: Job) -> Path:
    """Where the ranks and the agent of a machine meet."""
    named = stores.job_of(job.store) if stores.is_shared(job.store) else ""
    return jobs_folder() / (named or launch.job)


def reach(
    place: RankPlace | None, launch: Launch | None, *, connect_s_max: float
) -> tuple[Tether, RankPlace] | None:
    """Returns the connection to the agent that started this rank, or to the one that
    its launcher's ranks share; None where neither is."""
    if place is not None:
        return Tether(place.agent, connect_s_max=connect_s_max), place
    return None if launch is None else arrive(launch)


def arrive(launch: Launch) -> tuple[Tether, RankPlace]:
    """Returns the connection to this machine's agent, and the round to train in.

    Waits until the ranks of the whole job have come. Raises: ConfigError; Refused when
    the job is over or has no place for this rank; DeadlinePassed naming the agent."""
    folder = folder_of(launch, settings(launch))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for _ in range(ATTEMPTS_MAX):
        _check_ended(launch, folder)
        tether = _connect(launch, folder)
        try:
            answer = _ask(launch, tether)
        except ConnectionError:
            tether.close()  # the agent ends; why is in its file, or another is needed
            time.sleep(LOOK_S)
            continue
        except BaseException:
            tether.close()
            raise
        place = RankPlace(
            rank=launch.rank,
            local_rank=launch.local_rank,
            ranks_per_machine=launch.ranks_per_machine,
            round=answer.round,
            agent=tether.path,
        )
        last_word.prepare(place)
        show_when_asked()
        return tether, place
    raise DeadlinePassed(
        f"rank {launch.rank} has come to its agent {ATTEMPTS_MAX} times, and each time "
        f"the agent ended; its log is {_log(launch, folder)}"
    )


def _ask(launch: Launch, tether: Tether) -> say.Admit:
    tether.send(
        say.Arrive(
            rank=launch.rank,
            local_rank=launch.local_rank,
            ranks_per_machine=launch.ranks_per_machine,
            world_size=launch.world_size,
            machine_rank=launch.machine_rank,
        )
    )
    answer = tether.receive(WAIT_S_MAX)
    if isinstance(answer, say.Fail):
        raise Refused(answer.reason)
    if not isinstance(answer, say.Admit):
        raise ProtocolError(f"the agent said {type(answer).__name__}, not Admit")
    return answer


def _check_ended(launch: Launch, folder: Path) -> None:
    """Raises: Refused when this launch's job is over: the launcher starts ranks again
    that would begin it anew."""
    try:
        raw = (folder / f"{launch.machine}{ENDED}").read_bytes()
    except FileNotFoundError:
        return
    ended = msgspec.json.decode(raw, type=Ended)
    if identity(os.getppid()) in ended.launchers:
        how = "well" if ended.status == 0 else f"with status {ended.status}"
        raise Refused(
            f"the job has ended {how}: {ended.reason}\n(This is said to every rank "
            f"that {launch.launcher} still starts; start it anew for another job.)"
        )


# The agent.


def _connect(launch: Launch, folder: Path) -> Tether:
    """Returns a connection to the agent, which the first local rank starts."""
    path = str(folder / f"{launch.machine}.sock")
    until_s = monotonic_s() + AGENT_S_MAX
    with _alone(launch, folder):
        agent: subprocess.Popen[bytes] | None = None
        while True:
            try:
                return Tether(path, connect_s_max=AGENT_S_MAX)
            except DeadlinePassed as error:
                if monotonic_s() > until_s:
                    raise DeadlinePassed(
                        f"rank {launch.rank} found no agent at {path} within "
                        f"{AGENT_S_MAX:g} s; local rank 0 of this machine starts it, "
                        f"and its log is {_log(launch, folder)}"
                    ) from error
            if agent is None and launch.local_rank == 0:
                agent = _start(launch, folder)
            if agent is not None and agent.poll() is not None:
                lines = _log(launch, folder).read_text(errors="replace").splitlines()
                last = "\n".join(lines[-LOG_LINES:])
                raise ConfigError(f"this machine's agent cannot run:\n{last}")
            time.sleep(LOOK_S)


@contextmanager
def _alone(launch: Launch, folder: Path) -> Generator[None]:
    """One process at a time looks whether an agent answers, and starts it; a rank that
    dies meanwhile holds nobody up."""
    if launch.local_rank:
        yield
        return
    with (folder / f"{launch.machine}.starting").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _log(launch: Launch, folder: Path) -> Path:
    return folder / f"{launch.machine}.log"


def _start(launch: Launch, folder: Path) -> subprocess.Popen[bytes]:
    """Starts the agent, detached: no signal, pipe or terminal of the launcher's is
    shared with it."""
    log = _log(launch, folder)
    # -P: a module beside the user's script must not take the place of Python's own.
    command = [sys.executable, "-P", "-m", "twinstep.guesthouse", str(folder)]
    command += [launch.machine, "--machines", str(launch.machines)]
    command += ["--ranks-per-machine", str(launch.ranks_per_machine)]
    command += ["--script", sys.argv[0]]
    if launch.store:
        command += ["--store", launch.store]
    if launch.config:
        command += ["--config", str(Path(launch.config).absolute())]
    with log.open("ab") as output:
        agent = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    _started.append(agent)
    tell(
        f"twinstep: rank {launch.rank}: {launch.launcher} starts the ranks; started "
        f"this machine's agent (process {agent.pid}), which outlives them; its log is "
        f"{log}",
        error=True,
    )
    return agent
