"""State that is large and costs little time, so that moments last long enough to hit.

A few megabytes are captured in less than a millisecond, and nobody can aim at that.
Every number of the ballast changes in every step (whole numbers below 2**24, which
float32 holds exactly, go down by one), so that anybody who sees the memory that it is
copied into can tell how far a copy has come, and a step from any other.
"""

from __future__ import annotations

import torch
from torch import nn

NUMBERS_MAX = 1 << 23
BYTES_A_NUMBER = 4


class Ballast(nn.Module):
    """`megabytes` of numbers, other ones on each rank; at most 33."""

    def __init__(self, megabytes: int, *, rank: int) -> None:
        super().__init__()
        numbers = megabytes * 1_000_000 // BYTES_A_NUMBER
        assert numbers <= NUMBERS_MAX, f"ballast of {megabytes} MB; at most 33"
        first = NUMBERS_MAX - numbers + 1000 * rank
        self.numbers = nn.Parameter(torch.arange(first, first + numbers).float())
        self.numbers.grad = torch.ones(1).expand_as(self.numbers)


def unloading(ballast: Ballast) -> torch.optim.Optimizer:
    """An optimizer whose step takes one off every number."""
    return torch.optim.SGD(ballast.parameters(), lr=1.0)
