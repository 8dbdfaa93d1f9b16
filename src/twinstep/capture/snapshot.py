"""How live memory becomes bytes in a slot and comes back.

Between two updates the large state (parameters, optimizer state) does not change, so
that it may be copied by another thread while the next forward and backward pass run.
What does change there (buffers, random number generators, schedules) is small and is
held: copied at once, in the training thread. Before the next update a fence waits.

    training  | update s | hold | forward, backward of s + 1 | fence | update s + 1 |
    twin                        | copy of s into the slot .. |

Copying is a loop of memcpy through ctypes, which gives up the interpreter's lock:
faster than writev, pwritev or process_vm_writev into the slot (measured 9 against 5
GB/s), and unlike a framework's copy it brings no threads of its own, which would
compete with training for the cores. Tiny pieces keep the lock, since to get it back
may cost a switch interval (5 ms) each. Nothing here starts a thread.

A copy's digests are taken while it is made: a tile that was just read is in the cache.
256 MB in 200 tensors took 23 ms of one core to copy into a slot, 40 to copy and then
hash, and 31 to do both tile by tile (AMD EPYC).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import xxhash

from twinstep.capture.manifest import Entry, StaticPart, aligned
from twinstep.errors import StateError

SMALL_BYTES = 32 * 1024
LARGE_BYTES = 256 * 1024
"""From here on a copy may go past the caches (environment.COPY_PAST_CACHES): its
source is still in them, its target is not."""


TILE_BYTES = 512 * 1024
"""Copied and then hashed at a time. Counted from the start of a piece: tiles that end
where chunks do leave small ends, which took a third longer in all."""
PAGE_BYTES = 4096


class LayoutChanged(StateError):
    """The live state no longer fits the layout that slots were reserved for.

    The step cannot be captured; after a new layout() later steps can."""


class Piece(NamedTuple):
    """`size` bytes of live memory at `address` that lie at `offset` of a region."""

    address: int
    size: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How many bytes a rank's state takes; fixed until layout() is called again.

    `own_bytes` has the head and room for optimizer state that does not exist yet;
    `shared_bytes` is the whole shared region, of which cut() gives a rank's range."""

    own_bytes: int
    shared_bytes: int
    static: StaticPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """All of a step that could change before the next update, already copied; or kept
    from change, where it `lasts`."""

    step: int
    manifest: bytes
    mark: object = None
    """What copy() must wait for on an accelerator; the adapter's own."""
    lasts: bool = False
    """The state that is held never changes, or is a copy: no update has to wait."""


class Digests(NamedTuple):
    """The digests of a copy's chunks, one after the other; empty: not taken."""

    own: bytes = b""
    shared: bytes = b""


class Told(Protocol):
    """Where an adapter tells when training uses the network (schedule/pulse.py).

    Three methods, from any thread. Times in nanoseconds, by clock.monotonic_ns."""

    def feeds(self, fed: bool, now_ns: int) -> None:
        """From now on operations are told, or they no longer are."""
        ...

    def starts(self, now_ns: int) -> int:
        """An operation is under way; returns what `ends` is told."""
        ...

    def ends(self, token: int, now_ns: int) -> None:
        """The operation is over; nothing, when it was said already."""
        ...


def fitting(
    layout: Layout, own: memoryview, shared: memoryview, shared_range: range
) -> tuple[memoryview, memoryview]:
    """Returns of slots, which may be larger, what the layout has.

    Raises: StateError for slots that are too small."""
    own = own.cast("B")[: layout.own_bytes]
    shared = shared.cast("B")[: len(shared_range)]
    if len(own) < layout.own_bytes or len(shared) < len(shared_range):
        raise StateError(
            f"slots of {len(own)} and {len(shared)} bytes for a layout of "
            f"{layout.own_bytes} and {len(shared_range)}"
        )
    return own, shared


