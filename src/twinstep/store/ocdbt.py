"""Writes an OCDBT database: keys whose values are ranges of files that are there.

OCDBT is the key-value store in which Orbax keeps arrays by default: a B+tree on a
folder, read by TensorStore. Its nodes say of a value in which file it lies, from which
byte and how long; the file may have any name and any other content. So the data files
that machines have written stay as they are, and a step becomes an Orbax checkpoint by
two more files, whatever its size:

    manifest.ocdbt ──► root node ──► leaf nodes ──► file, first byte, length
                       └── all in one file ──┘      (or the value itself, if small)

The format is that of TensorStore's documentation ("OCDBT, storage format"), version 0,
uncompressed, with one version of the database. Two things are as the library has them
and not as the documentation does: the kind of the manifest follows its uuid, and times
are in nanoseconds.

Left out: reading one, and changing one. Checksums are computed by a table in Python: a
database of 50,000 keys, a megabyte of nodes, took 0.6 s (one busy core).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

MANIFEST = "manifest.ocdbt"
MANIFEST_MAGIC = 0x0CDB3A2A
NODE_MAGIC = 0x0CDB20DE
KEY_BYTES_MAX = 65535
NODE_BYTES = 1 << 20
"""A node is ended when its keys and values have about so many bytes."""
NODE_ENTRIES = 16384
"""Of one node, and of children of one; the format allows 2**20."""
INLINE_BYTES_MAX = 1024
NODE_BYTES_MAX = 8 << 20
"""What the database is said to keep to; only its writers look at them."""
ARITY_LOG2 = 4


class Range(NamedTuple):
    """A value that lies in a file, named relative to the database's folder."""

    file: str
    at: int
    size: int


Value = bytes | Range


class _Node(NamedTuple):
    """An encoded node: where it is, and what is below it."""

    first: bytes
    """The least key below it."""
    at: int
    size: int
    keys: int
    tree_bytes: int
    value_bytes: int


def database(
    values: Mapping[str, Value], *, nodes: str, uuid: bytes, written_ns: int
) -> tuple[bytes, bytes]:
    """Returns the manifest and the nodes of a database that has `values`.

    Args:
      nodes: the name of the file that the nodes will be in.
      uuid: 16 bytes that name the database.
      written_ns: when, in nanoseconds since the epoch.

    Raises: ValueError when there is no key, or one of more than 65,535 bytes."""
    if not values:
        raise ValueError("a database of no keys")
    out = bytearray()
    level = list(_leaves(sorted((k.encode(), v) for k, v in values.items()), out))
    height = 0
    while len(level) > 1:
        height += 1
        level = list(_parents(level, height, nodes, out))
    return _manifest(level[0], height, nodes, uuid, written_ns), bytes(out)


