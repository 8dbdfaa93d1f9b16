"""An agent as the child of somebody else's process: started, found by others, gone."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.agent.processes import is_gone
from twinstep.agent.kv_server import serve
from twinstep.cloud.child import TOKEN_FILE, Child
from twinstep.cloud.description import JOB_FILE, JobFile, read_job
from twinstep.config import Job, Trust
from twinstep.environment import jobs_folder
from twinstep.errors import UsageError
from twinstep.trust.credentials import Credentials

TOKEN = b"0123456789abcdef" * 4
WAIT_S = 30.0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: paths of Unix sockets take 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="twinstep-") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


def description(store: str, script: Path) -> bytes:
    job = JobFile(
        name="j",
        launcher=1,
        started_s=0.0,
        store=store,
        job=Job(warm=False, trust=Trust(token_file="/on/the/driver")),
        script=str(script),
        arguments=(),
        folder="",
        environment={},
    )
    return msgspec.json.encode(job)


def test_an_agent_is_of_the_job_and_leaves_nothing(folder: Path) -> None:
    script = folder / "train.py"
    script.write_text("import time; time.sleep(60)")
    with serve(credentials=Credentials(token=TOKEN)) as server:
        watch = server.store.watch("live/machines/", after=0)
        child = Child("m03")
        pid = child.start(
            description(server.address, script),
            host="127.0.0.1",
            standby=False,
            token=TOKEN,
            settings={"COLOUR": "blue"},
        )
        assert watch.next(WAIT_S), "the agent proves itself with the token, and joins"
        there = jobs_folder() / "j-m03"
        assert (there / TOKEN_FILE).stat().st_mode & 0o777 == 0o600
        mine = read_job(there)
        assert mine.environment["COLOUR"] == "blue" and mine.folder == os.getcwd()
        assert repr(child) == "m03"
        (there / "stacks").touch()
        os.kill(pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert is_gone(pid)
        # What nobody here has made is left to be read.
        assert [path.name for path in there.iterdir()] == ["stacks"]
        assert not (there / JOB_FILE).exists()


def test_a_script_that_is_not_on_the_node_is_said(folder: Path) -> None:
    child = Child("m00")
    with pytest.raises(UsageError, match="there is no script .*nowhere.py"):
        child.start(
            description("127.0.0.1:1", folder / "nowhere.py"),
            host="127.0.0.1",
            standby=False,
            token=b"",
            settings={},
        )
