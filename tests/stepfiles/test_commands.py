"""`twinstep list`, `verify` and `export --from`, as one calls them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy
import orbax.checkpoint
import pytest
from typer.testing import CliRunner

from tests.stepfiles.made import write_step
from tests.store.trees import write_tree
from twinstep.cli import app
from twinstep.errors import TwinstepError, UsageError
from twinstep.stepfiles import view
from twinstep.store import contents as stored

RUNNER = CliRunner()


def run(*words: object, status: int = 0) -> str:
    result = RUNNER.invoke(app, list(map(str, words)), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout


def refused(*words: object) -> str:
    """What is said of what cannot be done, with status 2."""
    with pytest.raises(UsageError) as caught:
        run(*words)
    return str(caught.value)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Steps 12 and 15, an attempt at 18 and somebody's own checkpoint at 20."""
    folder = tmp_path / "run"
    for step in (12, 15, 18, 20):
        write_step(folder, step=step)
    for name in (stored.METADATA, stored.CONTENTS):
        (folder / "step-00000018" / name).unlink()
    (folder / "step-00000020" / stored.CONTENTS).unlink()
    return folder


def test_steps_are_listed_whole_or_why_not(storage: Path) -> None:
    said = run("list", storage)
    assert "4 steps, 2 whole" in said
    lines = {line.split()[0]: line for line in said.splitlines()[2:]}
    assert "ago" in lines["12"] and "2 x 1" in lines["12"]
    assert "passed over: it has no .metadata" in lines["18"]
    assert "not twinstep's" in lines["20"]
    steps = json.loads(run("list", storage, "--json"))["steps"]
    assert [row["step"] for row in steps] == [12, 15, 18, 20]
    assert [row["whole"] for row in steps] == [True, True, False, False]
    assert steps[0]["written_s"] == 1000.0 and steps[0]["machines"] == 2
    one = json.loads(run("list", storage / "step-00000012", "--json"))["steps"]
    assert one == steps[:1]


def test_a_foreign_directory_is_described(storage: Path) -> None:
    folder = storage / "step-00000020"
    assert "6 tensors" in run("list", folder)
    found = json.loads(run("list", folder, "--json"))["directory"]
    split = {"dtype": "float32", "shape": [5, 3], "chunks": 2, "bytes": 60}
    assert found["tensors"]["model.split"] == split
    assert "scheduler.note" in found["values"]


def test_a_storage_is_verified_step_by_step(storage: Path) -> None:
    said = run("verify", storage)
    assert said.count(" is whole: 6 tensors") == 3
    assert "step-00000018 is passed over" in said
    _, contents = write_step(storage, step=15)
    box = contents.boxes[0]
    flip(storage / "step-00000015" / box.file, box.data_at)
    assert "has 1 fault" in run("verify", storage, status=1)
    assert "is whole" in run("verify", storage, "--step", 12)
    checked = json.loads(run("verify", storage, "--step", 15, "--json", status=1))
    (report,) = checked["checked"]
    (fault,) = report["faults"]
    assert (report["step"], fault["file"]) == (15, box.file)
    assert fault["tensor"].startswith(box.name)


def test_a_step_that_is_removed_meanwhile_is_no_fault(
    storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = storage / "step-00000012"

    def bar(_name: str, _size: int):
        (folder / stored.METADATA).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return contextlib.nullcontext(lambda _count: None)

    monkeypatch.setattr(view, "bar", bar)
    said = run("verify", storage)
    assert "step-00000012 was removed while it was read" in said
    assert said.count(" is whole") == 2


def test_many_faults_are_bounded_in_words_and_all_in_json(storage: Path) -> None:
    folder = storage / "step-00000012"
    table = folder / stored.CONTENTS
    contents = stored.decode(table.read_bytes())
    many = contents.boxes * 8
    contents.boxes[:] = many
    table.write_bytes(stored.encode(contents))
    said = run("verify", folder, status=1)
    assert len(said.splitlines()) == 22 and "more; --json has all" in said
    report = json.loads(run("verify", folder, "--json", status=1))["checked"][0]
    assert len(report["faults"]) > 20


@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_a_damaged_foreign_directory_is_told(storage: Path, damage: str) -> None:
    folder = storage / "step-00000020"
    whole = stored.decode((storage / "step-00000012" / stored.CONTENTS).read_bytes())
    note = next(item for item in whole.plain if item.path[-1] == "note")
    path = folder / note.file
    if damage == "flip":
        flip(path, path.read_bytes().index(b"xxxx", note.at))
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: note.at + 5])
    else:
        path.unlink()
    checked = json.loads(run("verify", folder, "--json", status=1))["checked"]
    faults = {fault["tensor"]: fault["what"] for fault in checked[0]["faults"]}
    says = {"flip": "CRC", "cut": "is cut off", "lose": "missing"}[damage]
    assert says in faults["scheduler.note"]


