"""Plain Orbax is the judge of the checkpoints that agents write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import msgspec
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint import v1

from tests.store.trees import Cut, write_tree
from twinstep.capture.plain import Blob
from twinstep.errors import ProtocolError
from twinstep.stepfiles.checking import check_step
from twinstep.stepfiles.where import where
from twinstep.store import chunks, contents as stored, reading
from twinstep.store.contents import folder_name
from twinstep.store.orbax import DTYPES
from twinstep.store.places import Disk
from twinstep.store.reading import open_step

PLAIN: dict[str, Any] = {
    "state/epoch": 3,
    "state/rate": 0.1,
    "state/done": True,
    "state/name": "größer",
    "state/nothing": None,
    "state/nested": {"list": [1, 2.5, "x"], "none": []},
}

EMPTY = {"state/opt/0": "None", "state/opt/2": "None", "state/empty": "Dict"}
"""An optimizer's parts without state are NamedTuples without fields."""


def numbers(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)


ARRAYS: dict[str, tuple[np.ndarray, Cut]] = {
    "state/params/embed": (numbers(8, 6), (4, 1)),
    "state/params/both": (numbers(8, 6, 3), (2, 2, 1)),
    "state/params/last": (numbers(3, 8), (1, 4)),
    "state/params/twice": (numbers(6, 2), (2, 1)),
    "state/params/alike": (numbers(5, dtype=ml_dtypes.bfloat16), (1,)),
    "state/opt/1/count": (np.array(7, np.int32), ()),
    "state/opt/1/mu/embed": (numbers(8, 6), (4, 1)),
}


def nested(arrays: dict[str, tuple[np.ndarray, Cut]]) -> dict[str, Any]:
    params = {n.rpartition("/")[2]: a for n, (a, _) in arrays.items() if "params" in n}
    return {
        "params": params,
        "opt": [
            None,
            {
                "count": arrays["state/opt/1/count"][0],
                "mu": {"embed": arrays["state/opt/1/mu/embed"][0]},
            },
            None,
        ],
        "epoch": 3,
        "rate": 0.1,
        "done": True,
        "name": "größer",
        "nothing": None,
        "empty": {},
        "nested": {"list": [1, 2.5, "x"], "none": []},
    }


def assert_same(found: Any, wanted: Any, path: str = "") -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for key, item in wanted.items():
            assert_same(found[key], item, f"{path}/{key}")
    elif isinstance(wanted, list):
        assert type(found) is list and len(found) == len(wanted), path
        for index, item in enumerate(wanted):
            assert_same(found[index], item, f"{path}/{index}")
    elif isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), path
        assert np.asarray(found).tobytes() == wanted.tobytes(), path
    else:
        assert (type(found), found) == (type(wanted), wanted), path


