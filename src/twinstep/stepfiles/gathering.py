"""Gets a step out of a running job's memory, machine by machine, into files.

Agents are asked what they hold, and the choice that a root makes after a failure says
which step is whole and where each shard is. Then this process fetches shards as a
machine would that takes a lost one's place: over the agents' own connections, with
their proofs and checksums, fenced by round and term. It holds what all ranks share and
one machine's own shards at a time (of small ones several: the sooner they are here, the
less is overwritten), and writes them as that machine writes its part.

Training goes on, and overwrites a step after the next one is safe. So a step may be
gone before all of it has come; then the newest is tried, a few times. For a state that
takes longer to fetch than two steps to train this is no way: let the job write to its
storage, where each machine writes its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from twinstep import clock
from twinstep.agent.status import MachineStatus
from twinstep.capture.manifest import Manifest, read_manifest
from twinstep.capture.snapshot import cut
from twinstep.errors import (
    Corrupt,
    DeadlinePassed,
    ProtocolError,
    Refused,
    TwinstepError,
    UsageError,
)
from twinstep.explain import Sight, look
from twinstep.jobs import JobView
from twinstep.recovery.choice import Choice, HeldCopy, choose
from twinstep.stepfiles.windows import Tick
from twinstep.store.contents import Contents, part_name
from twinstep.store.places import Place
from twinstep.store.writing import Holding, form_of, make_whole, write_part
from twinstep.transfer.channel import PeerClosed
from twinstep.transfer.exchange import fetch_copy
from twinstep.transfer.frame import Fetch
from twinstep.transfer.tcp import connect
from twinstep.values import Grid

ATTEMPTS_MAX = 8
AHEAD_BYTES = 4 << 30
"""Own shards that are held at a time: of one machine, and of more only within this."""
NAME = "export"
"""What agents see as the machine that asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gather:
    """One attempt to get one step out of a job."""

    view: JobView
    sight: Sight
    choice: Choice

    @property
    def grid(self) -> Grid:
        job = self.sight.job
        return Grid(machines=job.machines, ranks_per_machine=job.ranks_per_machine)

    @property
    def size(self) -> int:
        """Bytes of all shards that there are to fetch."""
        return sum(self.sight.status.sizes.get(s, 0) for s in self.choice.sources)

    def write(self, place: Place, *, tick: Tick) -> Contents:
        """The step is whole in `place` afterwards.

        Raises: Refused, Corrupt, DeadlinePassed, PeerClosed when a shard cannot be
        had any more; ProtocolError; OSError."""
        grid, ranges, names = self.grid, list[memoryview](), list[str]()
        wanted = [shard for shard in self.choice.sources if grid.is_shared(shard)]
        shared = sorted(wanted)
        for machine_ranks in self._batches():
            own = [rank for place in machine_ranks for rank in grid.ranks(place)]
            fetched = self._fetch_all([*wanted, *own])
            if wanted:
                ranges, wanted = [fetched[shard] for shard in shared], []
            for machine_rank in machine_ranks:
                ranks = grid.ranks(machine_rank)
                own_slots = {rank: fetched.pop(rank) for rank in ranks}
                holding = self._holding(machine_rank, own_slots, ranges)
                name = part_name(
                    round=self.sight.status.round,
                    term=self.sight.status.term,
                    machine_rank=machine_rank,
                )
                now_s = clock.now_s()
                write_part(place, holding, name=name, now_s=now_s, pace=tick)
                names.append(name)
        return make_whole(place, step=self.choice.step, names=names)

    def _batches(self) -> list[range]:
        """Machine ranks whose own shards are in memory together."""
        grid, sizes = self.grid, self.sight.status.sizes
        batches: list[range] = []
        first, held = 0, 0
        for place in range(grid.machines):
            size = sum(sizes.get(rank, 0) for rank in grid.ranks(place))
            if place > first and held + size > AHEAD_BYTES:
                batches.append(range(first, place))
                first, held = place, 0
            held += size
        return [*batches, range(first, grid.machines)]

    def _holding(
        self,
        machine_rank: int,
        own: dict[int, memoryview],
        ranges: list[memoryview],
    ) -> Holding:
        held = {rank: (self._manifest(view), view) for rank, view in own.items()}
        for manifest, _ in held.values():
            _check_ranges(manifest, ranges)
        return Holding(
            step=self.choice.step,
            captured_in=self.choice.captured_in,
            machines=self.grid.machines,
            ranks_per_machine=self.grid.ranks_per_machine,
            index=machine_rank,
            parts=self.grid.machines,
            own=held,
            shared=ranges,
            form=form_of(next(iter(held.values()))[0]),
        )

    def _manifest(self, view: memoryview) -> Manifest:
        manifest = read_manifest(view)
        if manifest.step != self.choice.step:
            raise Corrupt(f"a shard of step {manifest.step}, not {self.choice.step}")
        return manifest

    def _fetch_all(self, shards: list[int]) -> dict[int, memoryview]:
        """Returns the shards' bytes, fetched at the same time."""
        threads = max(1, min(len(shards), self.sight.job.transfer.threads_max))
        with ThreadPoolExecutor(threads) as pool:
            return dict(zip(shards, pool.map(self._fetch, shards), strict=True))

    def _fetch(self, shard: int) -> memoryview:
        """Returns a shard from the first machine that gives it."""
        failed: Exception | None = None
        for machine in self._holders(shard):
            try:
                return self._fetch_from(machine, shard)
            except LOST as error:
                failed = error
        raise failed or Refused(f"no machine that holds shard {shard} is known")

    def _holders(self, shard: int) -> list[MachineStatus]:
        """The machines with a good copy, the shard's own first."""
        by_name = {machine.machine: machine for machine in self.sight.status.machines}
        found = [by_name[n] for n in self.choice.sources[shard] if n in by_name]
        return sorted(found, key=lambda machine: shard not in machine.ranks)

    def _fetch_from(self, machine: MachineStatus, shard: int) -> memoryview:
        status, job = self.sight.status, self.sight.job
        size = status.sizes[shard]
        view = memoryview(bytearray(size))
        channel = connect(
            (machine.host, machine.port),
            limits=job.transfer,
            connect_s=job.timing.connect_s_max,
            deadline_s=job.timing.transfer_s_max,
            credentials=self.view.credentials,
            job=self.view.job.name,
        )
        wanted = Fetch(
            job=self.view.job.name,
            machine=NAME,
            round=status.round,
            term=status.term,
            shard=shard,
            step=self.choice.step,
            captured_in=self.choice.captured_in,
        )
        try:
            fetched = fetch_copy(
                channel, wanted, view=view, chunk_bytes_max=job.transfer.chunk_bytes
            )
        finally:
            channel.close()
        digest = xxhash.xxh3_128_digest(fetched.digests)
        if fetched.size != size or digest != self._copy(machine, shard).digest:
            raise Corrupt(f"{machine.machine}'s copy of shard {shard} is another one")
        return view

    def _copy(self, machine: MachineStatus, shard: int) -> HeldCopy:
        version = (shard, self.choice.step, self.choice.captured_in)
        return next(
            copy
            for copy in self.sight.held[machine.machine]
            if (copy.shard, copy.step, copy.captured_in) == version
        )


