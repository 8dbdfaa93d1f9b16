"""A whole cluster in one thread, from one seed: machines, ranks, network, store, cloud.

Election, root, worker, health, placement and choice are those that ship; this carries
their actions out with a heap instead of sockets. Settings are drawn from the seed, the
extreme ones too: leases barely longer than a heartbeat, copies of one chunk, slow
links, steps that are over before an answer can come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from random import Random

from twinstep.agent import messages as say, seat
from twinstep.agent.phase import Phase
from twinstep.agent.root import Root
from twinstep.config import Job, Storage, Timing, Transfer
from twinstep.placement.strategy import place
from twinstep.sim.agent import SimAgent
from twinstep.sim.check import Check, Violation
from twinstep.sim.events import Events
from twinstep.sim.memory import CHUNK_BYTES
from twinstep.sim.network import Network
from twinstep.sim.operator import SimOperator
from twinstep.sim.pattern import SILENT, Pattern, draw as draw_pattern
from twinstep.sim.ranks import SimCrew, SimRank
from twinstep.sim.spans import Spans
from twinstep.sim.storage import SimStorage
from twinstep.sim.store import PLACE, SimStore
from twinstep.values import Grid

LINES_MAX = 400
"""Lines of a trace that are kept: its end tells most."""
STEPS_S_MAX = 8.0
"""A fault that waits for steps strikes after this time all the same."""
LASTS = 0.4
"""Where the pattern of steps changes, so often is training watched until all machines
must have seen that."""
MEND_S_MAX = 8.0
"""When all is well and all ranks have loaded, missing twins exist within this time: a
pause may last for six seconds more, and a send be tried again after three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a cluster is like. All times in seconds."""

    machines: int = 3
    ranks: int = 1
    standbys: int = 1
    copies: int = 2
    shared: bool = False
    chunks: int = 2
    """Chunks in a copy."""
    chunk_s: float = 0.002
    step_s: float = 0.1
    start_s: float = 0.2
    """A rank's start."""
    first_step_s: float = 0.0
    """So much longer takes the first step of a round, as where code is compiled:
    missing twins have to be made meanwhile."""
    delay_s: float = 0.001
    """A message's way."""
    silence_s: float = 1.5
    operator_s: float = 1.0
    queue_max: int = 1000
    pattern: Pattern = SILENT
    """What steps do with the network."""
    storage_s: float = 0.0
    """How long it takes to write a chunk to storage; 0: there is none."""
    keep_last: int = 2
    every_steps: int = 0
    min_machines: int = 0
    """The job goes on with so many; 0: with all only."""
    resize_s: float = 1.0
    """After so long without a machine, or with one to grow by."""
    steps_after: int = 5
    """Training goes on when so many steps were made since the last damage."""
    bound_s: float = 240.0
    """Training goes on within this time after everything is healed."""

    def job(self) -> Job:
        timing = Timing(
            silence_s_max=self.silence_s,
            hang_s_min=2.0,
            hang_s_max=8.0,
            hang_steps=4.0,
            first_step_s_max=20.0,
            stop_s_max=3.0,
            transfer_s_max=3.0,
            machine_s_max=1e9,
            call_s_max=self.silence_s,
            ask_again_s=2.0,
            resize_after_s=self.resize_s,
        )
        return Job(
            machines=self.machines,
            min_machines=self.min_machines,
            ranks_per_machine=self.ranks,
            copies=self.copies,
            standbys=self.standbys,
            rounds_without_progress_max=10**9,
            asks_max=10**6,
            timing=timing,
            transfer=Transfer(chunk_bytes=CHUNK_BYTES),
            schedule=self.pattern.schedule(self.step_s, self.chunk_s, self.delay_s),
            storage=Storage(
                path="storage" if self.storage_s else "",
                keep_last=self.keep_last,
                every_steps=self.every_steps,
                retry_s=1.0,
                write_s_max=20.0,
                look_s_max=1e6,
            ),
        )


def draw(random: Random, **fixed: int) -> Settings:
    """Returns a cluster of this chance; `fixed` settings are as they are told."""
    machines = fixed.get("machines", random.choice((2, 3, 3, 4, 5)))
    copies = min(machines, fixed.get("copies", random.choice((1, 2, 2, 2, 3))))
    step_s = random.choice((0.02, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3))
    step_s = 0.005 if random.random() < 0.02 else step_s
    silence_s = random.choice((0.5, 1.5, 1.5))
    near = [d for d in (0.0001, 0.001, 0.01) if 50 * d <= silence_s]
    delay_s = random.choice(near)
    return Settings(
        machines=machines,
        ranks=fixed.get("ranks", random.choice((1, 1, 2))),
        standbys=fixed.get("standbys", random.choice((0, 1, 1))),
        copies=copies,
        shared=random.random() < 0.4,
        chunks=random.choice((1, 1, 2, 3)),
        chunk_s=random.choice((0.0001, 0.002, 0.02)),
        step_s=step_s,
        start_s=random.choice((0.05, 0.5)),
        first_step_s=random.choice((0.0, 0.0, 0.0, 0.0, 0.0, 14.0)),
        delay_s=delay_s,
        silence_s=silence_s,
        operator_s=random.choice((0.1, 2.0)),
        # What is under way counts as queued here.
        queue_max=random.choice((8 if 12 * delay_s <= step_s else 1000, 1000, 1000)),
    )


