"""The threads in which copies move, and how all of what they do is ended.

An epoch lasts from one stop to the next. Work carries the epoch it was begun in, and
sees before each chunk whether that is over; its connections are shut when it is, so
that nobody waits in one for longer. `active` counts who may read or write a slot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import final

from twinstep.agent.worker import Actions
from twinstep.errors import Refused
from twinstep.transfer.tcp import TcpChannel

Post = Callable[[Callable[[], Actions]], "Future[None]"]
"""Runs a decision in the agent's loop and carries its actions out; the future is done
afterwards."""
Work = Callable[[int], None]
"""Is given its epoch."""


@final
class Lanes:
    """Threads for what goes out, and as many for what comes in.

    `tell_s_max` is how long a thread waits until the loop has taken note."""

    def __init__(self, *, threads: int, post: Post, tell_s_max: float) -> None:
        self._out = ThreadPoolExecutor(threads, thread_name_prefix="twinstep-out")
        self._in = ThreadPoolExecutor(threads, thread_name_prefix="twinstep-in")
        self._post, self._tell_s_max = post, tell_s_max
        self._lock = threading.Lock()
        self._active = 0
        self._epoch = 0
        self._channels: set[TcpChannel] = set()

    @property
    def active(self) -> int:
        """Work that was begun, or waits for a thread."""
        with self._lock:
            return self._active

    def stop(self) -> None:
        """The epoch is over: everything under way ends soon."""
        with self._lock:
            self._epoch += 1
            channels = list(self._channels)
        for channel in channels:
            channel.close()

    def close(self) -> None:
        self.stop()
        self._out.shutdown(wait=False, cancel_futures=True)
        self._in.shutdown(wait=False, cancel_futures=True)

    def out(self, work: Work) -> None:
        self._submit(self._out, work)

    def come(self, work: Work) -> None:
        self._submit(self._in, work)

    def _submit(self, pool: ThreadPoolExecutor, work: Work) -> None:
        with self._lock:
            self._active += 1
            epoch = self._epoch
        pool.submit(self._run, work, epoch)

    def _run(self, work: Work, epoch: int) -> None:
        try:
            work(epoch)
        finally:
            with self._lock:
                self._active -= 1

    # For the work.

    def tell(self, decide: Callable[[], Actions]) -> None:
        """The loop has taken note when this returns."""
        self._post(decide).result(self._tell_s_max)

    def over(self, epoch: int) -> Callable[[], bool]:
        """Returns what tells whether the epoch is over."""
        return lambda: epoch != self._epoch

    def opened(self, channel: TcpChannel, epoch: int) -> None:
        """A stop shuts the channel from now on. Raises: Refused when it has come."""
        with self._lock:
            self._channels.add(channel)
            late = epoch != self._epoch
        if late:
            channel.close()
            raise Refused("the round is over")

    def closed(self, channel: TcpChannel) -> None:
        with self._lock:
            self._channels.discard(channel)
        channel.close()
