"""Keeps account of standby machines for many samples at once.

A lost machine's place is taken by the standby that has waited longest, and another one
is asked for, which comes replace_s later. So the n-th lost machine gets the machine
that was asked for `standbys` losses before it, and waits for what is left of its
replacement; machines come in the order in which they were asked for, and a ring of
instants per sample is all there is to remember.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Spares:
    """The standbys of every sample. All times in seconds since the start."""

    def __init__(self, *, standbys: int, samples: int, replace_s: float) -> None:
        self._ready_s = np.zeros((samples, max(1, standbys)))
        self._head = np.zeros(samples, np.intp)
        self._standbys = standbys
        self._replace_s = replace_s

    def take(
        self, samples: NDArray[np.intp], machines: int, now_s: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Takes so many machines in each sample named; returns how long each waits
        for the last of them. `now_s` has one instant for each of `samples`."""
        asked_s = now_s + self._replace_s
        if machines > self._standbys:
            if self._standbys:
                self._ready_s[samples] = asked_s[:, None]
            return np.full(len(samples), self._replace_s)
        places = (self._head[samples, None] + np.arange(machines)) % self._standbys
        last_s = self._ready_s[samples, places[:, -1]]
        self._ready_s[samples[:, None], places] = asked_s[:, None]
        self._head[samples] = (self._head[samples] + machines) % self._standbys
        return np.maximum(0.0, last_s - now_s)