def with_traffic(settings: Settings, random: Random) -> Settings:
    """Returns the same cluster; its steps use the network as this chance has it."""
    pattern = draw_pattern(random)
    lasts = pattern.drifts_at < 100 and random.random() < LASTS
    steps = pattern.drifts_at + 20 if lasts else settings.steps_after
    return replace(settings, pattern=pattern, steps_after=steps)


def with_storage(settings: Settings, random: Random) -> Settings:
    """Returns the same cluster, half of the time with a storage of this chance."""
    if random.random() < 0.5:
        return settings
    return replace(
        settings,
        storage_s=random.choice((0.001, 0.02, 0.2)),
        keep_last=random.choice((1, 2)),
        every_steps=random.choice((0, 0, 5)),
    )


def with_fewer(settings: Settings, random: Random) -> Settings:
    """Returns the same cluster; with a storage, it goes on with fewer machines half of
    the time."""
    if not settings.storage_s or random.random() < 0.5:
        return settings
    return replace(
        settings,
        min_machines=random.randint(1, settings.machines),
        resize_s=random.choice((0.3, 1.0, 4.0)),
    )


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class World:
    """One cluster."""

    settings: Settings
    random: Random
    events: Events = field(init=False)
    network: Network = field(init=False)
    store: SimStore = field(init=False)
    storage: SimStorage = field(init=False)
    operator: SimOperator = field(init=False)
    check: Check = field(init=False)
    spans: Spans = field(init=False)
    job: Job = field(init=False)
    grid: Grid = field(init=False)
    holders: list[list[int]] = field(init=False)
    agents: dict[str, SimAgent] = field(default_factory=dict[str, SimAgent])
    crews: dict[tuple[int, int], SimCrew] = field(
        default_factory=dict[tuple[int, int], SimCrew]
    )
    given_up: set[str] = field(default_factory=set[str])
    lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=LINES_MAX))
    names: int = 0
    steps: int = 0
    """Updates that all ranks together have made."""

    def __post_init__(self) -> None:
        self.job = self.settings.job()
        self.events = Events(random=self.random)
        self.network = Network(
            events=self.events, delay_s=self.settings.delay_s, asleep_s=self._asleep_s
        )
        self.store = SimStore(
            events=self.events,
            network=self.network,
            call_s_max=self.job.timing.call_s_max,
        )
        self.storage = SimStorage(
            events=self.events,
            random=Random(f"storage {self.settings}"),
            chunk_s=self.settings.storage_s,
        )
        self.grid = Grid(
            machines=self.job.machines, ranks_per_machine=self.job.ranks_per_machine
        )
        placement = place(self.grid.machines, copies=self.job.copies_held)
        self.holders = [list(holders) for holders in placement.holders]
        self.check = Check(world=self)
        self.spans = Spans(world=self)
        self.operator = SimOperator(world=self, takes_s=self.settings.operator_s)
        for number in range(self.settings.machines + self.settings.standbys):
            self.add_machine(standby=number >= self.settings.machines)

    # Machines.

    def add_machine(self, *, standby: bool = False) -> str:
        name = f"m{self.names:02}"
        self.names += 1
        agent = SimAgent(world=self, name=name, standby=standby)
        self.agents[name] = agent
        agent.begin()
        return name

    def kill_machine(self, name: str) -> None:
        """Agent, ranks and memory are gone at once; the lease lapses by itself."""
        agent = self.agents.pop(name, None)
        if agent is None:
            return
        self.log(name, "is dead")
        self.check.lose(name)
        agent.end()
        self.events.after(self.settings.operator_s, self.operator_sees, name)

    def give_up(self, name: str) -> None:
        """A root counts on this machine no more."""
        self.given_up.add(name)
        self.check.lose(name)

    def is_given_up(self, name: str) -> bool:
        return name in self.given_up

    def operator_sees(self, name: str) -> None:
        """The operator says that a machine has ended; of those that joined, their
        leases tell."""
        for agent in list(self.agents.values()):
            agent.rooting.machine_ended(name, "it ended")

    def _asleep_s(self, place: str) -> float:
        agent = self.agents.get(place)
        return 0.0 if agent is None or place == PLACE else agent.asleep_s()

    @property
    def training(self) -> list[SimAgent]:
        return [a for a in self.agents.values() if a.worker.machine_rank >= 0]

    @property
    def root(self) -> Root | None:
        """The root of the newest term, if it lives."""
        roots = [a.rooting.root for a in self.agents.values() if a.rooting.root]
        return max(roots, key=lambda root: root.term, default=None)

    # What happens.

    def log(self, who: str, text: str) -> None:
        self.lines.append(f"{self.events.now_s:9.3f}  {who:<7}  {text}")

    def stepped(self, rank: SimRank) -> None:
        self.steps += 1

    @property
    def reached(self) -> int:
        """The newest step that the root has heard of in the present round."""
        return self.root.ballot.reached if self.root is not None else 0

    def _loaded(self, root: Root) -> bool:
        """Whether all ranks stand at the step that the round began from."""
        crew = self.crews.get((root.round, root.term))
        ranks = [] if crew is None or root.begin is None else crew.ranks
        here = [r for r in ranks if r.alive and r.step == r.begin.step]
        return len(here) == root.grid.world_size

    def saved(self, key: str, value: bytes) -> None:
        """A root's write has reached the store."""
        if key == seat.RESULT:
            raise Violation("6", f"the job ended: {value.decode()}")

    def heal(self) -> None:
        """All is well from now on, as far as the world can make it so."""
        self.network.heal()
        self.store.away = self.storage.away = False
        self.storage.full = self.storage.slow = False
        self.operator.refuses, self.operator.stillborn = False, 0
        self.launch_missing(self.root)
        if not self.agents:  # nobody is left who could ask for a machine
            self.events.probe("world: every machine was lost")
            for _ in range(self.settings.machines):
                self.add_machine()
        for agent in self.agents.values():
            agent.skew_s = 0.0
            agent.mover.corrupt_next = False

    def launch_missing(self, root: Root | None) -> None:
        """Of machines that died before the job began nobody knows but who launched
        them; of those that die later, the root does."""
        if self.check.began:
            return
        if root is None or root.phase is Phase.GATHERING:
            here = sum(not agent.standby for agent in self.agents.values())
            for _ in range(self.settings.machines - here):
                self.add_machine()

    def is_training(self, steps: int) -> bool:
        """Whether all places that the job has are taken, and a step that is newer than
        the one the round began from, and than `steps`, is safe."""
        root = self.root
        if root is None or root.phase is not Phase.TRAINING or root.begin is None:
            return False
        here = all(name in self.agents for name in root.roster.members)
        here = here and root.grid.machines == self.settings.machines
        enough = max(steps, root.begin.step + self.settings.steps_after)
        fresh = root.ballot.keep > max(root.begin.step, steps)
        return here and root.ballot.answered >= enough and fresh

    def run_until(self, at_s: float) -> None:
        """Everything before `at_s` has happened."""
        while self.events.now_s < at_s:
            self.events.next()

    def run_steps(self, count: int) -> None:
        """So many steps were made in the present round, or it takes too long."""
        until_s = self.events.now_s + STEPS_S_MAX
        while self.events.now_s < until_s and self.round_steps() < count:
            self.events.next()

    def round_steps(self) -> int:
        """Steps since the newest round that ranks were started for."""
        if not self.crews:
            return 0
        ranks = self.crews[max(self.crews, key=lambda key: (key[1], key[0]))].ranks
        return max((rank.step - rank.begin.step for rank in ranks), default=0)

    def run_to_health(self) -> None:
        """Training goes on. Raises: Violation when it does not within the bound."""
        until_s = self.events.now_s + self.settings.bound_s
        began, floor = (root := self.root) and root.begin, self.reached
        term = root.term if root is not None else 0
        idle: tuple[say.Begin | None, float] = (None, 0.0)
        while not self.is_training(floor):
            root = self.root
            if root is not None and root.term > term:
                term = root.term
                self.launch_missing(root)
            if root is None or root.begin is not began:
                began, floor = None, 0  # step numbers come again
            if root is None or root.begin is not idle[0] or not self._loaded(root):
                idle = (root and root.begin, self.events.now_s)
            elif self.events.now_s > idle[1] + MEND_S_MAX:
                self.check.mended(root.begin)
            if self.events.now_s > until_s:
                root = self.root
                phase = root.phase.value if root is not None else "no root"
                raise Violation(
                    "6", f"no training {self.settings.bound_s:g} s after all was healed"
                    f" ({phase})"
                )  # fmt: skip
            for _ in range(20):
                self.events.next()
