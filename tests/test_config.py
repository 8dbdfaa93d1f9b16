"""Settings are checked before anything starts, and the reference page agrees."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.settings_table import least, settings_table
from twinstep.config import (
    Health,
    Job,
    Kubernetes,
    Schedule,
    Slurm,
    Storage,
    Timing,
    Transfer,
    Trust,
    load,
)
from twinstep.errors import ConfigError

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"


def test_arguments_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('machines = 4\nplacement = "ring"\n[timing]\nhang_s_min = 3.0\n')
    job = load(file, machines=8, placement=None)
    assert (job.machines, job.placement, job.timing.hang_s_min) == (8, "ring", 3.0)
    assert job.ranks_per_machine == Job().ranks_per_machine
    assert load(None) == Job()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("machines = 0", "at least 1"),
        ("standbys = -1", "at least 0"),
        ("machines = 2\ncopies = 3", r"copies \(3\).*machines \(2\).*--copies 2"),
        ("machines = 2\ncopies = -1", r"copies \(-1\)"),
        ('placement = "nearby"', "'nearby'; use one of group, ring, mixed, tail"),
        ('machines = 2\ndomains = ["a"]', "names 1 machines, but machines is 2"),
        ('machines = "two"', "Expected `int`, got `str` - at `.*machines`"),
        ("machine = 2", "unknown setting.* machine in .*job.toml"),
        ("[timing]\nsilence = 1", "unknown setting.*timing.silence"),
        ("[timing]\nsilence_s_max = 0.0", "silence_s_max is 0.0; it must be > 0"),
        ("[timing]\ntick_s = 1.0", "lower tick_s .* or raise silence_s_max"),
        ("[timing]\nrenew_s = 1.0", r"renew_s \(1.0\) must be at most a third"),
        ("[timing]\nsilence_s_max = 20\nstop_s_max = 10", "stop_s_max .* lower sil"),
        ("[timing]\nhang_s_min = 700", r"hang_s_max \(600.0\) is less than .*700"),
        ("[timing]\nhang_s_min = 100", r"deadlock_s_min \(60.0\).*raise deadlock_s"),
        ("[timing]\ncampaign_s = 1", r"campaign_s \(1.0\).*too early"),
        ("[health]\nlooks_min = 0", "health.looks_min is 0; it must be at least 1"),
        ("[health]\nlooks = 0", "unknown setting.*health.looks"),
        ("[transfer]\nstreams = 0", "transfer.streams is 0; at least 1"),
        ("[transfer]\nchunk_bytes = 5000", "multiple of 4096"),
        ('[schedule]\nmode = "gaps"', "'gaps'; use one of spans, naive, off"),
        ("[schedule]\nmu = 1.5", "schedule.mu is 1.5; it must be at most 1"),
        ("[schedule]\npriority = 7", "priority is 7; it must be at most 6"),
        ("[schedule]\ndscp = 64", "dscp is 64; it must be at most 63"),
        ("[schedule]\nwithhold_every = 1", "use 2 or more, or 0"),
        ("[schedule]\nsamples_max = 4", r"samples_max \(4\) is less than .*16"),
        ("[schedule]\nbuffer_bytes = 65536", r"holds no chunk .*524288.*raise buffer"),
        ("[schedule]\nspan = 1", "unknown setting.*schedule.span"),
        ('[trust]\ndata = "clear"', "'clear'; use one of sealed, tls, plain"),
        ('[trust]\ncerts = "a"\ntoken_file = "b"', r"\(b\) and certs \(a\); use one"),
        ("[storage]\nkeep_last = 0", "storage.keep_last is 0; it must be > 0"),
        ("[storage]\nkeep = 1", "unknown setting.*storage.keep"),
        ("[storage.options]\nkey = 'x'", r"storage.options \(key\) without storage.p"),
        ("[storage]\npath = '~nobody-has-this/x'", "~nobody-has-this.*name the folder"),
        ("machines = ", "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "job.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(file)


def test_a_folder_for_steps_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/root-of-all")
    file = tmp_path / "job.toml"
    file.write_text('[storage]\npath = "lost"\nstart = "~/a b"\nkeep_last = 5\n')
    storage = load(file, storage="runs/übung").storage
    assert storage.path == f"{tmp_path}/runs/übung"
    assert (storage.start, storage.keep_last) == ("/root-of-all/a b", 5)
    assert load(file, storage="s3://a/b").storage.path == "s3://a/b"
    assert load(None).storage.path == ""


def test_what_a_storage_is_told_may_be_secret_and_is_not_shown() -> None:
    options = {"key": "mine", "secret": "hush"}
    assert "hush" not in repr(Job(storage=Storage(path="s3://a", options=options)))
    with pytest.raises(ConfigError) as error:
        Storage(options=options)
    assert "hush" not in str(error.value)


def numbers() -> list[tuple[type[Any], str, str]]:
    return [
        (part, field.name, least(part, field))
        for part in (Job, Timing, Health, Transfer, Schedule, Trust, Storage)
        for field in dataclasses.fields(part)
        if least(part, field).startswith(">")
    ]


@pytest.mark.parametrize(("part", "name", "bound"), numbers())
def test_every_bound_in_the_reference_is_held(
    part: type[Any], name: str, bound: str
) -> None:
    low = 0 if bound.startswith("> 0") else int(bound.removeprefix(">= ")) - 1
    with pytest.raises(ConfigError, match=rf"{name}\D+ {low}|{name} \({low}\)"):
        part(**{name: low})


def test_what_is_not_given_follows_from_silence_s_max() -> None:
    default, slow = Timing(), Timing(silence_s_max=6.0)
    assert (default.renew_s, default.tick_s, default.call_s_max) == (0.3, 0.1, 2.0)
    assert (default.campaign_s, default.stop_s_max) == (3.0, 10.0)
    assert (slow.renew_s, slow.tick_s, slow.call_s_max) == (1.2, 0.4, 8.0)
    assert (slow.campaign_s, slow.stop_s_max) == (12.0, 24.0)
    assert Timing(silence_s_max=6.0, tick_s=0.1).tick_s == 0.1, "given wins"
    for silence_s in (0.05, 0.3, 1.5, 60.0):
        Timing(silence_s_max=silence_s)  # the relations hold


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read"):
        load(tmp_path / "nowhere.toml")


def test_two_copies_where_there_are_two_machines() -> None:
    assert [Job(machines=n).copies_held for n in (1, 2, 8)] == [1, 2, 2]
    assert Job(machines=8, copies=3).copies_held == 3


@pytest.mark.parametrize(
    "part", [Job, Timing, Health, Transfer, Schedule, Trust, Storage, Kubernetes, Slurm]
)
def test_every_setting_is_in_the_reference(part: type[Any]) -> None:
    text = REFERENCE.read_text()
    table = settings_table(part)
    assert table in text, f"docs/reference.md should have this:\n{table}"


def test_a_setting_that_changes_would_be_seen() -> None:
    text = REFERENCE.read_text()
    assert settings_table(Timing).replace("`1.5`", "`1.6`") not in text
    names = {field.name for field in dataclasses.fields(Timing)}
    assert all(f"`{name}`" in settings_table(Timing) for name in names)