def cut(size: int, *, parts: int, index: int) -> range:
    """Returns part `index` of a region of `size` bytes, cut at whole pages."""
    assert 0 <= index < parts, (index, parts)
    part = aligned(-(-size // parts), PAGE_BYTES)
    return range(min(size, index * part), min(size, (index + 1) * part))


def clip(pieces: Iterable[Piece], span: range) -> list[Piece]:
    """Returns what of `pieces` lies in `span`, with offsets from its start."""
    clipped: list[Piece] = []
    for address, size, offset in pieces:
        first = max(offset, span.start)
        final = min(offset + size, span.stop)
        if first < final:
            clipped.append(
                Piece(address + first - offset, final - first, first - span.start)
            )
    return clipped


def coalesced(pieces: Iterable[Piece]) -> list[Piece]:
    """Returns `pieces` by offset, neighbours on both sides made one."""
    result: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: piece.offset):
        if result:
            address, size, offset = result[-1]
            if (address + size, offset + size) == (piece.address, piece.offset):
                result[-1] = Piece(address, size + piece.size, offset)
                continue
        result.append(piece)
    return result


class _Buffer(ctypes.Structure):
    """CPython's Py_buffer, of which only the address is read."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_char * 256),
    ]


def _foreign(library: ctypes.CDLL, name: str, *arguments: type) -> Callable[..., int]:
    function = library[name]
    function.argtypes = arguments
    function.restype = ctypes.c_void_p
    return function


_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_unlocked = _foreign(ctypes.CDLL(None), "memcpy", _POINTER, _POINTER, _SIZE)
_locked = _foreign(ctypes.PyDLL(None), "memcpy", _POINTER, _POINTER, _SIZE)
_set = _foreign(ctypes.CDLL(None), "memset", _POINTER, ctypes.c_int, _SIZE)


def address_of(view: memoryview) -> int:
    """Returns where the bytes of `view` lie, read-only or not. The caller keeps the
    view for as long as it uses the address."""
    assert view.contiguous
    if not view.nbytes:
        return 0
    buffer = _Buffer()
    get, give_back = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi
    get.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    get(view, ctypes.addressof(buffer), 0)
    address = int(buffer.buf)
    give_back.PyBuffer_Release.argtypes = [ctypes.c_void_p]
    give_back.PyBuffer_Release(ctypes.addressof(buffer))
    return address


def copy_pieces(pieces: Iterable[Piece], target: memoryview) -> None:
    """The bytes of `pieces` lie in `target` afterwards, each at its offset."""
    assert not target.readonly
    start, limit = address_of(target), target.nbytes
    for address, size, offset in pieces:
        assert 0 <= offset <= limit - size, (offset, size, limit)
        (_locked if size < SMALL_BYTES else _unlocked)(start + offset, address, size)


def copy_hashed(
    pieces: Iterable[Piece], target: memoryview, *, chunk_bytes: int
) -> bytes:
    """As copy_pieces, and returns the digests of all chunks of `target`.

    `pieces` come by offset and do not overlap; what of `target` lies in none of them
    is there already. Large pieces are hashed from their source, tile by tile."""
    assert not target.readonly
    start, limit = address_of(target), target.nbytes
    chunks = _Chunks(chunk_bytes)
    for address, size, offset in pieces:
        assert chunks.hashed <= offset <= limit - size, (offset, size, limit)
        if size < LARGE_BYTES:
            (_locked if size < SMALL_BYTES else _unlocked)(
                start + offset, address, size
            )
            if offset + size - chunks.hashed >= chunk_bytes:
                chunks.take(target[chunks.hashed : offset + size])
            continue
        chunks.take(target[chunks.hashed : offset])
        done = 0
        while done < size:
            left = size - done
            tile = left if left < 2 * TILE_BYTES else TILE_BYTES
            _unlocked(start + offset + done, address + done, tile)
            source = (ctypes.c_char * tile).from_address(address + done)
            chunks.take(memoryview(source).cast("B"))
            done += tile
    chunks.take(target[chunks.hashed :])
    return chunks.finished()


class _Chunks:
    """Digests of chunks whose bytes come in order, in parts of any size."""

    def __init__(self, chunk_bytes: int) -> None:
        self.hashed = 0
        self._chunk_bytes = chunk_bytes
        self._hasher = xxhash.xxh3_128()
        self._digests: list[bytes] = []

    def take(self, view: memoryview) -> None:
        while len(view):
            part = view[: self._chunk_bytes - self.hashed % self._chunk_bytes]
            self._hasher.update(part)
            self.hashed += len(part)
            if self.hashed % self._chunk_bytes == 0:
                self._digests.append(self._hasher.digest())
                self._hasher.reset()
            view = view[len(part) :]

    def finished(self) -> bytes:
        if self.hashed % self._chunk_bytes:
            self._digests.append(self._hasher.digest())
        return b"".join(self._digests)


def restore_pieces(pieces: Iterable[Piece], source: memoryview) -> None:
    """The live memory of `pieces` has the bytes of `source` afterwards."""
    start, limit = address_of(source), source.nbytes
    for address, size, offset in pieces:
        assert 0 <= offset <= limit - size, (offset, size, limit)
        (_locked if size < SMALL_BYTES else _unlocked)(address, start + offset, size)


def shared_gaps(entries: Iterable[Entry], size: int) -> list[range]:
    """Returns the bytes of a shared region of `size` bytes that no entry has."""
    gaps: list[range] = []
    end = 0
    shared = (entry for entry in entries if entry.region == "shared")
    for entry in sorted(shared, key=lambda entry: entry.offset):
        if entry.offset > end:
            gaps.append(range(end, entry.offset))
        end = max(end, entry.offset + entry.size)
    return [*gaps, range(end, size)] if end < size else gaps


def blank(gaps: Iterable[range], target: memoryview, span: range) -> None:
    """What of `gaps` lies in `span`, which `target` has, is zero afterwards, as it is
    in a fresh slot: what replicas hold has equal digests though one of them once held
    more there, or a bit of it was flipped."""
    start = address_of(target)
    assert target.nbytes >= len(span), (target.nbytes, span)
    for gap in gaps:
        first, final = max(gap.start, span.start), min(gap.stop, span.stop)
        if first < final:
            _set(start + first - span.start, 0, final - first)
