"""The token's handshake, byte by byte, without a network."""

from __future__ import annotations

import pytest

from twinstep.trust.handshake import (
    MAGIC,
    NONCE_BYTES,
    Role,
    Stranger,
    TokenClient,
    TokenServer,
)

TOKEN = b"t" * 32
OTHER = b"o" * 32


def client(token: bytes = TOKEN, *, job: str = "job", nonce: int = 1) -> TokenClient:
    fresh = bytes([nonce]) * NONCE_BYTES
    return TokenClient(token, role=Role.DATA, job=job, nonce=fresh)


def server(token: bytes = TOKEN, *, nonce: int = 2) -> TokenServer:
    roles = (Role.CONTROL, Role.DATA)
    return TokenServer(token, roles=roles, job="job", nonce=bytes([nonce]) * 32)


def talk(one: TokenClient, two: TokenServer, *, piece: int = 1000) -> list[bytes]:
    """Carries bytes between both, in pieces; returns what the client said."""
    to_server, to_client = bytearray(one.begin()), bytearray(two.begin())
    said = [bytes(to_server)]
    while to_server or to_client:
        size = min(piece, two.wants, len(to_server))
        taken = bytes(to_server[:size])
        del to_server[:size]
        if taken:
            to_client += two.feed(taken)
        size = min(piece, one.wants, len(to_client))
        taken = bytes(to_client[:size])
        del to_client[:size]
        if taken:
            answer = one.feed(taken)
            to_server += answer
            said.append(answer)
    return said


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_both_ends_with_the_token_prove_themselves(piece: int) -> None:
    one, two = client(), server()
    talk(one, two, piece=piece)
    assert one.done and two.done and two.role is Role.DATA
    assert one.secret == two.secret and len(one.secret) == 32
    assert (one.wants, two.wants) == (0, 0)


def test_the_secret_is_of_one_connection() -> None:
    pairs = [(client(nonce=n), server()) for n in (1, 3)]
    for one, two in pairs:
        talk(one, two)
    assert pairs[0][0].secret != pairs[1][0].secret


def test_a_wrong_token_is_refused_by_the_server() -> None:
    with pytest.raises(Stranger, match="another token, or repeats"):
        talk(client(OTHER), server())


def test_a_server_without_the_token_is_refused() -> None:
    one, two = client(), server()
    two._token = OTHER  # takes what comes, and answers with a guess
    one.begin()
    challenge = two.begin()
    one.feed(challenge[:4])
    assert len(one.feed(challenge[4:])) == 32
    with pytest.raises(Stranger, match="does not hold this job's token"):
        one.feed(b"x" * 32)


def test_a_recorded_handshake_is_worth_nothing() -> None:
    hello, proof = (said for said in talk(client(), server()) if said)
    anew = server(nonce=9)
    anew.begin()
    anew.feed(hello[:4])
    anew.feed(hello[4:])
    with pytest.raises(Stranger, match="repeats an old handshake"):
        anew.feed(proof)


def test_a_proof_cannot_be_sent_back_to_its_maker() -> None:
    one = client()
    hello = one.begin()
    one.feed(MAGIC)
    proof = one.feed(hello[-32:])
    with pytest.raises(Stranger, match="does not hold"):
        one.feed(proof)


def test_another_job_and_another_role_are_refused() -> None:
    with pytest.raises(Stranger, match="of another job"):
        talk(client(job="theirs"), server())
    store = TokenServer(TOKEN, roles=(Role.STORE,), job="job", nonce=b"n" * 32)
    with pytest.raises(Stranger, match="asks for role 2"):
        talk(client(), store)


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b"\x16\x03\x01\x02", "speaks TLS, and we hold a token"),
        (b"TWN1", "twinstep without credentials"),
        (b"GET ", "b'GET ', which is no twinstep"),
        (b"\0\0\0\0", "no twinstep"),
    ],
)
def test_whoever_begins_otherwise_is_named_at_once(first: bytes, says: str) -> None:
    for end in (client(), server()):
        assert end.wants == 4
        with pytest.raises(Stranger, match=says):
            end.feed(first)