def crc32c(data: bytes) -> int:
    """Returns the CRC-32 with Castagnoli's polynomial."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_crc_of(byte) for byte in range(256)]


def _leaves(entries: Sequence[tuple[bytes, Value]], out: bytearray) -> Iterator[_Node]:
    start, size = 0, 0
    for index, (key, value) in enumerate(entries):
        if len(key) > KEY_BYTES_MAX:
            raise ValueError(f"a key of {len(key)} bytes; at most {KEY_BYTES_MAX}")
        size += len(key) + (len(value) if isinstance(value, bytes) else 16)
        if size > NODE_BYTES or index - start == NODE_ENTRIES - 1:
            yield _leaf(entries[start : index + 1], out)
            start, size = index + 1, 0
    if start < len(entries):
        yield _leaf(entries[start:], out)


def _leaf(entries: Sequence[tuple[bytes, Value]], out: bytearray) -> _Node:
    kept = [value for _, value in entries if isinstance(value, bytes)]
    ranges = [value for _, value in entries if isinstance(value, Range)]
    files = sorted({value.file for value in ranges})
    place = {file: index for index, file in enumerate(files)}
    prefixes, suffixes, text = _keys([key for key, _ in entries])
    body = bytearray(b"\0") + _files(files) + _varint(len(entries))
    body += prefixes + suffixes + text
    body += _varints(v.size if isinstance(v, Range) else len(v) for _, v in entries)
    body += _varints(int(isinstance(value, Range)) for _, value in entries)
    body += _varints(place[value.file] for value in ranges)
    body += _varints(value.at for value in ranges)
    body += b"".join(kept)
    at, encoded = len(out), _sealed(NODE_MAGIC, bytes(body))
    out += encoded
    return _Node(
        first=entries[0][0],
        at=at,
        size=len(encoded),
        keys=len(entries),
        tree_bytes=len(encoded),
        value_bytes=sum(value.size for value in ranges),
    )


def _parents(
    level: Sequence[_Node], height: int, nodes: str, out: bytearray
) -> Iterator[_Node]:
    """Yields the nodes above. Children keep their whole keys: the common prefix that a
    parent may take from them is nothing here."""
    rest = iter(level)
    while children := list(islice(rest, NODE_ENTRIES)):
        prefixes, suffixes, text = _keys([child.first for child in children])
        body = bytearray([height]) + _files([nodes]) + _varint(len(children))
        body += prefixes + suffixes + _varints(0 for _ in children) + text
        body += _varints(0 for _ in children)
        body += _varints(child.at for child in children)
        body += _varints(child.size for child in children)
        body += _varints(child.keys for child in children)
        body += _varints(child.tree_bytes for child in children)
        body += _varints(child.value_bytes for child in children)
        at, encoded = len(out), _sealed(NODE_MAGIC, bytes(body))
        out += encoded
        yield _Node(
            first=children[0].first,
            at=at,
            size=len(encoded),
            keys=sum(child.keys for child in children),
            tree_bytes=len(encoded) + sum(child.tree_bytes for child in children),
            value_bytes=sum(child.value_bytes for child in children),
        )


def _manifest(
    root: _Node, height: int, nodes: str, uuid: bytes, written_ns: int
) -> bytes:
    assert len(uuid) == 16, uuid
    body = bytearray(uuid) + _varint(0)  # all of the manifest is in one file
    body += _varints([INLINE_BYTES_MAX, NODE_BYTES_MAX])
    body += bytes([ARITY_LOG2]) + _varint(0)  # uncompressed
    body += _files([nodes])
    body += _varints([1, 1]) + bytes([height])  # one version, the first
    body += _varints([0, root.at, root.size])
    body += _varints([root.keys, root.tree_bytes, root.value_bytes])
    body += struct.pack("<Q", written_ns)
    body += _varint(0)  # no older versions
    return _sealed(MANIFEST_MAGIC, bytes(body))


def _sealed(magic: int, body: bytes) -> bytes:
    """Head and checksum are around what is in it: version 0, uncompressed."""
    size = 4 + 8 + 2 + len(body) + 4
    data = struct.pack(">I", magic) + struct.pack("<Q", size) + b"\0\0" + body
    return data + struct.pack("<I", crc32c(data))


def _files(names: Sequence[str]) -> bytes:
    """The table of the files that a node's entries name by their number."""
    prefixes, suffixes, text = _keys([name.encode() for name in names])
    return _varint(len(names)) + prefixes + suffixes + bytes(len(names)) + text


def _keys(keys: Sequence[bytes]) -> tuple[bytes, bytes, bytes]:
    """Returns how long what each has in common with the one before is, how long the
    rest of each is, and the rests."""
    shared = [0] * len(keys)
    for index in range(1, len(keys)):
        for left, right in zip(keys[index - 1], keys[index], strict=False):
            if left != right:
                break
            shared[index] += 1
    rests = [key[known:] for key, known in zip(keys, shared, strict=True)]
    return _varints(shared[1:]), _varints(map(len, rests)), b"".join(rests)


def _varints(numbers: Iterator[int] | Sequence[int]) -> bytes:
    return b"".join(map(_varint, numbers))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
