"""The .metadata with which torch.distributed.checkpoint reads a stored step by itself.

Boxes of one name are the chunks of one tensor, whoever's they are. A tensor that is
not sharded is there once for each rank; DCP has it once, the lowest rank's. Where ranks
call different tensors by one name (the stages of a pipeline), the lowest rank's is the
one in .metadata; twinstep itself restores each rank's own. A tensor whose boxes do not
make it up is left out, so that DCP says that it is missing and reads no holes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from twinstep.store.chunks import by_name, made_up_of
from twinstep.store.contents import Box, Contents, Plain
from twinstep.store.flattened import Path, dotted, key_paths, settled
from twinstep.store.pickles import Call, Filled, Form, Global, Object, Pairs, dump

VERSION = "1.0.0"
METADATA_MODULE = "torch.distributed.checkpoint.metadata"
METADATA = Global(METADATA_MODULE, "Metadata")
TENSOR = Form(
    Global(METADATA_MODULE, "TensorStorageMetadata"), ("properties", "size", "chunks")
)
BYTES = Global(METADATA_MODULE, "BytesStorageMetadata")
CHUNK = Form(Global(METADATA_MODULE, "ChunkStorageMetadata"), ("offsets", "sizes"))
PROPERTIES = Global(METADATA_MODULE, "TensorProperties")
CHUNK_INDEX = Form(Global(METADATA_MODULE, "MetadataIndex"), ("fqn", "index", "offset"))
VALUE_INDEX = Form(Global(METADATA_MODULE, "MetadataIndex"), ("fqn", "index"))
STORAGE_META = Global(METADATA_MODULE, "StorageMeta")
INFO = Form(
    Global("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("relative_path", "offset", "length"),
)
SIZE = Global("torch", "Size")
STRIDED = Call(Global("torch.serialization", "_get_layout"), ("torch.strided",))
CONTIGUOUS = Call(Global(METADATA_MODULE, "_MEM_FORMAT_ENCODING"), (0,))

NO_STORAGE_META: dict[str, object] = {
    "checkpoint_id": None,
    "save_id": None,
    "load_id": None,
    "modules": [],
}


def metadata(contents: Contents, *, tied: Mapping[str, str] | None = None) -> bytes:
    """Returns the .metadata of a whole step.

    `tied` are further names of tensors and the names that their boxes have: a
    state_dict() has tied weights under each of their names."""
    chunks = {
        name: chosen
        for name, boxes in by_name(contents.boxes).items()
        if (chosen := made_up_of(boxes))
    }
    for name, other in (tied or {}).items():
        if name not in chunks and other in chunks:
            chunks[name] = chunks[other]
    plain = {f"plain {item.path!r}": item for item in contents.plain}
    paths: dict[str, Path] = key_paths(chunks, trees=contents.trees)
    paths.update({name: item.path for name, item in plain.items()})
    paths = settled(paths)
    sizes: dict[tuple[int, ...], Call] = {}
    tensors = [(dotted(paths[name]), boxes) for name, boxes in chunks.items()]
    values = [(dotted(paths[name]), item) for name, item in plain.items()]
    state = {
        "state_dict_metadata": Pairs(_described(tensors, values, sizes)),
        "planner_data": {dotted(path): path for path in paths.values()},
        "storage_data": Pairs(_stored(tensors, values, sizes)),
        "storage_meta": Object(STORAGE_META, NO_STORAGE_META),
        "version": VERSION,
    }
    return dump(Object(METADATA, state))


def _described(
    tensors: list[tuple[str, list[Box]]],
    values: list[tuple[str, Plain]],
    sizes: dict[tuple[int, ...], Call],
) -> Iterator[tuple[str, Filled | Object]]:
    """Yields what DCP knows a key by."""
    for key, boxes in tensors:
        dtype = Global("torch", boxes[0].dtype)
        properties = Object(PROPERTIES, (dtype, STRIDED, False, CONTIGUOUS, False))
        chunks = [
            Filled(CHUNK, (_size(box.offsets, sizes), _size(box.shape, sizes)))
            for box in boxes
        ]
        size = _size(boxes[0].global_shape, sizes)
        yield key, Filled(TENSOR, (properties, size, chunks))
    for key, _ in values:
        yield key, Object(BYTES, None)


def _stored(
    tensors: list[tuple[str, list[Box]]],
    values: list[tuple[str, Plain]],
    sizes: dict[tuple[int, ...], Call],
) -> Iterator[tuple[Filled, Filled]]:
    """Yields what DCP looks up: the index of a chunk or value, and where it lies."""
    for key, boxes in tensors:
        for number, box in enumerate(boxes):
            index = (key, number, _size(box.offsets, sizes))
            yield Filled(CHUNK_INDEX, index), _info(box)
    for key, value in values:
        yield Filled(VALUE_INDEX, (key, None)), _info(value)


def _info(item: Box | Plain) -> Filled:
    return Filled(INFO, (item.file, item.at, item.size))


def _size(shape: tuple[int, ...], sizes: dict[tuple[int, ...], Call]) -> Call:
    """The same node for equal shapes, so that each is written once."""
    size = sizes.get(shape)
    if size is None:
        size = sizes[shape] = Call(SIZE, (shape,))
    return size
