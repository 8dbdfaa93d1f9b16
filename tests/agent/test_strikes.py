"""A bad machine is told from a bad script, and from what others do to it."""

from __future__ import annotations

import pytest

from twinstep.agent.strikes import STRIKES_KEPT, Strikes, sign

CUDA = ["step 7", "Traceback ...", "RuntimeError: CUDA error: misaligned address"]
NAN = ["ValueError: loss is nan at step 19"]


def strikes() -> Strikes:
    return Strikes(strikes_max=3, strikes_s=600.0)


def fail(one: Strikes, *ends: tuple[str, float], status: int = 1, tail=CUDA) -> str:
    said = ""
    for machine, now_s in ends:
        assert said == "", "said too early"
        said = one.failed(machine, status=status, tail=tail, now_s=now_s)
    return said


def test_three_strikes_within_the_window_and_a_machine_is_out() -> None:
    said = fail(strikes(), ("m1", 0.0), ("m1", 100.0), ("m1", 600.0))
    assert "3 times within 600 s" in said and "misaligned address" in said
    assert fail(strikes(), ("m1", 0.0), ("m1", 100.0), ("m1", 601.0)) == ""


def test_the_same_end_on_another_machine_is_the_scripts() -> None:
    one = strikes()
    assert fail(one, ("m0", 0.0)) == ""
    assert fail(one, ("m1", 1.0), ("m1", 2.0), ("m1", 3.0)) == ""
    one = strikes()
    assert fail(one, ("m0", 0.0), tail=NAN) == ""
    assert fail(one, ("m1", 1.0), ("m1", 2.0), ("m1", 3.0)) != "", "another cause"


def test_a_successor_that_fails_alike_is_not_struck_out_for_the_script() -> None:
    one = strikes()
    assert fail(one, ("m1", 1.0), ("m1", 2.0), ("m1", 3.0))
    assert fail(one, ("m2", 4.0), ("m2", 5.0), ("m2", 6.0)) == ""


def test_machines_that_fail_in_turn_are_all_alike() -> None:
    one = strikes()
    for now_s in range(4):
        assert fail(one, ("m0", now_s), tail=NAN) == ""
        assert fail(one, ("m1", now_s), tail=CUDA) == ""


@pytest.mark.parametrize("status", [-9, -15, -2])
def test_what_others_do_is_no_strike(status: int) -> None:
    ends = [("m1", float(at)) for at in range(9)]
    assert fail(strikes(), *ends, status=status) == ""


def test_a_segmentation_fault_is_one() -> None:
    said = fail(strikes(), ("m1", 0.0), ("m1", 1.0), ("m1", 2.0), status=-11)
    assert "signal 11" in said


@pytest.mark.parametrize(
    "last",
    [
        "RuntimeError: [/gloo/transport/tcp/pair.cc:534] Connection closed by peer",
        "torch.distributed.DistBackendError: NCCL ... ncclRemoteError: ...",
        "torch.distributed.DistNetworkError: Connection reset by peer",
    ],
)
def test_who_ends_in_its_collective_is_a_victim(last: str) -> None:
    assert sign(1, [last]) == ""


def test_after_a_machine_was_lost_what_ended_for_want_of_it_is_excused() -> None:
    one = strikes()
    assert fail(one, ("m1", 0.0), ("m1", 1.0)) == ""
    one.excuse(since_s=1.0)
    assert fail(one, ("m1", 2.0)) == ""
    assert fail(one, ("m1", 3.0)) != ""


def test_a_sign_is_the_error_without_its_numbers() -> None:
    assert sign(1, [*NAN, "", "terminating"]) == "ValueError: loss is nan at step #"
    assert sign(1, ["[rank3]: torch.OutOfMemoryError: 0x7f of 3 GiB"]) == (
        "[rank#]: torch.OutOfMemoryError: # of # GiB"
    )
    assert sign(3, ["no error at all"]) == "no error at all"
    assert sign(3, []) == "status 3" and len(sign(1, ["x" * 9999])) == 160


def test_what_is_remembered_is_bounded() -> None:
    one = Strikes(strikes_max=10**9, strikes_s=1e9)
    for now_s in range(2 * STRIKES_KEPT):
        one.failed("m1", status=1, tail=CUDA, now_s=now_s)
    assert len(one.known) == STRIKES_KEPT
