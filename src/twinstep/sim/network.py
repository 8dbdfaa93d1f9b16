"""The network of a simulated cluster: who reaches whom, how late, and what is lost.

Machines speak over connections, as they do over TCP. On one, messages keep their order
and none is missing: a lost packet is sent again and holds up what is behind it. A path
that is cut delivers nothing until it heals, and then everything, unless the connection
was given up meanwhile. Messages are lost, and said again, where a connection ends and
another takes its place: each that was under way arrived, or did not. Between two
connections there is no order. Each direction of a path has its own fate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twinstep.sim.events import Events

RESEND_S = 0.2
"""TCP sends a lost packet again no sooner; twice that the next time."""
RESENDS_MAX = 6


@dataclass(slots=True, kw_only=True, repr=False)
class Path:
    """One direction between two places."""

    delay_s: float
    cut: bool = False
    loss: float = 0.0
    clogged_until_s: float = 0.0


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class Link:
    """One direction of a connection: ordered, and whole until it ends."""

    network: Network
    source: str
    target: str
    hear: Callable[[Any], None]
    queue: deque[Any] = field(default_factory=deque[Any])
    due_s: float = 0.0
    """When the last of them is there; the next one may be right behind it."""
    open: bool = True

    def post(self, message: object) -> None:
        """The message is on its way; nothing happens on a link that has ended."""
        if not self.open:
            return
        self.queue.append(message)
        events = self.network.events
        arrives_s = events.now_s + self.network.travel_s(self.source, self.target)
        self.due_s = max(self.due_s, arrives_s)
        events.after(self.due_s - events.now_s, self._arrive)

    def _arrive(self) -> None:
        """The first of what is under way is there, or this is looked at again."""
        if not self.open:
            return
        network = self.network
        if network.is_cut(self.source, self.target):
            network.events.after(RESEND_S, self._arrive)
            return
        asleep_s = network.asleep_s(self.target)
        if asleep_s > 0:
            network.events.after(asleep_s, self._arrive)
            return
        self.hear(self.queue.popleft())

    def end(self, late_s: float = -1.0) -> None:
        """The connection ends. Of what was under way, a part still arrives, perhaps
        much later: it lay in a buffer of somebody who was busy.

        Args:
          late_s: how much later; drawn by default."""
        if not self.open:
            return
        random = self.network.events.random
        arriving = random.randint(0, len(self.queue)) if self.queue else 0
        if self.network.is_cut(self.source, self.target):
            arriving = 0
        if late_s < 0:
            late_s = random.choice((0.0, 0.0, 0.3, 2.0))
        for _ in range(arriving):
            message = self.queue.popleft()
            late_s += self.network.travel_s(self.source, self.target)
            self.network.events.after(late_s, self.hear, message)
        self.open = False
        self.queue.clear()


@dataclass(slots=True, kw_only=True, repr=False)
class Network:
    """All paths of a cluster. A place is a machine's name, or `store`."""

    events: Events
    delay_s: float
    """What a message takes, typically."""
    asleep_s: Callable[[str], float]
    """For how long a place will do nothing, whatever arrives."""
    paths: dict[tuple[str, str], Path] = field(
        default_factory=dict[tuple[str, str], Path]
    )

    def path(self, source: str, target: str) -> Path:
        key = (source, target)
        if key not in self.paths:
            slow = self.events.random.choice((1, 1, 1, 3))
            self.paths[key] = Path(delay_s=self.delay_s * slow)
        return self.paths[key]

    def is_cut(self, source: str, target: str) -> bool:
        return source != target and self.path(source, target).cut

    def travel_s(self, source: str, target: str) -> float:
        """What a message takes now: distance, lost packets, a clog."""
        if source == target:
            return self.events.around(self.delay_s / 10)
        path, random = self.path(source, target), self.events.random
        late_s = self.events.around(path.delay_s)
        resend_s = RESEND_S
        for _ in range(RESENDS_MAX):
            if path.loss == 0.0 or random.random() >= path.loss:
                break
            late_s += resend_s
            resend_s *= 2
        return late_s + max(0.0, path.clogged_until_s - self.events.now_s)

    def link(self, source: str, target: str, hear: Callable[[Any], None]) -> Link:
        return Link(network=self, source=source, target=target, hear=hear)

    # What is done to it.

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Nothing gets from one to the other, or either way."""
        self.path(source, target).cut = True
        if both:
            self.path(target, source).cut = True

    def heal(self) -> None:
        """Every path works again."""
        for path in self.paths.values():
            path.cut, path.loss, path.clogged_until_s = False, 0.0, 0.0
