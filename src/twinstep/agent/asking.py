"""Asks an agent what its machine holds or sends: a question, an answer, a connection.

For people and programs outside of the job (`twinstep explain`, `twinstep timeline`):
agents answer only when asked, so that knowing costs nothing while nobody wants to know.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import msgspec

from twinstep.agent.messages import Held, Question
from twinstep.agent.status import MachineStatus
from twinstep.agent.timeline import Timeline
from twinstep.clock import monotonic_s
from twinstep.errors import DeadlinePassed, ProtocolError
from twinstep.transfer.frame import PREFIX_BYTES, decode_header, encode, parse_prefix
from twinstep.trust.credentials import NONE, Credentials
from twinstep.trust.handshake import Role
from twinstep.trust.streams import Connection
from twinstep.trust.wire import secure

ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""About 40,000 copies on one machine."""
ASKED_AT_ONCE = 32
Answer = TypeVar("Answer", Held, Timeline)
QUESTIONS = {Held: False, Timeline: True}
"""What is asked for, and how (Question.traffic)."""


def ask(
    host: str,
    port: int,
    kind: type[Answer],
    *,
    job: str,
    answer_s_max: float,
    credentials: Credentials,
) -> Answer:
    """Returns what the agent at an address answers: what it holds, or its timeline.

    Raises: DeadlinePassed naming the address, OSError, ProtocolError."""
    until_s = monotonic_s() + answer_s_max
    name = f"the agent at {host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout=answer_s_max)
        with closing(
            secure(plain, credentials, role=Role.CONTROL, job=job, limit_s=answer_s_max)
        ) as peer:
            peer.sendall(encode(Question(job=job, traffic=QUESTIONS[kind])))
            prefix = parse_prefix(
                _read(peer, PREFIX_BYTES, until_s),
                header_bytes_max=ANSWER_BYTES_MAX,
                payload_bytes_max=0,
            )
            header = _read(peer, prefix.header_bytes, until_s)
    except TimeoutError:
        raise DeadlinePassed(f"no answer from {name} within {answer_s_max} s") from None
    return decode_header(prefix, header, msgspec.msgpack.Decoder(kind))


def ask_all(
    machines: Sequence[MachineStatus],
    kind: type[Answer],
    *,
    job: str,
    credentials: Credentials = NONE,
    answer_s_max: float = 5.0,
) -> tuple[list[Answer], list[str]]:
    """Returns the machines' answers, all asked at once, and who did not answer."""

    def one(machine: MachineStatus) -> Answer | str:
        try:
            return ask(
                machine.host,
                machine.port,
                kind,
                job=job,
                answer_s_max=answer_s_max,
                credentials=credentials,
            )
        except (OSError, DeadlinePassed, ProtocolError) as error:
            return f"{machine.machine}: {error}"

    with ThreadPoolExecutor(min(ASKED_AT_ONCE, max(1, len(machines)))) as pool:
        answers = list(pool.map(one, machines))
    told = [answer for answer in answers if not isinstance(answer, str)]
    return told, [answer for answer in answers if isinstance(answer, str)]


def _read(peer: Connection, count: int, until_s: float) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        peer.settimeout(max(0.001, until_s - monotonic_s()))
        part = peer.recv(min(count, 1 << 20))
        if not part:
            raise ProtocolError("it closed the connection; is it of another job?")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
