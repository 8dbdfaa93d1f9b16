"""What a store holds: each task's files with their digests, and where all came from.

The manifest's identity is a hash of all of it: two stores with the same identity hold
the same bytes. It is read with every length bounded, and never trusted: a file whose
digest is another is an error, said with its name.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated

import msgspec
import xxhash

from twinstep.errors import Corrupt, UsageError

FORMAT = 1
NAME = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 22
CHUNK_BYTES = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Name = Annotated[str, msgspec.Meta(max_length=1000)]


class SplitEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its name in the store's folder, and what is in it. The first `examples`
    records are examples, the `media` after them what examples share."""

    file: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]+\.[a-z_]+\.arrayrecord$")]
    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    bytes: Count
    examples: Count
    media: Count
    entities: Count


class OriginEntry(msgspec.Struct, frozen=True, kw_only=True):
    name: Name
    licence: Name
    edition: Name


class TaskEntry(msgspec.Struct, frozen=True, kw_only=True):
    """`version` is the task's; see tasks/task.py for `chance` and `entity_rule`."""

    version: Count
    asks: Name
    chance: Annotated[float, msgspec.Meta(ge=0, le=1)]
    entity_rule: Name
    origins: tuple[OriginEntry, ...]
    train: SplitEntry
    held_out: SplitEntry


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`absent`: tasks that were asked for and cannot be made here, and why."""

    seed: Count
    amount: Annotated[float, msgspec.Meta(gt=0, le=1)]
    tasks: dict[Name, TaskEntry] = {}
    absent: dict[Name, Name] = {}
    format: int = FORMAT

    @property
    def identity(self) -> str:
        """64 hex digits that stand for all bytes of all files."""
        plain = msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(plain).hexdigest()


def write(folder: Path, manifest: Manifest) -> None:
    """Puts the manifest in the folder, whole or not at all."""
    part = folder / f"{NAME}.part"
    with part.open("wb") as file:
        plain = msgspec.json.encode(manifest, order="sorted")
        file.write(msgspec.json.format(plain, indent=1) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / NAME)


def read(folder: Path) -> Manifest:
    """Returns the folder's manifest.

    Raises: UsageError where there is none or it is of another format; Corrupt where it
        makes no sense."""
    path = folder / NAME
    if not path.is_file():
        raise UsageError(f"{folder} holds no {NAME}: make the data first")
    size = path.stat().st_size
    if size > MANIFEST_BYTES_MAX:
        raise Corrupt(f"{path} has {size} bytes; at most {MANIFEST_BYTES_MAX}")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Corrupt(f"{path} is not a manifest: {error}; make the data again") from (
            error
        )
    if manifest.format != FORMAT:
        raise UsageError(
            f"{path} has format {manifest.format}, this version reads {FORMAT}: make "
            "the data again in an empty folder"
        )
    return manifest


def digest_of(path: Path) -> str:
    """Returns 32 hex digits (XXH3-128) of the file's bytes."""
    found = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def trouble(folder: Path, entry: SplitEntry) -> str | None:
    """Says what is wrong with the entry's file, or None if it is the one recorded."""
    path = folder / entry.file
    if not path.is_file():
        return f"{path} is not there"
    size = path.stat().st_size
    if size != entry.bytes:
        return f"{path} has {size} bytes, not the {entry.bytes} of the manifest"
    if (digest := digest_of(path)) != entry.digest:
        return f"{path} has the digest {digest}, not the {entry.digest} of the manifest"
    return None
