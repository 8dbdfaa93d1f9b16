"""Decides for one machine: what its ranks do, and what the root is told.

A worker knows the ranks of the present round, the copies of its machine and what the
root said last. It takes what happened and returns what to do; agent/process.py does
it. Words of an older round or term are refused here, so that a paused root, a
sender that was cut off or a rank that was stopped can never write over what is kept.

Of a round it sees: Stop (ranks and transfers end, then an inventory), Begin (fetch
what is missing, start ranks, make copies again), then step by step the vote:
Reached -> Report -> Answer -> Capture -> Captured -> ShipCopy -> safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from twinstep.agent import actions as do, listing, messages as say, room, storing
from twinstep.agent.copies import Copies
from twinstep.agent.vote import Vote
from twinstep.storage_settings import Storage
from twinstep.values import Grid

Actions = list[do.WorkerAction]


@dataclass(slots=True, kw_only=True)
class Worker:
    """The decisions of one machine's agent.

    Invariant: round and term never fall; a slot is written only for this round."""

    machine: str
    grid: Grid
    chunk_bytes: int
    retry_s: float
    storage: Storage = field(default_factory=Storage)
    standby: bool = False
    host: str = ""
    port: int = 0
    group: int = 0
    round: int = 0
    term: int = 0
    machine_rank: int = -1
    stopped: bool = True
    quiet: bool = True
    """No rank and no transfer of an earlier round is left."""
    ended: bool = False
    """Its ranks of this round were ended because it was cut off."""
    master_port: int = 0
    place: int = -1
    """The machine rank of ranks that another launcher started and that wait here."""
    begin: say.Begin | None = None
    copies: Copies = field(init=False)
    vote: Vote = field(default_factory=Vote)
    pids: dict[int, int] = field(default_factory=dict[int, int])
    welcomed: set[int] = field(default_factory=set[int])
    restored: dict[int, float] = field(default_factory=dict[int, float])
    condition: say.Condition | None = None
    """What the machine's probes last found amiss, or that they do not any more."""
    doubted: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    """(shard, machine) of copies that arrived damaged once in this round."""
    latest: dict[str, say.ToRoot] = field(default_factory=dict[str, say.ToRoot])
    """The last message of each kind, said again to a root that may have missed it."""

    def __post_init__(self) -> None:
        self.copies = Copies(grid=self.grid)

    # What the root says.

    def root_here(self) -> Actions:
        """A root is reachable (again): everything it may have missed is repeated."""
        join = say.Join(
            machine=self.machine,
            host=self.host,
            port=self.port,
            group=self.group,
            round=self.round,
            term=self.term,
            machine_rank=self.machine_rank,
            standby=self.standby,
            ended=self.ended,
        )
        return [
            do.TellRoot(message=join),
            *(do.TellRoot(message=message) for message in self.latest.values()),
            *([do.TellRoot(message=self.condition)] if self.condition else []),
        ]

    def from_root(self, message: say.FromRoot) -> Actions:
        if (message.term, message.round) < (self.term, self.round):
            name = type(message).__name__
            return [do.Log(text=f"refused {name} of an older round or term")]
        self.term = message.term
        match message:
            case say.Stop():
                return self._stop(message)
            case say.Store():
                return storing.order_still(self, message)
            case say.Begin():
                return self._begin(message)
            case say.Reserve():
                return room.reserve(self, message)
            case say.Answer():
                return self._answer(message)
            case say.LookAtRanks(threads=threads):
                look = do.LookAtRanks(round=self.round, threads=threads)
                return [look] if not self.stopped else []
            case say.Finish():
                return [do.Leave(status=message.status, reason=message.reason)]

    def _stop(self, stop: say.Stop) -> Actions:
        if stop.round == self.round and self.stopped:
            return self.inventory()
        begun = self.begin
        if begun is not None and (stop.term, stop.round) == (begun.term, begun.round):
            return [do.Log(text=f"refused Stop of round {stop.round}, which has begun")]
        self.round, self.stopped, self.quiet = stop.round, True, False
        self.begin, self.ended = None, False
        self.vote.storing = 0
        self.latest.clear()
        return [do.StopRanks(round=stop.round)]

    def cut_off(self) -> Actions:
        """Neither the store nor a root was heard for long: another machine may have
        this one's place by now. Its ranks end, lest two write what there should be one
        of; what it holds stays. Only another round starts ranks here."""
        if self.stopped:
            return []
        self.stopped, self.quiet, self.ended = True, False, True
        self.begin = None
        self.latest.clear()
        text = "cut off from the store and from the root: its ranks end"
        return [do.Log(text=text), do.StopRanks(round=self.round)]

    def all_quiet(self, round: int, master_port: int) -> Actions:
        """Every rank is dead and every transfer ended: slots have no writer now."""
        if round != self.round or not self.stopped:
            return []
        self.quiet, self.master_port = True, master_port
        for shard, slot, _ in self.copies.table.filling():
            self.copies.table.abandon(shard, slot)
        return [*listing.unhashed(self.copies.table, round=round)] or self.inventory()

    def inventory(self) -> Actions:
        """Says what it holds, once nobody writes and all digests are known."""
        table = self.copies.table
        if not self.quiet or listing.unhashed(table, round=self.round):
            return []
        message = say.Inventory(
            machine=self.machine,
            round=self.round,
            term=self.term,
            copies=listing.inventory(table),
            sizes=dict(table.sizes),
            reached=self.vote.reached_max,
            master_port=self.master_port,
            place=self.place,
            resized_in=self.copies.resized_in,
        )
        return self.tell(message)

    def held(self) -> say.Held:
        """What it holds now, for whoever wants to know; nothing waits for it."""
        return say.Held(
            machine=self.machine,
            round=self.round,
            term=self.term,
            machine_rank=self.machine_rank,
            keep=self.vote.keep,
            reached=self.vote.reached_max,
            copies=listing.inventory(self.copies.table),
        )

    def waits(self, place: int) -> Actions:
        """Another launcher's ranks wait here, with this machine rank; -1: not all."""
        if place == self.place:
            return []
        self.place = place
        return self.inventory() if self.stopped and self.round else []

    def _begin(self, begin: say.Begin) -> Actions:
        ready = self.stopped and self.quiet and not self.ended
        if begin.round != self.round or not ready:
            return [do.Log(text=f"refused Begin of round {begin.round}")]
        names = [member.machine for member in begin.members]
        if self.machine not in names:
            return []
        self.machine_rank = names.index(self.machine)
        self.begin, self.stopped = begin, False
        self.grid = begin.grid(self.grid.ranks_per_machine)
        self.pids.clear()
        self.restored.clear()
        self.welcomed.clear()
        self.doubted.clear()
        self.latest.clear()
        self.vote.start(begin, ranks=self.ranks())
        gone = self.copies.start(begin, machine_rank=self.machine_rank)
        done: Actions = [do.ReleaseSlots(shards=tuple(gone))] if gone else []
        done.append(do.StartRanks(begin=begin, machine_rank=self.machine_rank))
        return done + room.reserve_missing(self, begin.sizes)

    def reserved(self, sizes: dict[int, int]) -> Actions:
        """The slots exist, though perhaps asked for in an earlier round."""
        return room.made(self, sizes)

    def unreserved(self, sizes: dict[int, int], reason: str) -> Actions:
        """There is no memory for these slots."""
        if self.copies.reserving.stale:
            return room.made(self, sizes)  # nor would they be of any use
        self.copies.reserving.ended(sizes)
        if set(sizes) <= set(self.copies.table.slots):  # only the third ones
            self.copies.table.spare -= set(sizes)
            return [do.Log(text=f"nothing is written to storage from here: {reason}")]
        return [] if self.stopped else self.unable(self.round, reason)

    # What the ranks say.

    def from_rank(self, message: say.FromRank) -> Actions:
        ours = message.rank in self.ranks()
        if message.round != self.round or self.stopped or not ours:
            name, of = type(message).__name__, "" if ours else f"rank {message.rank}, "
            return [do.Log(text=f"refused {name} of {of}round {message.round}")]
        match message:
            case say.Hello():
                return self._hello(message)
            case say.Layout():
                return room.laid_out(self, message)
            case say.Reached():
                self.vote.reached(message.rank, message.step)
                return self.report()
            case say.Captured():
                return self._captured(message)
            case say.Skipped():
                return self._skipped(message)
            case say.Restored():
                return self._restored(message)
            case say.BadCopy():
                return self._bad_copy(message)
            case say.BadStored():
                return storing.bad(self, message)
            case say.Arrive() | say.Leaving():
                return []
            case say.Hopeless():
                return self.unable(self.round, f"rank {message.rank}: {message.reason}")

    def ranks(self) -> range:
        """The ranks of this machine in the present round."""
        return self.grid.ranks(self.machine_rank)

    def _hello(self, hello: say.Hello) -> Actions:
        self.pids[hello.rank] = hello.pid
        done = self._welcome(hello.rank)
        if len(self.pids) == len(self.ranks()):
            up = say.RanksUp(
                machine=self.machine,
                round=self.round,
                term=self.term,
                pids=dict(self.pids),
            )
            done += self.tell(up)
        return done

    def _welcome(self, rank: int) -> Actions:
        """Tells a waiting rank where to start, once its copies are here."""
        assert self.begin is not None
        if rank in self.welcomed:
            return []
        slots: list[say.SlotInfo] | None = []
        if self.begin.step > 0 and not self.begin.stored:
            slots = self.copies.restore_slots(rank) if self.copies.reserved else None
        if slots is None:
            return []
        self.welcomed.add(rank)
        message = say.Welcome(
            round=self.round,
            step=self.begin.step,
            may_share=self.begin.may_share,
            chunk_bytes=self.chunk_bytes,
            slots=slots,
            stored=storing.source(self),
        )
        where = tuple((slot.shard, slot.slot) for slot in slots)
        return [do.TellRank(rank=rank, message=message, slots=where)]

    def settled(self) -> Actions:
        """Copies arrived: ranks that wait are told, missing twins are made."""
        done: Actions = []
        if self.begin is not None and self.begin.step > 0:
            for rank in sorted(self.pids):
                done += self._welcome(rank)
        return done + self.copies.mend(keep=self.vote.keep) + self.report()

    def _captured(self, message: say.Captured) -> Actions:
        done: Actions = []
        for shard, slot in self.vote.finished(message.rank, message.step):
            self.vote.wrote(message, shard, slot, self.copies.table, self.chunk_bytes)
            done += self.copies.send_out(shard, slot, keep=self.vote.keep)
        return done + self.report()

    def _skipped(self, message: say.Skipped) -> Actions:
        for shard, slot in self.vote.finished(message.rank, message.step):
            self.copies.table.abandon(shard, slot)
        text = f"rank {message.rank} skipped step {message.step}: {message.reason}"
        done: Actions = [do.Log(text=text)] if message.reason else []
        return done + self.report()

    def _restored(self, message: say.Restored) -> Actions:
        self.restored[message.rank] = message.seconds
        if len(self.restored) < len(self.ranks()):
            return []
        loaded = say.Loaded(
            machine=self.machine,
            round=self.round,
            term=self.term,
            step=message.step,
            sources=storing.sources(self),
            seconds=max(self.restored.values()),
        )
        return self.tell(loaded)

    def _bad_copy(self, bad: say.BadCopy) -> Actions:
        """A rank found a wrong checksum in a copy of this machine."""
        self.welcomed.discard(bad.rank)
        if self.copies.loaded_from.get(bad.shard) != bad.source:
            return self.settled()  # another rank said so before
        reason = f"chunk {bad.chunk} has a wrong checksum"
        return self.copy_bad(bad.shard, bad.step, self.machine, reason, True)

    def copy_bad(
        self, shard: int, step: int, holder: str, reason: str, corrupt: bool
    ) -> Actions:
        """Names a bad copy, never reads it again, and goes to the next."""
        if holder == self.machine:
            self.copies.table.quarantine(shard, step=step)
        # A round whose ranks have all loaded needs no source any more.
        needed = len(self.restored) < len(self.ranks())
        last = self.copies.drop_source(shard, step, holder) and needed
        message = say.CopyBad(
            machine=self.machine,
            round=self.round,
            term=self.term,
            shard=shard,
            step=step,
            holder=holder,
            corrupt=corrupt,
            last=last,
            reason=reason,
        )
        self.latest[f"bad {shard} {holder}"] = message
        return [
            do.TellRoot(message=message),
            *(self.copies.load(own=self.machine) if needed else []),
            *self.settled(),
        ]

    # The vote.

    def report(self) -> Actions:
        """Says where the machine stands, once all its ranks stand there."""
        if self.stopped or not self.copies.reserved:
            return []
        in_flight = self.copies.in_flight() or bool(self.vote.writing)
        step = self.vote.to_report(in_flight=in_flight)
        if step is None:
            return []
        report = say.Report(
            machine=self.machine,
            round=self.round,
            term=self.term,
            step=step,
            safe=self.copies.safe_steps(),
            in_flight=in_flight,
            digests=self.copies.shared_digests(),
        )
        return self.tell(report)

    def _answer(self, answer: say.Answer) -> Actions:
        if self.stopped or not self.copies.reserved:
            return []
        self.vote.keep = max(self.vote.keep, answer.keep)
        done: Actions = [*storing.order(self, answer)]
        for rank in self.ranks():
            if rank not in self.vote.writing:
                order = self.vote.order(rank, answer, self.copies)
                done.append(do.TellRank(rank=rank, message=order))
        return done

    def tell(self, message: say.ToRoot) -> Actions:
        self.latest[type(message).__name__] = message
        return [do.TellRoot(message=message)]

    def unable(self, round: int, reason: str) -> Actions:
        """What was asked for cannot be done on this machine."""
        if round != self.round:
            return []
        message = say.Unable(
            machine=self.machine, round=round, term=self.term, reason=reason
        )
        return self.tell(message)
