"""Moves copies for an agent: hashes, sends, fetches, serves, in threads of its own.

The agent's loop decides, these threads move bytes, and what came of it is posted back
to the loop. `stop` ends all of it: connections are shut, what is under way sees it
before its next chunk, and `idle` tells when nobody reads or writes a slot any more.
A holder writes down that it holds a copy before the sender hears of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from twinstep.agent import actions as do
from twinstep.agent.arrivals import Arrivals
from twinstep.agent.at_hand import Taker
from twinstep.agent.copies import HELD_ALREADY
from twinstep.agent.fetching import fetch_whole
from twinstep.agent.lanes import Lanes, Post
from twinstep.agent.pacing import Pacing, Pages
from twinstep.agent.transit import Transit
from twinstep.agent.worker import Worker
from twinstep.config import Job
from twinstep.errors import (
    Corrupt,
    DeadlinePassed,
    ProtocolError,
    Refused,
    TwinstepError,
)
from twinstep.store.memory import Slot
from twinstep.transfer.channel import PeerClosed
from twinstep.transfer.exchange import (
    Fetched,
    confirm,
    fetch_copy,
    offer_copy,
    refuse,
    serve_fetch,
)
from twinstep.transfer.flow import Flow
from twinstep.transfer.frame import DataHeader, Fetch, Offer
from twinstep.transfer.sender import (
    hash_copy,
    merge_digests,
    part_size,
    verify_copy,
)
from twinstep.transfer.tcp import TcpChannel, connect
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.streams import Connection


class Mover:
    """The threads that move copies, and the connections they use.

    `post` runs a decision in the agent's loop and carries its actions out; the future
    is done afterwards."""

    def __init__(
        self,
        *,
        job: Job,
        name: str,
        worker: Worker,
        memory: dict[tuple[int, int], Slot],
        post: Post,
        clock: Callable[[], float],
        credentials: Credentials = NONE,
        blame: Callable[[str, str], None] = lambda _peer, _reason: None,
        pages: Pages = dict[int, memoryview],
    ) -> None:
        """`blame` is called with a peer that spoke nonsense, and why it was dropped."""
        self._job, self._name, self._worker = job, name, worker
        self._credentials, self._blame = credentials, blame
        self._transit = Transit(worker=worker)
        self._memory, self._post, self._clock = memory, post, clock
        self._limits, self._timing = job.transfer, job.timing
        self._lanes = Lanes(
            threads=job.transfer.threads_max,
            post=post,
            tell_s_max=job.timing.transfer_s_max,
        )
        self._arrivals = Arrivals(self._transit, limits=job.transfer)
        self._taker = Taker(
            worker.copies,
            memory,
            self._lanes.tell,
            job.transfer,
            deadline_s=job.timing.transfer_s_max,
        )
        self._flow = Flow()
        self.pacing = Pacing(job, worker, pages, self._flow)

    # The life of a job.

    def stop(self) -> None:
        """Everything under way ends soon; what comes later is not affected."""
        self._lanes.stop()

    @property
    def idle(self) -> bool:
        """Nobody reads or writes a slot."""
        return self._lanes.active == 0

    def close(self) -> None:
        self._lanes.close()
        self.pacing.close()

    # Out: hashing and sending.

    def hash(self, action: do.HashCopy) -> None:
        size = self._worker.copies.table.sizes[action.shard]
        view = self._memory[action.shard, action.slot].view

        def work(_epoch: int) -> None:
            digests = hash_copy(view, size, self._limits.chunk_bytes)
            shard, slot, step = action.shard, action.slot, action.step
            self._lanes.tell(lambda: self._transit.hashed(shard, slot, step, digests))

        self._lanes.out(work)

    def ship(self, ship: do.ShipCopy) -> None:
        size = self._worker.copies.table.sizes[ship.shard]
        view = self._memory[ship.shard, ship.slot].view

        def work(epoch: int) -> None:
            transit = self._transit
            try:
                digests = self._send_parts(ship, view, size, epoch)
            except Corrupt as error:
                reason = str(error)
                self._lanes.tell(lambda: transit.source_bad(ship, reason))
                return
            except Exception as error:
                reason = str(error) or type(error).__name__
                self._lanes.tell(
                    lambda: transit.ship_failed(ship, reason, self._clock())
                )
                return
            shard, slot, step = ship.shard, ship.slot, ship.step
            if not ship.digests:
                self._lanes.tell(lambda: transit.hashed(shard, slot, step, digests))
            self._lanes.tell(
                lambda: transit.acknowledged(ship.round, shard, step, ship.target_rank)
            )

        self._lanes.out(work)

    def _send_parts(
        self, ship: do.ShipCopy, view: memoryview, size: int, epoch: int
    ) -> bytes:
        """Sends a copy over `streams` connections at once; returns all digests."""
        parts = self._limits.streams
        results: list[bytes | Exception] = [b""] * parts

        def send(part: int) -> None:
            try:
                results[part] = self._send(ship, view, size, epoch, part, parts)
            except Exception as error:
                results[part] = error

        threads = [
            threading.Thread(target=send, args=(part,)) for part in range(1, parts)
        ]
        for thread in threads:
            thread.start()
        send(0)
        for thread in threads:
            thread.join()
        for result in results:
            if isinstance(result, Exception):
                if str(result) == HELD_ALREADY:
                    return ship.digests or hash_copy(
                        view, size, self._limits.chunk_bytes
                    )
                raise result
        return merge_digests([r for r in results if isinstance(r, bytes)])

    def _send(
        self,
        ship: do.ShipCopy,
        view: memoryview,
        size: int,
        epoch: int,
        part: int,
        parts: int,
    ) -> bytes:
        offer = Offer(
            job=self._name,
            machine=self._worker.machine,
            round=ship.round,
            term=self._worker.term,
            shard=ship.shard,
            step=ship.step,
            captured_in=ship.captured_in,
            keep=ship.keep,
            replace=ship.replace,
            size=size,
            chunk_bytes=self._limits.chunk_bytes,
            part=part,
            parts=parts,
            told=bool(ship.digests),
        )
        channel = self._connect(ship.target.host, ship.target.port, epoch, yields=True)
        started = threading.Event()

        def over() -> bool:
            started.set()  # asked before each chunk
            return self._lanes.over(epoch)()

        begin = self._worker.begin
        mends = begin is not None and ship.step == begin.step
        ours = part_size(
            size, chunk_bytes=self._limits.chunk_bytes, part=part, parts=parts
        )
        turns = self.pacing.turn(channel, size=ours, mends=mends, over=over)
        try:
            digests = offer_copy(
                channel,
                offer,
                view=view,
                digests=ship.digests or None,
                cancelled=over,
                turn=turns,
                answered=turns.answered,
            )
            turns.arrived()
            return digests
        except Refused:
            if started.is_set() and ship.digests:
                self._check_own(ship, view, size)
            raise
        finally:
            turns.done()
            self._lanes.closed(channel)

    def _check_own(self, ship: do.ShipCopy, view: memoryview, size: int) -> None:
        """The holder got other bytes than were captured: ours may be the bad ones.

        Raises: Corrupt if they are."""
        bad = verify_copy(view, size, self._limits.chunk_bytes, ship.digests)
        if bad is not None:
            raise Corrupt(f"chunk {bad} has a wrong checksum")

    def _connect(
        self, host: str, port: int, epoch: int, *, yields: bool = False
    ) -> TcpChannel:
        """Returns a channel to a machine; one that `yields` gives way to training."""
        channel = connect(
            (host, port),
            limits=self._limits,
            connect_s=self._timing.connect_s_max,
            deadline_s=self._timing.transfer_s_max,
            credentials=self._credentials,
            job=self._name,
            yielding=self.pacing.settings if yields else None,
            flow=self._flow,
        )
        self._lanes.opened(channel, epoch)
        return channel

    # In: fetching.

    def fetch(self, fetch: do.FetchCopy) -> None:
        size = self._worker.copies.table.sizes[fetch.shard]
        view = self._memory[fetch.shard, fetch.slot].view[:size]

        def work(epoch: int) -> None:
            transit = self._transit
            try:
                whole = fetch_whole(partial(self._fetch, fetch, view, epoch))
            except Exception as error:
                reason = str(error) or type(error).__name__
                away = (OSError, Refused, DeadlinePassed)
                corrupt = not isinstance(error, away)
                self._lanes.tell(
                    lambda: transit.fetch_failed(fetch, reason, corrupt=corrupt)
                )
                return
            self._lanes.tell(lambda: transit.fetched(fetch, whole.digests))

        self._lanes.come(work)

    def _fetch(
        self, fetch: do.FetchCopy, view: memoryview, epoch: int, doubt: bool
    ) -> Fetched:
        wanted = Fetch(
            job=self._name,
            machine=self._worker.machine,
            round=fetch.round,
            term=self._worker.term,
            shard=fetch.shard,
            step=fetch.step,
            captured_in=fetch.captured_in,
            doubt=doubt,
        )
        channel = self._connect(fetch.source.host, fetch.source.port, epoch)
        try:
            fetched = fetch_copy(
                channel,
                wanted,
                view=view,
                chunk_bytes_max=self._limits.chunk_bytes,
                cancelled=self._lanes.over(epoch),
            )
        finally:
            self._lanes.closed(channel)
        due = (view.nbytes, self._limits.chunk_bytes)
        if (fetched.size, fetched.chunk_bytes) != due:
            raise ProtocolError(f"a copy of {fetched.size} bytes, not {view.nbytes}")
        return fetched

    # In: what others offer and ask for. Called in the loop, with the first header.

    def attend(self, connection: Connection, header: DataHeader) -> None:
        """Takes over a connection whose first header was read."""
        if self._lanes.active >= self._limits.connections_max:
            connection.close()
            return
        channel = TcpChannel(
            connection,
            limits=self._limits,
            deadline_s=self._timing.transfer_s_max,
            flow=self._flow,
        )
        match header:
            case Offer():
                reason = self._arrivals.place(header)
                work = partial(self._accept, channel, header, reason)
                self._lanes.come(work)
            case Fetch():
                slot, digests = self._transit.serves(
                    shard=header.shard,
                    step=header.step,
                    captured_in=header.captured_in,
                )
                present = (self._worker.term, self._worker.round)
                if (header.term, header.round) != present:
                    slot = None
                serve = partial(self._serve, channel, header, slot, digests)
                self._lanes.come(serve)
            case _:
                channel.close()

    def _accept(
        self, channel: TcpChannel, offer: Offer, reason: str, epoch: int
    ) -> None:
        try:
            if reason:
                refuse(channel, reason)
                return
            digests = None
            try:
                slot = self._arrivals.slot(offer)
                self._lanes.opened(channel, epoch)
                over = self._lanes.over(epoch)
                digests = self._taker.take(channel, offer, slot, over)
            finally:
                self._lanes.tell(lambda: self._arrivals.part_done(offer, digests))
            confirm(channel, offer)
        except (TwinstepError, OSError, KeyError) as error:
            self._note(channel, error)
            # The sender hears, or sees the connection end, and tries again
        finally:
            self._lanes.closed(channel)

    def _serve(
        self,
        channel: TcpChannel,
        fetch: Fetch,
        slot: int | None,
        digests: bytes,
        epoch: int,
    ) -> None:
        try:
            self._lanes.opened(channel, epoch)
            if slot is None:
                refuse(channel, f"no copy of shard {fetch.shard} at {fetch.step} here")
                return
            serve_fetch(
                channel,
                fetch,
                view=self._memory[fetch.shard, slot].view,
                size=self._worker.copies.table.sizes[fetch.shard],
                chunk_bytes=self._limits.chunk_bytes,
                digests=digests,
                cancelled=self._lanes.over(epoch),
            )
        except (TwinstepError, OSError, KeyError) as error:
            self._note(channel, error)
            # The machine that asked sees it and asks another
        finally:
            self._lanes.closed(channel)

    def _note(self, channel: TcpChannel, error: Exception) -> None:
        """Whoever spoke nonsense is named; who went away, or was refused, is not."""
        if isinstance(error, ProtocolError) and not isinstance(error, PeerClosed):
            self._blame(channel.peer, str(error))
