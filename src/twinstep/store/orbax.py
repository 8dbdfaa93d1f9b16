"""The files by which Orbax reads a stored step by itself, written without Orbax.

A step becomes what a job would save with orbax.checkpoint's PyTreeCheckpointer or
StandardCheckpointer: arrays in the zarr format (version 2, uncompressed), their chunks
in an OCDBT database (ocdbt.py) that says where in the machines' files they are:

    _METADATA             the tree: each leaf's path, and what kind of leaf it is
    manifest.ocdbt        ─► r3-t1-m0.nodes ─► params.embed/.zarray   shape, dtype
                                               params.embed/0.0       range of a file
    _strings.json         leaves that are text
    _CHECKPOINT_METADATA  when it was written
    commit_success.txt    without it Orbax takes a folder of gs:// for unfinished

Arrays are said to be NumPy's ("np.ndarray"), not jax's: then Orbax gives NumPy's where
it is asked for nothing else, and jax's in whatever sharding it is asked for. Of jax's
it would want to know the devices that they were on.

An array that makes no grid of chunks (chunks.py) is left out, and a value that Orbax
has no type for; custom_metadata of _METADATA says which and why. twinstep has them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import xxhash

from twinstep.capture.plain import Blob
from twinstep.store import ocdbt
from twinstep.store.chunks import by_name, grid_of, made_up_of
from twinstep.store.contents import LAST, ORBAX, Box, Contents, Leaf, nodes_name
from twinstep.store.flattened import Path, dotted, key_paths, settled, tree_path

DTYPES = {
    "bool": "|b1",
    "int8": "|i1",
    "uint8": "|u1",
    **{f"int{8 * size}": f"<i{size}" for size in (2, 4, 8)},
    **{f"uint{8 * size}": f"<u{size}" for size in (2, 4, 8)},
    **{f"float{8 * size}": f"<f{size}" for size in (2, 4, 8)},
    "complex64": "<c8",
    "complex128": "<c16",
    "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8_e4m3fn",
    "float8_e4m3fnuz": "float8_e4m3fnuz",
    "float8_e5m2": "float8_e5m2",
    "float8_e5m2fnuz": "float8_e5m2fnuz",
}
"""zarr's names for dtypes, those of TensorStore included."""
ARRAY, SCALAR, STRING, NONE = "np.ndarray", "scalar", "string", "None"
SEQUENCE, DICT = 1, 2
"""Orbax's numbers for what a key is of."""
LEAVES_MAX = 1 << 20
GAPS_MAX = 256
"""A sequence that lacks more of its places is a dict: names may come from anybody."""
TEXT_MAX = 1 << 20
"""Characters of a text; one that is longer is left out."""
READS_WITH = (
    "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
)


def files_of(contents: Contents) -> dict[str, bytes]:
    """Returns the files that make a whole step a checkpoint of Orbax, in the order in
    which they are written: the last is the one without which it is none."""
    tree = _Tree()
    tree.fill(contents)
    written_ns = round(contents.written_s * 1e9)
    names = [file.name for file in contents.files]
    about = json.dumps([contents.step, contents.captured_in, *names]).encode()
    nodes = nodes_name(contents)
    manifest, encoded = ocdbt.database(
        tree.values or {"empty": b""},
        nodes=nodes,
        uuid=xxhash.xxh3_128_digest(about),
        written_ns=written_ns,
    )
    when: dict[str, object] = {
        "item_handlers": READS_WITH,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": written_ns,
        "commit_timestamp_nsecs": written_ns,
        "custom_metadata": {},
    }
    committed = f"step {contents.step} is whole"
    texts = [manifest, _json(tree.texts), _json(when), committed.encode()]
    return {
        nodes: encoded,
        **dict(zip(ORBAX, texts, strict=True)),
        LAST["orbax"]: _json(tree.metadata(contents.step)),
    }


def leaves_of(
    items: Iterable[tuple[Path, Any]], empty: Mapping[str, str]
) -> list[Leaf]:
    """Returns the small values of a rank (flattened.plain_items) as leaves, with those
    that Orbax has no type for and why.

    `empty` are nodes of a tree without any leaf, by their names, and what they are:
    Dict, List, Tuple, or None, Orbax's word for an empty NamedTuple too. Without them
    Orbax restores into a tree that has such nodes only where it is told that the tree
    may differ."""
    leaves = [leaf for path, value in items for leaf in _leaves(path, value)]
    kinds: dict[str, object] = {"Dict": dict[str, Any](), "List": list[Any]()}
    kinds |= {"Tuple": (), "None": None}
    for name, kind in empty.items():
        leaves += _leaves(tree_path(name), kinds.get(kind))
    return leaves


def _leaves(path: Path, value: Any) -> Iterator[Leaf]:
    if isinstance(value, dict) and value:
        for key, item in cast("dict[object, Any]", value).items():
            yield from _leaves((*path, str(key)), item)
    elif isinstance(value, list | tuple) and value:
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _leaves((*path, index), item)
    elif isinstance(value, dict):
        yield Leaf(path=path, kind="Dict")
    elif isinstance(value, list | tuple):
        yield Leaf(path=path, kind="List" if isinstance(value, list) else "Tuple")
    elif value is None:
        yield Leaf(path=path, kind="None")
    else:
        yield _leaf(path, value)


def _leaf(path: Path, value: Any) -> Leaf:
    if isinstance(value, str) and len(value) <= TEXT_MAX:
        return Leaf(path=path, kind="string", value=value)
    fits = isinstance(value, int) and -(1 << 63) <= value < 1 << 63
    if isinstance(value, bool | float) or fits:
        return Leaf(path=path, kind="scalar", value=value)
    kind = value.kind if isinstance(value, Blob) else type(value).__name__
    why = f"Orbax has no type for a value like this one ({kind})"
    return Leaf(path=path, kind="left out", value=why)


