"""Writes a machine's part of a step to storage, in a thread of its own.

The thread reads slots that are pinned meanwhile (storing.py). It takes processor time
that nobody else wants, and no more of the storage than it was given. Storage may hang
for as long as it likes: nobody waits for this thread, and a step that is not made whole
does not exist. While one part is still being written, another is refused, with the
reason; so at most one thread hangs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import final

from twinstep import clock
from twinstep.agent import actions as do, storing
from twinstep.agent.worker import Actions, Worker
from twinstep.capture.manifest import read_manifest
from twinstep.errors import Corrupt, Refused
from twinstep.storage_settings import Storage
from twinstep.store.contents import Contents, part_name
from twinstep.store.memory import Slot
from twinstep.store.places import place_of
from twinstep.store.writing import Holding, form_of, write_part
from twinstep.transfer.sender import verify_copy

NICE = 19
AHEAD_S = 0.05
"""A write may come so much before its time: shorter waits cost more than they give."""


@final
class Drains:
    """What one machine writes to storage. `post` runs a decision in the agent's loop.

    `memory` are the machine's slots, by (shard, slot)."""

    def __init__(
        self,
        settings: Storage,
        worker: Worker,
        memory: dict[tuple[int, int], Slot],
        *,
        chunk_bytes: int,
        post: Callable[[Callable[[], Actions]], object],
    ) -> None:
        self._settings, self._worker, self._memory = settings, worker, memory
        self._chunk_bytes, self._post = chunk_bytes, post
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._step = 0

    def store(self, action: do.StoreCopies) -> None:
        """Begins to write; the worker hears what came of it."""
        if self._thread is not None and self._thread.is_alive():
            reason = f"{self._settings.path} still holds up the write of {self._step}"
            self._fail(action, reason)
            return
        self._over, self._step = threading.Event(), action.step
        views = {
            shard: memoryview(self._memory[shard, slot].view)
            for shard, slot in action.slots.items()
        }
        self._thread = threading.Thread(
            target=self._run,
            args=(action, views, self._over),
            name="twinstep-storage",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """What is being written is given up before its next tile."""
        self._over.set()

    def _run(
        self,
        action: do.StoreCopies,
        views: dict[int, memoryview],
        over: threading.Event,
    ) -> None:
        began_s = time.perf_counter()
        try:
            if self._settings.background:
                own = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, own, NICE)
            part = self._write(action, views, over)
        except _Bad as error:
            self._fail(action, str(error), error.shard)
            return
        except Exception as error:
            text = " ".join(str(error).split())
            self._fail(action, f"{type(error).__name__}: {text}")
            return
        finally:
            for view in views.values():
                view.release()
        # Taken here: the decision runs in another thread, and later.
        seconds, cpu_s = time.perf_counter() - began_s, time.thread_time()
        self._post(
            lambda: storing.stored(
                self._worker, action, size=part.size, seconds=seconds, cpu_s=cpu_s
            )
        )

    def _write(
        self,
        action: do.StoreCopies,
        views: dict[int, memoryview],
        over: threading.Event,
    ) -> Contents:
        grid, sizes = self._worker.grid, self._worker.copies.table.sizes
        for shard, view in views.items():
            bad = verify_copy(
                view, sizes[shard], self._chunk_bytes, action.digests[shard]
            )
            if bad is not None:
                text = f"chunk {bad} of shard {shard} has a wrong checksum"
                raise _Bad(text, shard)
        own = action.own
        held = {rank: (read_manifest(views[rank]), views[rank]) for rank in own}
        setting, first = self._settings.format, next(iter(held.values()))[0]
        holding = Holding(
            step=action.step,
            captured_in=action.captured_in,
            machines=action.machines,
            ranks_per_machine=grid.ranks_per_machine,
            index=action.index,
            parts=action.parts,
            own=held,
            shared=[view for shard, view in sorted(views.items()) if shard not in own],
            form=form_of(first) if setting == "auto" else setting,
        )
        name = part_name(
            round=action.round, term=action.term, machine_rank=action.machine_rank
        )
        return write_part(
            place_of(self._settings.path, self._settings.options),
            holding,
            name=name,
            now_s=clock.now_s(),
            pace=_Pace(self._settings.bandwidth_max, over),
        )

    def _fail(self, action: do.StoreCopies, reason: str, bad: int = -1) -> None:
        self._post(lambda: storing.stored(self._worker, action, failed=reason, bad=bad))


class _Bad(Corrupt):
    """The machine's own copy of `shard` does not verify."""

    def __init__(self, text: str, shard: int) -> None:
        super().__init__(text)
        self.shard = shard


@final
class _Pace:
    """Lets no more than `rate` bytes a second pass; 0: all. Raises: Refused when the
    round is over."""

    def __init__(self, rate: int, over: threading.Event) -> None:
        self._rate, self._over = rate, over
        self._began_s = time.monotonic()
        self._bytes = 0

    def __call__(self, count: int) -> None:
        wait_s = 0.0
        if self._rate:
            due_s = self._began_s + self._bytes / self._rate
            wait_s = due_s - time.monotonic()
        self._bytes += count
        if self._over.is_set() or (wait_s > AHEAD_S and self._over.wait(wait_s)):
            raise Refused("the round is over")