READERS = {
    "pytree": lambda folder: ocp.PyTreeCheckpointer().restore(folder),
    "standard": lambda folder: ocp.StandardCheckpointer().restore(folder),
    "v1": v1.load,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ranks", [4, 8])
def test_orbax_restores_what_agents_wrote(
    tmp_path: Path, reader: str, ranks: int
) -> None:
    """With 8 ranks each shard is held twice, and written once."""
    folder, _ = write_tree(tmp_path, ARRAYS, ranks=ranks, plain=PLAIN, empty=EMPTY)
    assert_same(READERS[reader](folder), {"state": nested(ARRAYS)})


def test_names_as_jax_writes_them(tmp_path: Path) -> None:
    arrays: dict[str, tuple[np.ndarray, Cut]] = {
        "state['params']['a.b']": (numbers(2), (1,)),
        "state.opt[1].mu['w']": (numbers(3), (1,)),
        "state.opt[0][<flat index 0>]": (numbers(4), (1,)),
        "state.layers['0']": (numbers(1), (1,)),
    }
    plain = {"state.step": 3, "loader": {"at": [4]}}
    folder, _ = write_tree(tmp_path, arrays, ranks=1, plain=plain)
    wanted = {
        "state": {
            "params": {"a.b": numbers(2)},
            "opt": [[numbers(4)], {"mu": {"w": numbers(3)}}],
            "layers": {"0": numbers(1)},
            "step": 3,
        },
        "loader": {"at": [4]},
    }
    assert_same(ocp.PyTreeCheckpointer().restore(folder), wanted)


def test_every_dtype(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    arrays: dict[str, tuple[np.ndarray, Cut]] = {}
    for name in DTYPES:
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        raw = rng.integers(0, 2 if name == "bool" else 256, 8 * dtype.itemsize)
        array = np.frombuffer(raw.astype(np.uint8).tobytes(), dtype).reshape(4, 2)
        arrays[f"s/{name}"] = (array, (2, 1))
    folder, _ = write_tree(tmp_path, arrays, ranks=2)
    wanted = {name.partition("/")[2]: array for name, (array, _) in arrays.items()}
    assert_same(ocp.PyTreeCheckpointer().restore(folder), {"s": wanted})


SHARDED = """
import sys
import jax, numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P
from tests.store.test_orbax import ARRAYS, nested

mesh = jax.make_mesh((2, 2), ("a", "b"))
specs = {"embed": P("b", "a"), "both": P(None, None, None), "last": P(None, ("a", "b"))}

def want(array, spec):
    return jax.ShapeDtypeStruct(
        array.shape, array.dtype, sharding=NamedSharding(mesh, spec)
    )

state = nested(ARRAYS)
del state["name"]  # StandardCheckpointer takes no text in a target
state["nested"]["list"][2] = 5
state["params"] = {k: want(v, specs.get(k, P())) for k, v in state["params"].items()}
one = state["opt"][1]
one["count"] = want(one["count"], P())
one["mu"]["embed"] = want(one["mu"]["embed"], P(None, "a"))
found = ocp.StandardCheckpointer().restore(sys.argv[1], {"state": state})["state"]
for name, wanted in nested(ARRAYS)["params"].items():
    got = found["params"][name]
    assert got.sharding.spec == specs.get(name, P()), (name, got.sharding)
    assert np.array_equal(np.asarray(got), wanted), name
moment = np.asarray(found["opt"][1]["mu"]["embed"])
assert np.array_equal(moment, ARRAYS["state/opt/1/mu/embed"][0])
print(len(jax.devices()), type(found["opt"]).__name__, found["epoch"])
"""


def test_jax_restores_it_in_another_sharding(tmp_path: Path) -> None:
    nested = {"state/nested": {"list": [1, 2.5, 5], "none": []}}
    plain = {name: PLAIN[name] for name in PLAIN if name != "state/name"} | nested
    folder, _ = write_tree(tmp_path, ARRAYS, ranks=4, plain=plain, empty=EMPTY)
    out = subprocess.run(
        [sys.executable, "-c", SHARDED, str(folder)],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4 "
            "--xla_cpu_multi_thread_eigen=false",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
        capture_output=True,
        text=True,
    )
    assert out.stdout == "4 list 3\n", out.stderr


def test_verify_and_read_know_it(tmp_path: Path) -> None:
    folder, contents = write_tree(tmp_path, ARRAYS, ranks=4, plain=PLAIN)
    assert sorted(os.listdir(folder)) == sorted(stored.names_of(contents))
    assert stored.step_of(folder.name) == 12
    report = check_step(where(str(folder), {}), tick=lambda _: None)
    assert report.faults == [] and report.tensors == len(ARRAYS)
    step = open_step(Disk(tmp_path), 12)
    (box,) = [b for b in step.contents.boxes if b.name == "state/opt/1/count"]
    into = bytearray(4)
    step.read(box, memoryview(into))
    assert into == np.int32(7).tobytes()


def test_whoever_changes_a_byte_is_found_out(tmp_path: Path) -> None:
    folder, contents = write_tree(tmp_path, ARRAYS, ranks=4, plain=PLAIN)
    for name in stored.names_of(contents):
        if name == stored.CONTENTS:
            continue
        path = folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        report = check_step(where(str(folder), {}), tick=lambda _: None)
        assert {fault.file for fault in report.faults} == {name}
        path.write_bytes(whole)


def test_without_its_last_file_it_is_no_step(tmp_path: Path) -> None:
    folder, _ = write_tree(tmp_path, ARRAYS, ranks=4)
    (folder / "_METADATA").unlink()
    (found,) = reading.look(Disk(tmp_path), steps_max=9)
    assert found.reason == "it has no _METADATA: it was never finished"
    (folder / ".metadata").touch()  # of somebody who wrote for torch before
    (found,) = reading.look(Disk(tmp_path), steps_max=9)
    assert found.reason == "it has no _METADATA: it was never finished"


def test_a_checkpoint_of_orbax_itself_is_somebody_elses(tmp_path: Path) -> None:
    folder = tmp_path / folder_name(3)
    ocp.PyTreeCheckpointer().save(folder, {"a": np.ones(3)})
    (found,) = reading.look(Disk(tmp_path), steps_max=9)
    assert found.foreign and not found.finished
    assert found.reason == "it has no .twinstep: not written by twinstep"


def left_out(folder: Path) -> dict[str, str]:
    described = json.loads((folder / "_METADATA").read_bytes())
    return described["custom_metadata"]["twinstep"]["left_out"]


def test_what_orbax_cannot_have_is_left_out_and_said(tmp_path: Path) -> None:
    arrays: dict[str, tuple[np.ndarray, Cut]] = {
        "s/fine": (numbers(4), (2,)),
        "s/columns": (numbers(2, 5), (1, 2)),
        "s/empty": (numbers(0, 3), (1, 1)),
    }
    blob = Blob(kind="array", dtype="<f4", shape=(1,), data=bytes(4))
    plain = {"s/bytes": b"x", "s/blob": blob, "s/huge": 1 << 70, "s/n": -(1 << 63)}
    folder, _ = write_tree(tmp_path, arrays, ranks=2, plain=plain)
    found = ocp.PyTreeCheckpointer().restore(folder)["s"]
    wanted = {"fine": numbers(4), "empty": numbers(0, 3), "n": -(1 << 63)}
    assert_same(found, wanted)
    why = left_out(folder)
    assert why.keys() == {"s.columns", "s.bytes", "s.blob", "s.huge"}
    assert why["s.columns"] == "its boxes, (0, 3) (2, 2) of (2, 5), make no grid"
    assert why["s.blob"] == "Orbax has no type for a value like this one (array)"
    with open(folder / ".twinstep", "rb") as file:
        assert "s/columns" in {box.name for box in stored.decode(file.read()).boxes}


def test_places_of_a_sequence_without_a_leaf_are_none(tmp_path: Path) -> None:
    arrays: dict[str, tuple[np.ndarray, Cut]] = {"s/opt/2/mu": (numbers(2), (1,))}
    folder, _ = write_tree(tmp_path, arrays, ranks=1, plain={"s/far/900": 1})
    found = ocp.PyTreeCheckpointer().restore(folder)["s"]
    assert_same(found, {"opt": [None, None, {"mu": numbers(2)}], "far": {"900": 1}})


def test_shards_of_uneven_rows_are_small_chunks(tmp_path: Path) -> None:
    arrays: dict[str, tuple[np.ndarray, Cut]] = {"s/a": (numbers(10, 3), (4, 1))}
    folder, contents = write_tree(tmp_path, arrays, ranks=4)
    assert_same(ocp.PyTreeCheckpointer().restore(folder), {"s": {"a": numbers(10, 3)}})
    grid = chunks.grid_of(contents.boxes)
    assert isinstance(grid, chunks.Grid)
    assert (grid.shape, len(grid.chunks)) == ((1, 3), 10)


def test_large_arrays_are_cut_alike_and_read_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what all hold alike each machine writes some boxes."""
    monkeypatch.setattr(chunks, "BOX_BYTES", 96)
    monkeypatch.setattr(stored, "BOX_BYTES", 96)
    arrays: dict[str, tuple[np.ndarray, Cut]] = {
        "s/alike": (numbers(28, 4), (1, 1)),
        "s/own": (numbers(28, 4), (4, 1)),
    }
    folder, contents = write_tree(tmp_path, arrays, ranks=4)
    alike = [box for box in contents.boxes if box.name == "s/alike"]
    assert {box.shape for box in alike} == {(4, 4)}, "6 rows fit, and do not divide 28"
    assert len({box.file for box in alike}) == 4
    wanted = {"alike": numbers(28, 4), "own": numbers(28, 4)}
    assert_same(ocp.PyTreeCheckpointer().restore(folder), {"s": wanted})


def test_parts_of_two_forms_make_no_step(tmp_path: Path) -> None:
    _, one = write_tree(tmp_path / "a", {"s/a": (numbers(2), (2,))}, ranks=2)
    other = msgspec.structs.replace(one, form="dcp")
    with pytest.raises(ProtocolError, match="parts in dcp and orbax"):
        stored.merge([one, other])
