"""A whole job trains to identical bits while strangers of every kind hammer at it."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from tests.trial import PRELOAD, WORKLOADS, Trial, takes_long, trial, undisturbed
from tests.trust import made, strangers as come
from twinstep.agent.status import Status

__all__ = ["trial"]

LINEAR = WORKLOADS / "linear.py"
ARGUMENTS = ("--steps", "120", "--pause-s", "0.03")
SILENT = 500
"""Connections that say nothing, to each agent; it has room for 64 strangers."""


def reference() -> dict[int, str]:
    return undisturbed(ranks=2, arguments=ARGUMENTS)


class Flood:
    """All kinds of strangers, again and again, at the agents' ports."""

    def __init__(self, status: Status, kind: str, folder: Path) -> None:
        self.came = 0
        self._over = threading.Event()
        self._kinds = come.strangers(kind, folder, job="job")
        self._addresses = [(one.host, one.port) for one in status.machines]
        self._threads = [threading.Thread(target=self._hammer, daemon=True)]
        self._threads += [
            threading.Thread(target=self._be_silent, args=(address,), daemon=True)
            for address in self._addresses
        ]
        for thread in self._threads:
            thread.start()

    def _hammer(self) -> None:
        while not self._over.is_set():
            for stranger, _ in self._kinds.values():
                for address in self._addresses:
                    if self._over.is_set():
                        return
                    with contextlib.suppress(OSError, AssertionError):
                        stranger(address)
                        self.came += 1
            self._over.wait(0.3)

    def _be_silent(self, address: tuple[str, int]) -> None:
        held = come.silent(address, SILENT)
        self._over.wait(60)
        for sock in held:
            sock.close()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


@takes_long
def test_training_does_not_notice_strangers(trial: Trial, tmp_path: Path) -> None:
    kind, limits = "tls", made.tls().limits
    named = f'token_file = "{limits.token_file}"\ncerts = "{limits.certs}"\n'
    config = f"{PRELOAD}[trust]\n{named}strangers_max = 64\n"
    trial.start("--machines", "2", script=LINEAR, arguments=ARGUMENTS, config=config)
    flood = Flood(trial.status(step=5, ranks=2), kind, tmp_path)
    try:
        assert trial.wait() == 0, str(trial)
    finally:
        flood.end()
    assert trial.digests() == reference(), str(trial)
    assert trial.err == ""
    assert "round 2" not in trial.out, "nobody was thought to be lost"
    lines = [line for line in trial.out.splitlines() if "dropped" in line]
    assert len([line for line in lines if "127.0.0.1:" in line]) > 10, str(trial)
    assert "others wait" in trial.out and flood.came > 10, flood.came
    assert len(lines) < 2 * 10 + 2 * 2 * 20, "at most about one a second afterwards"
    trial.clean()
