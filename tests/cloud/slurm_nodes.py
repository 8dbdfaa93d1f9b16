"""A real Slurm on one computer: a controller on the switch, a slurmd on each host.

Hosts are network namespaces with processes of their own (twinstep.demo.hosts), so that
a node is lost whole: slurmd, its steps and their memory, by one signal. Nothing of a
Slurm that this computer may have is touched: own files, own addresses, no munge.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self, final

import pytest

from twinstep.demo.hosts.links import port
from twinstep.demo.hosts.network import SWITCH, Network, missing

COMMANDS = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue", "sinfo")
COMMAND_S_MAX = 30.0
READY_S_MAX = 30.0
LOOK_S = 0.1

CONFIG = """
ClusterName=twinstep
SlurmctldHost={host}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=5,sched_min_interval=100000
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmdTimeout={silence_s}
SlurmctldTimeout=10
MessageTimeout=5
KillWait=2
InactiveLimit=0
JobRequeue=1
TreeWidth=64
SlurmdParameters=config_overrides
CommunicationParameters=NoAddrCache
"""


def lacking() -> str:
    """Returns why there can be no Slurm here; "" if there can."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)} on this computer; apt-get install slurm-wlm"
    return missing()


needs_slurm = pytest.mark.skipif(bool(lacking()), reason=lacking())


@final
class Slurm:
    """Nodes n1, n2, ... of one partition, two processors each, from now until `close`.

    A node that says nothing to Slurm for `silence_s` is DOWN there."""

    def __init__(self, nodes: int, *, silence_s: int = 8) -> None:
        self.network = Network(nodes)
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.mark = f"SLURM_TRIAL={self.folder.name}"
        (self.folder / "state").mkdir()
        lines = [
            CONFIG.format(
                host=port(SWITCH),
                address=self.network.address(SWITCH),
                folder=self.folder,
                silence_s=silence_s,
            )
        ]
        for node in self.network.hosts:
            (self.folder / f"spool/n{node}").mkdir(parents=True)
            lines.append(
                f"NodeName=n{node} NodeAddr={self.network.address(node)} "
                "CPUs=2 RealMemory=1000 State=UNKNOWN"
            )
        lines.append(
            f"PartitionName=main Nodes=n[1-{nodes}] Default=YES MaxTime=INFINITE "
            "State=UP OverSubscribe=NO"
        )
        self.config = self.folder / "slurm.conf"
        self.config.write_text("\n".join(lines) + "\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        try:
            command = ["slurmctld", "-D", "-c", "-f", str(self.config)]
            self._start("controller", self.network.machine(SWITCH, command))
            for node in self.network.hosts:
                self.start(f"n{node}")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def environment(self) -> dict[str, str]:
        name, value = self.mark.split("=")
        return {**os.environ, "SLURM_CONF": str(self.config), name: value}

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment(),
                start_new_session=True,
            )

    # Nodes.

    def start(self, node: str) -> None:
        """The node boots: a slurmd, and nothing else."""
        command = ["slurmd", "-D", "-N", node, "-f", str(self.config)]
        number = int(node.removeprefix("n"))
        self._start(node, self.network.machine(number, command))

    def kill(self, node: str) -> None:
        """The node loses its power."""
        self.processes[node].kill()
        self.processes[node].wait(COMMAND_S_MAX)

    def state(self, node: str) -> tuple[str, str]:
        """What Slurm thinks of a node, and the reason if it is not fine."""
        line = self.run(
            "sinfo", "-h", "-N", "-n", node, "-O", "StateLong:20,Reason:200"
        )
        state, _, reason = line.partition(" ")
        return state, reason.strip()

    def ready(self) -> None:
        """Every node may be given to a job."""
        nodes = [f"n{node}" for node in self.network.hosts]

        def idle() -> bool:
            return all(self.state(node)[0] == "idle" for node in nodes)

        self.until(idle, "idle nodes", timeout_s=READY_S_MAX)

    # Commands.

    def run(self, *command: str, host: int = SWITCH, check: bool = True) -> str:
        """Returns what a command prints; it runs on the switch, where people log in."""
        done = subprocess.run(
            self.network.at(host, command),
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            env=self.environment(),
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}{self}"
        return done.stdout.strip()

    def until(
        self, true: Callable[[], Any], what: str, *, timeout_s: float = 40.0
    ) -> Any:
        deadline_s = time.monotonic() + timeout_s
        while not (found := true()):
            late = time.monotonic() > deadline_s
            assert not late, f"waited {timeout_s} s for {what}\n{self}"
            time.sleep(LOOK_S)
        return found

    def __str__(self) -> str:
        outs = sorted(self.folder.glob("*.out"))
        return "\n".join(f"--- {o.name}\n{o.read_text()[-3000:]}" for o in outs)

    def close(self) -> None:
        """Nothing of it is left."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(COMMAND_S_MAX)
        self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)


if __name__ == "__main__":  # a Slurm to try things on, until the input ends
    with Slurm(int(sys.argv[1])) as slurm:
        slurm.ready()
        pid, space = os.getpid(), slurm.network._spaces[SWITCH]
        print(f"export SLURM_CONF={slurm.config}")
        print(f"S='nsenter --net=/proc/{pid}/fd/{space}'")
        for name, process in slurm.processes.items():
            print(f"# {name} {process.pid}", flush=True)
        sys.stdin.read()