LOST = (Refused, Corrupt, DeadlinePassed, PeerClosed)
"""What happens to a copy that is overwritten, or whose machine is lost, meanwhile."""


def gather(
    view: JobView,
    *,
    step: int | None,
    write: Callable[[Gather], Contents],
    say: Callable[[str], None],
) -> Contents:
    """Returns the step that `write` has brought to files: `step`, or the newest.

    Raises: UsageError naming the steps in memory when that one is not, or none is;
    Refused when every attempt was overtaken by training; what `write` raises."""
    failed: Exception | None = None
    for _ in range(ATTEMPTS_MAX):
        sight = look(view)
        choice = chosen(sight, step)
        if not choice.step:
            raise _nothing(view, sight, step, choice, failed)
        try:
            return write(Gather(view=view, sight=sight, choice=choice))
        except LOST as error:
            failed = error
            say(f"step {choice.step} is gone meanwhile ({error}); trying the newest")
    raise Refused(
        f"{failed}; so {ATTEMPTS_MAX} times in a row: training overwrites each step "
        "before it is fetched. Export from the job's storage instead (--from), or "
        "while it captures less often (schedule.every)"
    ) from failed


def chosen(sight: Sight, step: int | None) -> Choice:
    """Returns the newest step that is whole in memory, or `step` if that is."""
    held = {
        machine: [copy for copy in copies if step is None or copy.step == step]
        for machine, copies in sight.held.items()
    }
    job = sight.job
    grid = Grid(machines=job.machines, ranks_per_machine=job.ranks_per_machine)
    return choose(held, grid=grid, shared=sight.status.shared)


def _nothing(
    view: JobView,
    sight: Sight,
    step: int | None,
    choice: Choice,
    failed: Exception | None,
) -> TwinstepError:
    steps = sorted({copy.step for copies in sight.held.values() for copy in copies})
    whole = [number for number in steps if chosen(sight, number).step]
    silent = "".join(f"; no answer: {text}" for text in sight.silent)
    if step is None:
        return UsageError(
            f"the memory of job {view.job.name} has no step to export: "
            f"{choice.reason}{silent}"
        )
    there = f"it has {', '.join(map(str, whole)) or 'none'} whole{silent}"
    text = f"step {step} is not in the memory of job {view.job.name}; {there}"
    if failed is not None:
        return Refused(f"{text}: it was overwritten while it was fetched ({failed})")
    return UsageError(f"{text}. Name one of these, or latest")


def _check_ranges(manifest: Manifest, ranges: list[memoryview]) -> None:
    """The ranges of the shared region are as long as the manifest's says."""
    due = [
        len(cut(manifest.shared_bytes, parts=len(ranges), index=index))
        for index in range(len(ranges))
    ]
    lengths = [len(view) for view in ranges]
    if lengths != due or (manifest.shared_bytes and not ranges):
        raise ProtocolError(
            f"shared shards of {lengths} bytes, where a manifest has "
            f"{manifest.shared_bytes} bytes in {due}"
        )