@dataclass(slots=True)
class _Tree:
    """The leaves of a step, as they are put into Orbax's files."""

    kinds: dict[Path, str] = field(default_factory=dict[Path, str])
    values: dict[str, ocdbt.Value] = field(default_factory=dict[str, ocdbt.Value])
    """Of the database, by key."""
    texts: dict[str, str] = field(default_factory=dict[str, str])
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    def fill(self, contents: Contents) -> None:
        tensors = {name: made_up_of(boxes) for name, boxes in _named(contents).items()}
        paths: dict[str, Path] = key_paths(tensors, trees=contents.trees)
        leaves = {f"leaf {leaf.path!r}": leaf for leaf in contents.leaves[:LEAVES_MAX]}
        paths |= {name: leaf.path for name, leaf in leaves.items()}
        settled_paths = settled(paths)
        inner = {
            path[:depth]
            for path in settled_paths.values()
            for depth in range(1, len(path))
        }
        for name, path in settled_paths.items():
            if path in inner:
                self.left_out[dotted(path)] = "its name is also the start of others'"
            elif name in leaves:
                self._leaf(path, leaves[name])
            else:
                self._array(path, tensors[name])
        self._fill_gaps()

    def _array(self, path: Path, boxes: list[Box]) -> None:
        key = dotted(path)
        grid = grid_of(boxes) if boxes else "its boxes do not make it up"
        dtype = DTYPES.get(boxes[0].dtype) if boxes else ""
        if isinstance(grid, str) or dtype is None:
            why = f"{boxes[0].dtype} has no name in zarr" if dtype is None else grid
            self.left_out[key] = str(why)
            return
        self.kinds[path] = ARRAY
        self._zarray(key, boxes[0].global_shape, grid.shape, str(dtype))
        self.values |= {
            f"{key}/{_cell(chunk.cell)}": ocdbt.Range(chunk.file, chunk.at, chunk.size)
            for chunk in grid.chunks
        }

    def _leaf(self, path: Path, leaf: Leaf) -> None:
        key, value = dotted(path), leaf.value
        if leaf.kind == "left out":
            self.left_out[key] = str(value)
            return
        self.kinds[path] = leaf.kind
        if leaf.kind == STRING:
            self.texts[key] = str(value)
        elif leaf.kind == SCALAR:
            code, dtype = _number(value)
            self._zarray(key, (), (), dtype)
            self.values[f"{key}/0"] = struct.pack(f"<{code}", value)

    def _zarray(
        self, key: str, shape: tuple[int, ...], chunk: tuple[int, ...], dtype: str
    ) -> None:
        described = {
            "chunks": chunk,
            "compressor": None,
            "dimension_separator": ".",
            "dtype": dtype,
            "fill_value": None,
            "filters": None,
            "order": "C",
            "shape": shape,
            "zarr_format": 2,
        }
        self.values[f"{key}/.zarray"] = _json(described)

    def _fill_gaps(self) -> None:
        """What is missing in a sequence is None, as Orbax has it for what is empty:
        the places of an optimizer's parts that have no state."""
        there: dict[Path, set[int]] = {}
        for path in self.kinds:
            for depth, part in enumerate(path):
                if isinstance(part, int):
                    there.setdefault(path[:depth], set()).add(part)
        sparse: set[Path] = set()
        for start, numbers in there.items():
            if max(numbers) >= len(numbers) + GAPS_MAX:
                sparse.add(start)
                continue
            for number in set(range(max(numbers))) - numbers:
                self.kinds[*start, number] = NONE
        if sparse:
            self.kinds = {_texts_in(sparse, p): kind for p, kind in self.kinds.items()}

    def metadata(self, step: int) -> dict[str, Any]:
        """Returns what _METADATA says."""
        custom = {"step": step, "left_out": self.left_out}
        return {
            "tree_metadata": {
                str(tuple(map(str, path))): {
                    "key_metadata": [
                        {
                            "key": str(part),
                            "key_type": SEQUENCE if isinstance(part, int) else DICT,
                        }
                        for part in path
                    ],
                    "value_metadata": {
                        "value_type": kind,
                        "skip_deserialize": kind not in (ARRAY, SCALAR, STRING),
                    },
                }
                for path, kind in sorted(self.kinds.items(), key=_order)
            },
            "use_ocdbt": True,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": {"twinstep": custom},
        }


def _named(contents: Contents) -> dict[str, list[Box]]:
    """The boxes of each tensor; a tied tensor is there under each of its names."""
    boxes = by_name(contents.boxes)
    tied = {
        name: boxes[other]
        for name, other in contents.tied.items()
        if name not in boxes and other in boxes
    }
    return boxes | tied


def _texts_in(sparse: set[Path], path: Path) -> Path:
    return tuple(
        str(part) if path[:depth] in sparse else part for depth, part in enumerate(path)
    )


def _number(value: Any) -> tuple[str, str]:
    """Returns struct's code and zarr's dtype of a scalar."""
    if isinstance(value, bool):
        return "?", "|b1"
    return ("d", "<f8") if isinstance(value, float) else ("q", "<i8")


def _order(item: tuple[Path, str]) -> list[tuple[bool, int, str]]:
    return [
        (isinstance(part, str), part if isinstance(part, int) else 0, str(part))
        for part in item[0]
    ]


def _cell(cell: tuple[int, ...]) -> str:
    return ".".join(map(str, cell)) or "0"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
