"""The state of a JAX run, as capture sees it: the one adapter for states as values.

    offer(state) ── plan ──► layout, entries          jax_leaves, jax_spread, jax_plan
    hold:    plain values are encoded, arrays are kept            jax_copy
    copy:    waits until they are computed, memcpy into the slot  jax_copy
    restore: boxes of slots, or of storage, in the shardings of `like`
                                       jax_sources, jax_restore, jax_arrays

Loops call initialize() (jax_processes) where jax.distributed.initialize() would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import xxhash

from twinstep.adapters.jax_copy import Keeper, Kept, pieces_of
from twinstep.adapters.jax_leaves import ROOT, leaves_of
from twinstep.adapters.jax_plan import Plan, make_plan
from twinstep.adapters.jax_processes import initialize, keep_compiled
from twinstep.adapters.jax_restore import Targets
from twinstep.adapters.jax_sources import from_slots, from_storage
from twinstep.adapters.jax_values import load_others
from twinstep.capture.manifest import (
    LENGTH_BYTES,
    encode_entries,
    encode_manifest,
    write_head,
)
from twinstep.capture.snapshot import (
    Digests,
    Held,
    Layout,
    LayoutChanged,
    Told,
    blank,
    clip,
    copy_hashed,
    copy_pieces,
    fitting,
)
from twinstep.errors import StateError
from twinstep.store.stored import StoredStep

__all__ = ["JaxState", "initialize", "keep_compiled"]


class JaxState:
    """A state that a loop passes on, and objects beside it. Satisfies ValueAdapter."""

    def __init__(self, objects: Mapping[str, object]) -> None:
        """`objects` have state_dict() and load_state_dict(), such as a data loader.

        Raises: StateError naming one that has not."""
        for name, value in objects.items():
            if name == ROOT or not (
                callable(getattr(value, "state_dict", None))
                and callable(getattr(value, "load_state_dict", None))
            ):
                raise StateError(
                    f"{name} is a {type(value).__name__}; beside a state in JAX a "
                    "Session takes objects with state_dict() and load_state_dict(), "
                    f"under any name but {ROOT!r}. Arrays belong in the state itself: "
                    "restore(like=state)"
                )
        keep_compiled()
        self.warnings: list[str] = []
        self._objects: dict[str, Any] = dict(objects)
        self._state: object = None
        self._sharing = True
        self._plan: Plan | None = None
        self._keeper = Keeper()

    def offer(self, state: object) -> None:
        """`state` is the newest; at first, what the restored one shall be like."""
        self._state = state

    def restored(self) -> object:
        """Returns the state that was restored, or the one to begin with.

        Raises: StateError when that is not of arrays."""
        leaves_of(self._state)
        return self._state

    def layout(self) -> Layout:
        """Lays the state out anew. Raises: StateError by name."""
        self._plan = make_plan(self._state, self._others(), sharing=self._sharing)
        return self._plan.layout

    def unshare(self) -> None:
        """The next layout() treats all arrays as this rank's own."""
        self._sharing = False

    def hold(self, step: int) -> Held:
        """The arrays of the step are kept, and its values copied. Does not wait for
        the device. Raises: LayoutChanged."""
        plan = self._current()
        leaves = plan.fit(self._state)
        values = plan.values(leaves, self._others())
        manifest = encode_manifest(plan.layout.static, step=step, values=values)
        head_bytes = plan.layout.static.head_bytes
        if LENGTH_BYTES + len(manifest) > head_bytes:
            raise LayoutChanged(
                f"step {step}: the values grew to {len(values)} bytes, and the "
                f"manifest of {len(manifest)} does not fit the {head_bytes} bytes laid "
                "out; keep what grows out of the state"
            )
        kept = self._keeper.keep(plan, leaves)
        return Held(step=step, manifest=manifest, mark=(plan, kept), lasts=True)

    def copy(
        self,
        held: Held,
        *,
        own: memoryview,
        shared: memoryview,
        shared_range: range,
        chunk_bytes: int = 0,
    ) -> Callable[[], Digests]:
        """The held step is in the slots, once the device has computed it."""
        plan, kept = cast("tuple[Plan, Kept]", held.mark)
        own, shared = fitting(plan.layout, own, shared, shared_range)
        views = self._keeper.views(kept)
        pieces = pieces_of(kept.parts, views)
        write_head(own[: plan.layout.static.head_bytes], held.manifest)
        blank(plan.gaps, shared, shared_range)
        clipped = clip(pieces["shared"], shared_range)
        digests = Digests()
        if chunk_bytes:
            digests = Digests(
                own=copy_hashed(pieces["own"], own, chunk_bytes=chunk_bytes),
                shared=copy_hashed(clipped, shared, chunk_bytes=chunk_bytes),
            )
        else:
            copy_pieces(pieces["own"], own)
            copy_pieces(clipped, shared)
        return lambda: digests

    def fence(self, before_update: Callable[[], None]) -> Callable[[], None]:
        """No update of JAX's changes an array: nothing is hooked."""
        return lambda: None

    def restore(self, own: memoryview, shared: Sequence[memoryview]) -> int:
        """restored() is the state of the slots, whose step is returned."""
        targets = Targets.of(self._state)
        views = [view.cast("B") for view in shared]
        step, values = from_slots(targets, self._objects, own.cast("B"), views)
        self._state = targets.state(values)
        load_others(self._objects, values)
        return step

    def restore_stored(self, stored: StoredStep, *, rank: int, world_size: int) -> int:
        """restored() is the stored step's state, sharded as `like` was, whatever
        number of ranks wrote it; returns its step."""
        targets = Targets.of(self._state)
        step, values, warnings = from_storage(
            targets, self._objects, stored, rank=rank, world_size=world_size
        )
        self.warnings += warnings
        self._state = targets.state(values)
        load_others(self._objects, values)
        return step

    def start_from(self, path: str, options: dict[str, str]) -> None:
        """restored() is the state of a checkpoint of Orbax's (jax_start.py)."""
        from twinstep.adapters.jax_start import start_from

        self._state = start_from({ROOT: self._state}, path, options)[ROOT]

    def shared_digest(self) -> bytes:
        """xxh3-128 of the shared entries and their bytes; b"" without any. Waits until
        the state has been computed: once, after a layout."""
        plan = self._current()
        kept = self._keeper.keep(plan, plan.fit(self._state))
        found = [at for at, p in enumerate(kept.parts) if p.entry.region == "shared"]
        if not found:
            return b""
        digest = xxhash.xxh3_128()
        digest.update(encode_entries([kept.parts[at].entry for at in found]))
        views = self._keeper.views(kept)
        for at in found:
            digest.update(memoryview(views[at].reshape(-1).view("uint8")))
        return digest.digest()

    def watch(self, pulse: Told, complain: Callable[[str], None]) -> Callable[[], None]:
        """XLA's collectives are not seen from here."""
        return lambda: None

    def _current(self) -> Plan:
        assert self._plan is not None, "layout() comes first"
        return self._plan

    def _others(self) -> dict[str, Any]:
        states: dict[str, Any] = {}
        for name, value in self._objects.items():
            try:
                states[name] = value.state_dict()
            except Exception as error:
                raise StateError(f"{name}.state_dict() failed: {error!r}") from error
        return states