def test_metadata_that_would_run_code_is_told_and_not_run(
    storage: Path, tmp_path: Path
) -> None:
    folder = storage / "step-00000020"
    trap = tmp_path / "trap"
    code = f"cos\nsystem\n(S'touch {trap}'\ntR.".encode()
    (folder / stored.METADATA).write_bytes(b"\x80\x02" + code)
    assert "has 1 fault" in run("verify", folder, status=1)
    with pytest.raises(TwinstepError, match="metadata"):
        run("list", folder)
    assert not trap.exists()


def test_the_newest_whole_step_is_exported(storage: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    said = run("export", out, "--format", "dcp", "--from", storage)
    assert "has step 15 (dcp)" in said
    names = {path.name for path in out.iterdir()}
    assert names == {path.name for path in (storage / "step-00000015").iterdir()}
    assert "is whole" in run("verify", out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_step_is_exported_into_an_empty_folder(storage: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    run("export", 12, out, "--format", "safetensors", "--from", storage)
    names = {path.name for path in out.iterdir()}
    kinds = ("model", "optimizer", "seen")
    assert names == {f"{name}.safetensors" for name in kinds}
    again = ("export", 12, out, "--format", "dcp", "--from", storage)
    assert "is not empty" in refused(*again)


@pytest.mark.parametrize("form", ["dcp", "safetensors"])
def test_a_damaged_step_is_not_exported(
    storage: Path, tmp_path: Path, form: str
) -> None:
    _, contents = write_step(storage, step=15)
    box = contents.boxes[0]
    flip(storage / "step-00000015" / box.file, box.data_at)
    out = tmp_path / "out"
    with pytest.raises(TwinstepError, match=box.name):
        run("export", out, "--format", form, "--from", storage)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_what_cannot_be_done_is_said(storage: Path, tmp_path: Path) -> None:
    assert "is no folder" in refused("list", tmp_path / "nowhere")
    assert "no step 13; it has 12, 15" in refused("verify", storage, "--step", 13)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "0 steps" in run("list", empty)
    assert "has no step to verify" in refused("verify", empty)
    assert "write KEY=VALUE" in refused("list", storage, "--option", "key")
    export = ("export", "--format", "dcp", "--from", storage)
    out = tmp_path / "out"
    assert "neither a number" in refused(*export, "newest", out)
    assert "has no step 13" in refused(*export, 13, out)
    assert "not written by twinstep" in refused(*export, 20, out)
    assert "is an address" in refused(*export, "s3://bucket/run")
    assert "leave out --job" in refused(*export, out, "--job", storage)
    other = ("export", out, "--from", storage, "--format", "onnx")
    assert "use one of dcp, orbax, safetensors" in refused(*other)
    assert "no job runs in" in refused(
        "export", out, "--format", "dcp", "--job", tmp_path
    )
    assert not out.exists()


def test_an_address_that_fsspec_knows_is_as_good_as_a_folder(
    storage: Path, tmp_path: Path
) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(storage), "/stepfiles-test/run", recursive=True)
    try:
        address = "memory://stepfiles-test/run"
        assert "4 steps, 2 whole" in run("list", address)
        assert "is whole" in run("verify", f"{address}/step-00000012")
        run("export", tmp_path / "out", "--format", "dcp", "--from", address)
        assert "is whole" in run("verify", tmp_path / "out")
    finally:
        memory.rm("/stepfiles-test", recursive=True)


def test_steps_of_orbax_are_listed_verified_and_exported(tmp_path: Path) -> None:
    arrays = {"state/w": (numpy.arange(8.0).reshape(4, 2), (2, 1))}
    write_tree(tmp_path / "run", arrays, ranks=2, plain={"state/epoch": 4})
    assert "1 step, 1 whole" in run("list", tmp_path / "run")
    assert "is whole: 1 tensor in 2 boxes" in run("verify", tmp_path / "run")
    for form in ("orbax", "dcp"):
        out = tmp_path / form
        run("export", out, "--format", form, "--from", tmp_path / "run")
        assert "is whole: 1 tensor in 2 boxes" in run("verify", out)
    run("export", tmp_path / "back", "--format", "orbax", "--from", tmp_path / "dcp")
    run("export", tmp_path / "s", "--format", "safetensors", "--from", tmp_path / "run")
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["state.safetensors"]
    for name in ("run/step-00000012", "orbax", "back"):
        found = orbax.checkpoint.PyTreeCheckpointer().restore(tmp_path / name)["state"]
        assert found["w"].tolist() == arrays["state/w"][0].tolist()
        assert found["epoch"] == 4
    flip(tmp_path / "orbax" / "r1-t1-m0.chunks", -1)
    assert "state/w [0:2, 0:2]: has a wrong checksum" in run(
        "verify", tmp_path / "orbax", status=1
    )
