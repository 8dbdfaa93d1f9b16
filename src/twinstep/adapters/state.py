"""What an adapter for a framework owes: its live objects as bytes, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from twinstep.capture.snapshot import Digests, Held, Layout, Told
from twinstep.store.stored import StoredStep


@runtime_checkable
class StateAdapter(Protocol):
    """Turns a framework's live objects into bytes and back.

    Nine methods: two for size (layout, unshare), three for the way out (hold, copy,
    fence), two for the way back (restore, restore_stored), one by which replicas are
    compared, and one by which copies keep out of training's way. hold, fence and the
    way back are called in the training thread, copy in any one other."""

    warnings: list[str]
    """What the user should know, such as why bits may differ after a restart. What
    restore_stored() finds comes to it."""

    def layout(self) -> Layout:
        """Lays the live state out anew. Call after the first update, and again
        after unshare() or LayoutChanged. Raises: StateError by name."""
        ...

    def unshare(self) -> None:
        """The next layout() treats everything as the rank's own."""
        ...

    def hold(self, step: int) -> Held:
        """What may change before the next update is copied afterwards, and the rest
        is known to lie where the layout says. Raises: LayoutChanged."""
        ...

    def copy(
        self,
        held: Held,
        *,
        own: memoryview,
        shared: memoryview,
        shared_range: range,
        chunk_bytes: int = 0,
    ) -> Callable[[], Digests]:
        """When it returns, the next update may run (the fence sees to it on an
        accelerator); when the returned function returns, the bytes are there, and
        it tells the digests of their chunks, where chunk_bytes is given and they
        could be taken on the way."""
        ...

    def fence(self, before_update: Callable[[], None]) -> Callable[[], None]:
        """`before_update` runs before every update from now on, until the returned
        function is called."""
        ...

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        """The live objects have the slots' state afterwards; returns its step.
        `shared` are the ranges of the shared region, in order. Nothing is changed
        when it raises: StateError naming what differs, or ProtocolError."""
        ...

    def restore_stored(self, stored: StoredStep, *, rank: int, world_size: int) -> int:
        """The live objects have the stored step's state afterwards, whatever number of
        ranks wrote it; returns its step. `rank` and `world_size` are those of now.

        Raises: StateError naming what differs, or ProtocolError, before anything is
            changed. Corrupt or OSError when a box cannot be read: what came before it
            is loaded then, and another step must be, or none used."""
        ...

    def start_from(self, path: str, options: dict[str, str]) -> None:
        """The live objects have the state of a checkpoint that the framework's own
        tools wrote to a folder or address. Raises: StateError, OSError."""
        ...

    def shared_digest(self) -> bytes:
        """xxh3-128 of the shared entries and their live bytes; b"" without any."""
        ...

    def watch(self, pulse: Told, complain: Callable[[str], None]) -> Callable[[], None]:
        """`pulse` is told of the framework's collectives from now on, until the
        returned function is called. Never raises, nor ends training later: what goes
        wrong ends the feed, with one complaint. An adapter that sees no collectives
        does nothing."""
        ...


@runtime_checkable
class ValueAdapter(StateAdapter, Protocol):
    """An adapter whose state is a value that the loop passes on, not live objects.

    Two methods more: what layout(), hold() and shared_digest() are about is what was
    offered last, and restore() and its like leave the state with restored()."""

    def offer(self, state: object) -> None:
        """`state` is the newest."""
        ...

    def restored(self) -> object:
        """Returns the state that was restored, or the one to begin with."""
        ...
