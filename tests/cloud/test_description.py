"""What a job says of itself in the key-value store holds no secret of its storage."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from twinstep.cloud.description import JOB_KEY, JobFile, agree
from twinstep.cloud.hosting import job_store
from twinstep.config import Job, Storage
from twinstep.errors import UsageError


def described(**storage: object) -> JobFile:
    settings = Storage(path="s3://a/run", **storage)  # pyright: ignore
    return JobFile(
        name="j",
        launcher=0,
        started_s=1.0,
        store="",
        job=Job(storage=settings),
        script="train.py",
        arguments=(),
        folder="",
        environment={},
    )


def test_each_machine_has_its_own_options_and_the_store_none() -> None:
    mine = described(options={"secret": "hush"})
    with job_store(Job(), "j") as (_, store):
        agreed = agree(store, mine)
        assert agreed.job.storage.options == {"secret": "hush"}
        _, items = store.get(JOB_KEY)
        assert b"hush" not in items[JOB_KEY].value
        assert b"s3://a/run" in items[JOB_KEY].value
        other = agree(store, described(options={"secret": "another"}))
        assert other.job.storage.options == {"secret": "another"}
        changed = dataclasses.replace(mine.job.storage, keep_last=7)
        job = dataclasses.replace(mine.job, storage=changed)
        with pytest.raises(UsageError, match="keep_last=7.*here") as error:
            agree(store, msgspec.structs.replace(mine, job=job))
        assert "hush" not in str(error.value)
