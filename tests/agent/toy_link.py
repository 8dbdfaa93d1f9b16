"""A connection in a toy cluster: it keeps its order, and may be slow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any


class ToyLink:
    """Delivers in order, one message an event; slow until `slow_until_s`, and passed
    over as often as `drag` says at all times."""

    def __init__(
        self, toy: Any, hear: Callable[[Any], None], drag: float = 0.0
    ) -> None:
        self.toy, self.hear, self.drag = toy, hear, drag
        self.queue: deque[Any] = deque()
        self.waits = False
        self.slow_until_s = 0.0

    def post(self, message: object) -> None:
        self.queue.append(message)
        if not self.waits:
            self.waits = True
            self.toy.ready.append((self.deliver,))

    def deliver(self) -> None:
        toy = self.toy
        drag = 0.95 if self.slow_until_s > toy.now_s else self.drag
        if drag and toy.random.random() < drag:
            toy.ready.append((self.deliver,))
            return
        self.waits = False
        if self.queue:
            message = self.queue.popleft()
            if self.queue:
                self.waits = True
                toy.ready.append((self.deliver,))
            self.hear(message)
