"""Asks an agent what its machine holds now: one question, one answer, a connection.

For people and programs outside of the job (`twinstep explain`): agents answer only when
asked, so that knowing costs nothing while nobody wants to know.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec

from twinstep.agent.messages import Held, Question
from twinstep.agent.status import MachineStatus
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
_decoder = msgspec.msgpack.Decoder(Held)


def ask(
    host: str, port: int, *, job: str, answer_s_max: float, credentials: Credentials
) -> Held:
    """Returns what the agent at an address holds.

    Raises: DeadlinePassed naming the address, OSError, ProtocolError."""
    until_s = monotonic_s() + answer_s_max
    name = f"the agent at {host}:{port}"
    try:
        plain = socket.create_connection((host, port), timeout=answer_s_max)
        with closing(
            secure(plain, credentials, role=Role.CONTROL, job=job, limit_s=answer_s_max)
        ) as peer:
            peer.sendall(encode(Question(job=job)))
            prefix = parse_prefix(
                _read(peer, PREFIX_BYTES, until_s),
                header_bytes_max=ANSWER_BYTES_MAX,
                payload_bytes_max=0,
            )
            header = _read(peer, prefix.header_bytes, until_s)
    except TimeoutError:
        raise DeadlinePassed(f"no answer from {name} within {answer_s_max} s") from None
    return decode_header(prefix, header, _decoder)


def ask_all(
    machines: Sequence[MachineStatus],
    *,
    job: str,
    credentials: Credentials = NONE,
    answer_s_max: float = 5.0,
) -> tuple[list[Held], list[str]]:
    """Returns what the machines hold, all asked at once, and who did not answer."""

    def one(machine: MachineStatus) -> Held | str:
        try:
            return ask(
                machine.host,
                machine.port,
                job=job,
                answer_s_max=answer_s_max,
                credentials=credentials,
            )
        except (OSError, DeadlinePassed, ProtocolError) as error:
            return f"{machine.machine}: {error}"

    with ThreadPoolExecutor(min(ASKED_AT_ONCE, max(1, len(machines)))) as pool:
        answers = list(pool.map(one, machines))
    held = [answer for answer in answers if isinstance(answer, Held)]
    return held, [answer for answer in answers if isinstance(answer, str)]


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
