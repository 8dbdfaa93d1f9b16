"""The thread beside training that listens to the agent and copies what it asks for.

    training thread            twin thread                        agent
      after_step ── Standing ──►  │ ◄──────────── Slots, Capture ───┤
                                  │ copy into the slot              │
      fence ◄──── copying ends ── │ ───────────── Captured ────────►│

Both threads share one condition: where the rank stands, whether a copy is under way,
and whether the agent is there. What is copied while training goes on is the adapter's
to know; the session (session.py) says when a step is reached and when it closes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import final

from twinstep.adapters.state import StateAdapter
from twinstep.agent import messages as say
from twinstep.agent.tether import Tether
from twinstep.capture.snapshot import Digests, Layout, cut
from twinstep.capture.turn import Came, Outcome, Standing, Turn, turn
from twinstep.environment import RankPlace
from twinstep.errors import DeadlinePassed
from twinstep.store.memory import Slot, adopt


@final
class Twin:
    """One rank's slots, where it stands, and the thread that copies into them."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        self.adapter: StateAdapter | None = None
        self.place: RankPlace | None = None
        self.tether: Tether | None = None
        self.thread: threading.Thread | None = None
        self.changed = threading.Condition()
        self.standing = Standing(step=-1, held=None, closed=True)
        self.layout: Layout | None = None
        self.captured = self.skipped = 0
        self.copied_s = 0.0
        self.ended = False
        """The session has closed."""
        self._complain = complain
        self._slots: dict[tuple[int, int], Slot] = {}
        self._shared_range = range(0)
        self._chunk_bytes = 0
        self._ordered = -1
        """The step of the order that is being carried out, or waited with."""

    # In the training thread.

    def start(self) -> None:
        self.thread = threading.Thread(
            target=self._listen, name="twinstep-twin", daemon=True
        )
        self.thread.start()

    def stand(self, standing: Standing) -> None:
        """The rank stands at a step, and what was held of the one before may go."""
        with self.changed:
            self.standing = standing
            self.changed.notify_all()

    def wait_copied(self, *, closing: bool) -> None:
        """No update may change what a copy under way still reads, when this returns.

        Args:
          closing: the state changes next, so that the step cannot be copied later,
            and an order that has come for it is carried out first if the state would
            last."""
        with self.changed:
            standing = self.standing
            lasts = standing.held is not None and standing.held.lasts
            if not lasts:
                self.changed.wait_for(lambda: not standing.copying)
            elif closing:
                self.changed.wait_for(
                    lambda: not standing.copying and self._ordered != standing.step
                )
                standing.held = None  # its memory is the update's again
            if closing or not lasts:
                standing.closed = True

    def lay_out(self) -> None:
        """The state is laid out, and the agent knows how much memory it takes."""
        assert self.place is not None and self.adapter is not None
        place = self.place
        self.layout = layout = self.adapter.layout()
        self._shared_range = cut(
            layout.shared_bytes, parts=place.ranks_per_machine, index=place.local_rank
        )
        message = say.Layout(
            rank=place.rank,
            round=place.round,
            own_bytes=layout.own_bytes,
            shared_bytes=len(self._shared_range),
            shared_digest=self.adapter.shared_digest(),
        )
        self.send(message)

    def send(self, message: say.FromRank) -> None:
        tether = self.tether  # the other thread may find it gone at any time
        if tether is None:
            return
        try:
            tether.send(message)
        except OSError:
            self._lost()

    def end(self) -> None:
        """The thread does not wait for another step."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def give_up_slots(self) -> None:
        for slot in self._slots.values():
            slot.close()
        self._slots = {}

    def _lost(self) -> None:
        """The agent is gone; training goes on without protection."""
        with self.changed:
            lost, self.tether = self.tether, None
            self.changed.notify_all()
        if lost is None:
            return
        lost.close()
        if not self.ended:
            self._complain("the agent is gone: steps are not protected any more")

    # In the twin thread.

    def _listen(self) -> None:
        tether = self.tether
        assert tether is not None
        while not self.ended:
            try:
                self._hear(tether, tether.receive(None))
            except (OSError, DeadlinePassed):
                return self._lost()
            except Exception as error:  # training must not end with this thread
                self._complain(f"{type(error).__name__}: {error}")

    def _hear(self, tether: Tether, message: say.ToRank) -> None:
        match message:
            case say.Slots():
                self.give_up_slots()
                descriptors = tether.take(len(message.slots))
                self._chunk_bytes = message.chunk_bytes
                self._slots = {
                    (info.shard, info.slot): adopt(descriptor)
                    for info, descriptor in zip(message.slots, descriptors, strict=True)
                }
            case say.Capture():
                self._capture(message)
            case say.Unshare():
                assert self.adapter is not None
                self.adapter.unshare()
                self.layout = None
                self._complain(message.reason)
            case say.Fail():
                self.give_up_slots()
                self._complain(message.reason)
            case say.Admit():
                pass  # said once, before there was a session
            case say.Welcome():
                tether.leave(len(message.slots) + message.pulse)

    def _capture(self, answer: say.Capture) -> None:
        """Copies the state into its slots, if it still stands at the step."""
        if not answer.capture:
            return self._settle(answer.step, *Came.refused(again=answer.again))
        assert self.place is not None
        rank, round = self.place.rank, self.place.round
        if self._turn(answer) is Turn.LATER:
            self._settle(answer.step, Came.PASSED)
        with self.changed:
            self._ordered = answer.step
            self.changed.wait_for(lambda: self._turn(answer) is not Turn.LATER)
            standing = self.standing
            late = self._turn(answer) is not Turn.NOW
            ready = standing.held is not None and bool(self._slots)
            standing.copying = copying = not late and ready
        reason, digests = "", Digests()
        if copying:
            try:
                finish = self._copy(standing, answer)
                self._open(standing)
                digests = finish()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
            finally:
                self._open(standing)
        if copying and not reason:
            self.captured += 1
            told = {shard: digests.shared for shard, _ in self._slots if shard != rank}
            told[rank] = digests.own
            told = {shard: each for shard, each in told.items() if each}
            self.send(
                say.Captured(rank=rank, round=round, step=answer.step, digests=told)
            )
            return self._settle(answer.step, Came.CAPTURED)
        self.skipped += 1
        self._settle(answer.step, Came.FAILED, reason or "its turn came too late")
        self.send(say.Skipped(rank=rank, round=round, step=answer.step, reason=reason))

    def _settle(self, step: int, came: Came, reason: str = "") -> None:
        with self.changed:
            self.standing.settle(step, Outcome(came, reason))
            self._ordered = -1
            self.changed.notify_all()

    def _turn(self, answer: say.Capture) -> Turn:
        """What is due; too late when the session ends, or the agent is gone."""
        gone, standing = self.ended or self.tether is None, self.standing
        due = turn(answer.step, standing=standing.step, closed=standing.closed)
        return Turn.LATE if gone else due

    def _open(self, standing: Standing) -> None:
        """The fence opens: the next update may run."""
        with self.changed:
            standing.copying = False
            self.changed.notify_all()

    def _copy(self, standing: Standing, answer: say.Capture) -> Callable[[], Digests]:
        """Reads the live state; the bytes are in the slots when what is returned
        has been called."""
        assert standing.held is not None
        assert self.place is not None and self.adapter is not None
        began_s = time.perf_counter()
        rank = self.place.rank
        shared = [
            slot.view
            for (shard, index), slot in self._slots.items()
            if shard != rank and index == answer.shared_slot
        ]
        finish = self.adapter.copy(
            standing.held,
            own=self._slots[rank, answer.own_slot].view,
            shared=shared[0] if shared else memoryview(bytearray()),
            shared_range=self._shared_range,
            chunk_bytes=self._chunk_bytes,
        )
        self.copied_s += time.perf_counter() - began_s
        return finish
