"""Decides where a call to etcd goes, when it is made again, and when it is over.

Every call ends by its deadline. One that does no harm when it is done twice (reads,
lease renewals and revocations) is made again wherever it failed, and, while there is
no answer, on further connections too, `hedge_s` and more after the one before: the
first answer wins. A lost packet, a stopped member or a dead host then costs a renewal
0.1 s and not its lease. A transaction is made once. It goes to another endpoint only
if it surely was not done: it could not be handed to the kernel whole, or etcd said so.

Endpoints are taken in turn from one chosen at random, and kept while they answer.
Late answers are read from their connection when it is next looked at, and dropped.

Left out: learning of further members from etcd; the address names them.
"""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

from twinstep.agent.etcd_http import Address, Link, connect, ready
from twinstep.agent.etcd_messages import (
    AUTHENTICATE,
    Authenticated,
    Away,
    Json,
    TokenRefused,
    decode,
    encode,
    failed,
    refusal,
)
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, ProtocolError

Care: TypeAlias = Literal["hedged", "repeated", "once"]
BROKEN = (OSError, ProtocolError, DeadlinePassed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a connection may be silent, and how many there are."""

    hedge_s: float = 0.1
    """A hedged call without an answer for so long is made on one more connection. TCP
    sends a lost packet again after 0.2 s at the earliest."""
    hedge_growth: float = 1.1
    """Each further one waits so much longer: eight in 1 s. None is given up before the
    deadline, or an etcd whose answers take long would be asked for ever and never
    heard. Some come to nothing: a member that follows a stopped leader passes renewals
    on to it, until it knows of another."""
    flights_max: int = 8
    """Connections that one call waits on at the same time."""
    links_max: int = 16
    """Connections kept while nobody uses them."""
    connect_s_max: float = 0.5
    """One attempt to connect; the kernel repeats a lost first packet after 1 s, a new
    attempt is sooner."""
    warm_s: float = 0.02
    """A hedged call looks again after this time for a connection that is being made."""
    warm_min: int = 3
    """So many connections to an endpoint wait ready once a call had to be hedged."""
    pause_s: float = 0.05
    """After an endpoint failed, before the next is asked."""
    response_bytes_max: int = 96 * 1024 * 1024
    """An answer, or a line of a watch. etcd's values are base64 here."""
    quiet_s: float = 1.0
    """A watch that heard nothing for so long asks its member whether it lives and has
    a leader."""
    probe_s_max: float = 1.0
    """Without an answer to that for so long, the watch goes to another member."""


@final
class Gateway:
    """The endpoints of one etcd cluster; safe to use from any thread."""

    def __init__(self, address: Address, *, call_s_max: float, bounds: Bounds) -> None:
        self.address, self.bounds = address, bounds
        self.call_s_max = call_s_max
        self._context = address.context()
        self._lock = threading.Lock()
        self._turn = random.randrange(len(address.endpoints))
        self._idle: dict[int, list[Link]] = defaultdict(list)
        self._late: list[tuple[int, Link]] = []
        self._busy: set[Link] = set()
        self._warming: set[int] = set()
        self._token: str | None = None
        self._authenticating = threading.Lock()
        self._closed = False

    @property
    def turn(self) -> int:
        """The index of the endpoint that is asked first."""
        return self._turn

    def leave(self, index: int) -> None:
        """The endpoint failed; the next one is asked first."""
        with self._lock:
            if self._turn == index:
                self._turn = (index + 1) % len(self.address.endpoints)

    def stay(self, index: int) -> None:
        """The endpoint answered."""
        self._turn = index

    def call(self, path: str, message: Json, *, care: Care) -> bytes:
        """Returns etcd's answer, by the deadline.

        Raises: DeadlinePassed; what etcd refused."""
        until_s = monotonic_s() + self.call_s_max
        return _Call(self, path, encode(message), care=care, until_s=until_s).answer()

    def headers(self, until_s: float) -> list[tuple[str, str]]:
        """Returns what every request but an authentication carries.

        A member that knows of no leader says so at once, rather than wait for one."""
        headers = [("Grpc-Metadata-hasleader", "true")]
        if self.address.user:
            headers.append(("Authorization", self._authorized(until_s)))
        return headers

    def _authorized(self, until_s: float) -> str:
        token = self._token
        if token is not None:
            return token
        # One at a time: etcd spends 0.1 s of a processor on each.
        if not self._authenticating.acquire(timeout=max(0.0, until_s - monotonic_s())):
            raise DeadlinePassed("no time left to authenticate")
        try:
            if self._token is None:
                user, password = self.address.user, self.address.password()
                body = encode({"name": user, "password": password})
                call = _Call(self, AUTHENTICATE, body, care="repeated", until_s=until_s)
                self._token = decode(call.answer(), Authenticated).token
            return self._token
        finally:
            self._authenticating.release()

    def forget_token(self) -> None:
        """The next request authenticates anew."""
        self._token = None

    # Connections.

    def take(self, index: int, until_s: float) -> Link:
        """Returns a connection to an endpoint that waits for no answer, to be put
        back or dropped. Raises: OSError, DeadlinePassed."""
        with self._lock:
            self._look_at_late()
            idle = self._idle[index]
            while idle:
                link = idle.pop()
                if not link.stale:
                    self._busy.add(link)
                    return link
                link.close()
        left_s = until_s - monotonic_s()
        if left_s <= 0:
            raise DeadlinePassed("no time left to connect")
        endpoint = self.address.endpoints[index]
        try:
            link = connect(
                endpoint,
                self._context,
                connect_s_max=min(left_s, self.bounds.connect_s_max),
                bytes_max=self.bounds.response_bytes_max,
            )
        except OSError as error:
            raise ConnectionError(f"{endpoint}: {error}") from error
        with self._lock:
            self._busy.add(link)
            if self._closed:
                link.interrupt()
        return link

    def warmest(self, index: int) -> int | None:
        """Returns the endpoint, from `index` on, that has a connection ready."""
        count = len(self.address.endpoints)
        with self._lock:
            self._look_at_late()
            for number in range(index, index + count):
                if self._idle[number % count]:
                    return number % count
        return None

    def warm(self, index: int) -> None:
        """A thread makes connections to an endpoint ready, unless one does already."""
        with self._lock:
            enough = len(self._idle[index]) >= self.bounds.warm_min
            if self._closed or enough or index in self._warming:
                return
            self._warming.add(index)
        threading.Thread(
            target=self._warm, args=(index,), name="twinstep-etcd-warm", daemon=True
        ).start()

    def _warm(self, index: int) -> None:
        try:
            while True:
                link = connect(
                    self.address.endpoints[index],
                    self._context,
                    connect_s_max=self.bounds.connect_s_max,
                    bytes_max=self.bounds.response_bytes_max,
                )
                with self._lock:
                    self._keep(index, link)
                    kept = len(self._idle[index])
                    if self._closed or not 0 < kept < self.bounds.warm_min:
                        return
        except OSError:
            pass  # whoever wants one asks again
        finally:
            with self._lock:
                self._warming.discard(index)

    def put_back(self, index: int, link: Link) -> None:
        """Its answer has been read."""
        with self._lock:
            self._busy.discard(link)
            self._keep(index, link)

    def drop(self, link: Link) -> None:
        with self._lock:
            self._busy.discard(link)
        link.close()

    def put_aside(self, index: int, link: Link) -> None:
        """Nobody waits for its answer any more."""
        with self._lock:
            self._busy.discard(link)
            self._late.append((index, link))
            self._look_at_late()

    def _keep(self, index: int, link: Link) -> None:
        kept = sum(map(len, self._idle.values()))
        if self._closed or not link.reusable or kept >= self.bounds.links_max:
            link.close()
        else:
            self._idle[index].append(link)

    def _look_at_late(self) -> None:
        late, self._late = self._late, []
        for index, link in late:
            try:
                if link.receive(0.0) is not None:
                    self._keep(index, link)
                elif self._closed or monotonic_s() - link.sent_s > 2 * self.call_s_max:
                    link.close()
                else:
                    self._late.append((index, link))
            except (OSError, ProtocolError):
                link.close()
        while len(self._late) > self.bounds.links_max:
            self._late.pop(0)[1].close()

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Calls and watches end soon."""
        with self._lock:
            self._closed = True
            for link in self._busy:
                link.interrupt()
            for links in self._idle.values():
                while links:
                    links.pop().close()
            self._look_at_late()


SILENT = "it was silent"


@final
class _Call:
    """One call, on one connection or several.

    Invariant: every link in `flights` has the request and no answer yet."""

    def __init__(
        self, gateway: Gateway, path: str, body: bytes, *, care: Care, until_s: float
    ) -> None:
        self._gateway, self._path, self._body = gateway, path, body
        self._care, self._until_s = care, until_s
        self._flights: dict[Link, int] = {}
        self._flights_max = gateway.bounds.flights_max if care == "hedged" else 1
        self._next_s = 0.0
        self._reason = SILENT

    def answer(self) -> bytes:
        try:
            while not self._gateway.closed and (now_s := monotonic_s()) < self._until_s:
                more = len(self._flights) < self._flights_max
                if more and now_s >= self._next_s:
                    self._send()
                    continue
                wake_s = min(self._until_s, self._next_s) if more else self._until_s
                for link in ready(list(self._flights), until_s=wake_s):
                    body = self._look(link)
                    if body is not None:
                        return body
        finally:
            for link, index in self._flights.items():
                self._gateway.put_aside(index, link)
        for index in self._flights.values():
            self._gateway.leave(index)
        raise self._passed(done=self._care == "once" and bool(self._flights))

    def _send(self) -> None:
        """One more connection has the request, or the endpoint is left."""
        gateway = self._gateway
        count = len(gateway.address.endpoints)
        index = (gateway.turn + len(self._flights)) % count
        if self._flights:
            # While others are under way, to wait for a connection is to wait with all.
            gateway.warm(index)
            warm = gateway.warmest(index)
            if warm is None:
                self._next_s = monotonic_s() + gateway.bounds.warm_s
                return
            index = warm
        try:
            headers: list[tuple[str, str]] = []
            if self._path != AUTHENTICATE:
                headers = gateway.headers(self._until_s)
            link = gateway.take(index, self._until_s)
            try:
                link.send(self._path, self._body, headers, self._until_s)
            except (OSError, DeadlinePassed):
                gateway.drop(link)
                raise
            self._flights[link] = index
            growth = gateway.bounds.hedge_growth ** (len(self._flights) - 1)
            self._next_s = monotonic_s() + gateway.bounds.hedge_s * growth
        except DeadlinePassed as error:  # tells less than what failed before
            self._again(index, str(error) if self._reason == SILENT else self._reason)
        except OSError as error:
            self._again(index, str(error))

    def _again(self, index: int, reason: str) -> None:
        self._reason = reason
        self._gateway.leave(index)
        self._next_s = monotonic_s() + self._gateway.bounds.pause_s

    def _look(self, link: Link) -> bytes | None:
        """Returns the answer, if it is whole and one."""
        gateway, index = self._gateway, self._flights[link]
        try:
            body = link.receive(0.0)
        except (OSError, ProtocolError) as error:
            del self._flights[link]
            gateway.drop(link)
            self._again(index, f"{link.endpoint}: {error}")
            if self._care == "once":
                raise self._passed(done=True) from error
            return None
        if body is None:
            return None
        del self._flights[link]
        status = link.status
        gateway.put_back(index, link)
        if not failed(status, body):
            gateway.stay(index)
            return body
        problem = refusal(status, body)
        match problem:
            case TokenRefused() if gateway.address.user and self._path != AUTHENTICATE:
                gateway.forget_token()
                self._reason = str(problem)
                self._next_s = monotonic_s() + gateway.bounds.pause_s
            case Away(done=done):
                self._again(index, f"{link.endpoint}: {problem}")
                if done and self._care == "once":
                    raise self._passed(done=True)
            case _:
                raise problem
        return None

    def _passed(self, *, done: bool) -> DeadlinePassed:
        return DeadlinePassed(
            f"{self._path}: etcd at {self._gateway.address} gave no answer within "
            f"{self._gateway.call_s_max} s ({self._reason})"
            + ("; it may have been done" if done else "")
        )
