"""Which boxes a process holds, for devices of several processes that need not be."""

from __future__ import annotations

from typing import NamedTuple

from twinstep.adapters.jax_spread import spread
from twinstep.recovery.reshard import Extent

SHAPE = (4, 6)
TOP, BOTTOM = (slice(0, 2), slice(None)), (slice(2, 4), slice(None))
WHOLE = (slice(None), slice(None))


class Device(NamedTuple):
    id: int
    process_index: int


def devices(*processes: int) -> list[Device]:
    return [Device(at, process) for at, process in enumerate(processes)]


def test_a_box_of_several_processes_has_a_replica_number_in_each() -> None:
    first, second, third, fourth = devices(0, 0, 1, 1)
    indices = {first: TOP, second: BOTTOM, third: TOP, fourth: BOTTOM}
    for here in (0, 1):
        found = spread(indices, SHAPE, here=here, processes=2)
        assert [box.extent.offsets for box in found.boxes] == [(0, 0), (2, 0)]
        assert [box.replica for box in found.boxes] == [here, here]


def test_the_first_is_told_by_the_order_of_devices_and_not_of_processes() -> None:
    first, second = devices(1, 0)
    indices = {first: TOP, second: TOP}
    assert spread(indices, SHAPE, here=1, processes=2).boxes[0].replica == 0
    assert spread(indices, SHAPE, here=0, processes=2).boxes[0].replica == 1


def test_devices_of_one_process_hold_one_box() -> None:
    first, second, third, fourth = devices(0, 0, 1, 1)
    indices = {first: TOP, second: TOP, third: BOTTOM, fourth: BOTTOM}
    (box,) = spread(indices, SHAPE, here=1, processes=2).boxes
    assert box.extent == Extent((2, 0), (2, 6))
    assert (box.devices, box.replica) == ((third, fourth), 0)


def test_what_every_process_holds_whole_is_shared() -> None:
    first, second, third = devices(0, 1, 2)
    indices = {first: WHOLE, second: WHOLE}
    assert spread(indices, SHAPE, here=0, processes=2).shared
    assert not spread(indices, SHAPE, here=0, processes=3).shared
    assert spread(indices | {third: WHOLE}, SHAPE, here=0, processes=3).shared
    assert spread(indices, SHAPE, here=2, processes=3).boxes == ()
    assert not spread({first: WHOLE}, SHAPE, here=0, processes=1).shared


def test_what_every_process_holds_in_several_boxes_is_shared() -> None:
    """As the state of a mesh is whose pods are processes."""
    first, second, third, fourth = devices(0, 0, 1, 1)
    indices = {first: TOP, second: BOTTOM, third: TOP, fourth: BOTTOM}
    assert spread(indices, SHAPE, here=0, processes=2).shared
    assert spread(indices, SHAPE, here=1, processes=2).shared
    assert not spread(indices, SHAPE, here=1, processes=3).shared
    indices[fourth] = TOP
    assert not spread(indices, SHAPE, here=0, processes=2).shared


def test_an_array_without_dims_is_one_box() -> None:
    (first,) = devices(0)
    (box,) = spread({first: ()}, (), here=0, processes=1).boxes
    assert box.extent == Extent((), ())
