"""The values that all stages speak of: shards, machines and their numbers.

A job trains on N machines with R ranks each. Rank r runs on machine rank r // R.
Every rank owns one shard: shard id = rank, 0..W-1 with W = N * R. State that every
rank holds identically (data-parallel parameters and their optimizer state) is laid
out once in a shared region of R byte ranges; range i is the *shared shard* W + i,
captured by local rank i of every machine. So each machine has a copy of a shared
shard without a byte being sent, and an own shard is copied to other machines by
placement.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from twinstep.errors import ConfigError

DIGEST_BYTES = 16  # xxh3-128


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How many machines train, and how many ranks each of them runs."""

    machines: int
    ranks_per_machine: int

    def __post_init__(self) -> None:
        if self.machines < 1 or self.ranks_per_machine < 1:
            raise ConfigError(
                f"machines ({self.machines}) and ranks_per_machine "
                f"({self.ranks_per_machine}) must be at least 1"
            )

    @property
    def world_size(self) -> int:
        return self.machines * self.ranks_per_machine

    @property
    def shards(self) -> range:
        """All shard ids: the ranks' own, then the shared ones."""
        return range(self.world_size + self.ranks_per_machine)

    def is_shared(self, shard: int) -> bool:
        return shard >= self.world_size

    def machine_rank(self, rank: int) -> int:
        return rank // self.ranks_per_machine

    def ranks(self, machine_rank: int) -> range:
        first = machine_rank * self.ranks_per_machine
        return range(first, first + self.ranks_per_machine)

    def shared_shard(self, local_rank: int) -> int:
        return self.world_size + local_rank

    def captured_by(self, machine_rank: int) -> list[int]:
        """The shards that the ranks of a machine capture, own ones first."""
        shared = range(self.world_size, self.world_size + self.ranks_per_machine)
        return [*self.ranks(machine_rank), *shared]


FLOAT_MAX = 1e9
"""Of a setting: thirty years in seconds, which every clock and socket takes."""
WHOLE_MAX = 1 << 46
"""Of a setting: 64 TiB in bytes."""


def check_numbers(settings: Any, *, part: str) -> None:
    """Every number of a part of the settings can be worked with: TOML has inf, nan
    and integers without end, and a comparison with nan is never true.

    Raises: ConfigError naming the setting."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        most = FLOAT_MAX if isinstance(value, float) else WHOLE_MAX
        if isinstance(value, int | float) and not -most <= value <= most:
            name = f"{part}.{field.name}" if part else field.name
            raise ConfigError(f"{name} is {value:.6g}; at most {most:g} is allowed")


def chunk_count(size: int, chunk_bytes: int) -> int:
    """How many chunks a copy of `size` bytes is cut into."""
    return -(-size // chunk_bytes)


def digest_of(digests: bytes, index: int) -> bytes:
    """The digest of one chunk, out of those of a copy's chunks in order."""
    return digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]


def chunk_of(
    view: memoryview, index: int, *, size: int, chunk_bytes: int
) -> memoryview:
    """The bytes of one chunk of a copy; the last may be shorter."""
    at = index * chunk_bytes
    return view[at : min(at + chunk_bytes, size)]
