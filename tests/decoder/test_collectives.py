"""Collectives are found in a compiled module, with their axes, runs and bytes."""

from __future__ import annotations

import pytest

from twinstep.decoder.collectives import Traffic, collectives

MESH = {"pod": 2, "data": 2, "model": 2}
LOOP = """\
HloModule jit_step, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]) parameter(0)
  %value = f32[4,8]{1,0} get-tuple-element(%state), index=1
  INSTRUCTION
  ROOT %next = (s32[], f32[4,8]) tuple(%state, %value)
}

%nobody (x: f32[]) -> f32[] {
  ROOT %x = f32[] all-reduce(%x), replica_groups={}, to_apply=%add
}

ENTRY %main (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]) parameter(0)
  ROOT %loop = (s32[], f32[4,8]) while(%state), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""


@pytest.mark.parametrize(
    ("instruction", "key", "size"),
    [
        (
            "%a = f32[4,8]{1,0} all-reduce(%value), replica_groups=[4,2]<=[8]",
            "all-reduce over model",
            128,
        ),
        (
            "%a = bf16[4,8]{1,0} all-gather(%v), replica_groups=[2,4]<=[4,2]T(1,0)",
            "all-gather over pod data",
            64,
        ),
        (
            "%a = (f32[4], s8[2]) all-reduce(%v, %w), replica_groups={{0,4},{1,5}}",
            "all-reduce over pod",
            18,
        ),
        (
            "%a = (f32[4], f32[8], u32[]) all-gather-start(%v), replica_groups={}",
            "all-gather over pod data model",
            32,
        ),
        (
            "%a = f32[4] collective-permute(%v), source_target_pairs={{0,0},{2,0}}",
            "collective-permute over data",
            16,
        ),
        (
            "%a = f32[4] all-reduce(%v), replica_groups=mesh['x'=4,'y'=2] {'y'}",
            "all-reduce over model",
            16,
        ),
        (
            "%a = f32[4] all-reduce(%v), replica_groups=mesh['x'=4,'y'=2] {'x':(2)2}",
            "all-reduce over data",
            16,
        ),
        (
            "%a = f32[4] all-reduce(%v), replica_groups=mesh['x'=2,'y'=4], "
            "device_ids=([2,2,2]T(1,0,2)) {'x'}, to_apply=%add",
            "all-reduce over data",
            16,
        ),
    ],
)
def test_one_in_a_loop(instruction: str, key: str, size: int) -> None:
    found = collectives(LOOP.replace("INSTRUCTION", instruction), MESH)
    assert found == {key: Traffic(1, 5, 5 * size)}


def test_groups_in_an_unknown_form_are_refused() -> None:
    line = "%a = f32[4] all-reduce(%v), replica_groups=anew(4)"
    with pytest.raises(ValueError, match="anew"):
        collectives(LOOP.replace("INSTRUCTION", line), MESH)


def test_what_is_no_collective_or_never_runs_is_not_counted() -> None:
    done = "%a = f32[4] all-gather-done(%value), metadata={op_name=all-gather}"
    assert collectives(LOOP.replace("INSTRUCTION", done), MESH) == {}
