"""The scaling law of one's own small runs, how sure it is, and what it foretells.

As in Hoffmann et al. 2022, section 3.3 and appendix D.3: the logarithm of the loss is
predicted as log(exp(a - alpha log N) + exp(b - beta log D) + exp(e)), and the sum of
Huber losses (delta 0.001) is made least from many starts, of which the best is kept.
Intervals are bootstrap percentiles: the runs are drawn anew, with repetition, and
fitted again. Six runs are the least, since there are five constants.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import least_squares

from twinstep.decoder.scaling import Law
from twinstep.errors import UsageError

RUNS_MIN = 6
HUBER_DELTA = 1e-3
STARTS = tuple(itertools.product((0.0, 5.0, 10.0), (0.0, 5.0, 10.0), (0.3, 0.8)))
"""a, b and both exponents. The paper has a grid of 4,500 over the same ranges; with
exact derivatives half of ours end in the same minimum."""
START_E = 0.5
EVALUATIONS_MAX = 300
"""Of one start; a start that has not ended by then is no worse than it is."""
EXPONENT_MAX = 3.0
BOUNDS = ([-5.0, -5.0, -10.0, 1e-3, 1e-3], [40.0, 40.0, 5.0, *[EXPONENT_MAX] * 2])
INTERVAL = (5.0, 95.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallRun:
    """One run that has ended: parameters, tokens, and held-out nats a token."""

    parameters: float
    tokens: float
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A law, the laws of the draws, and how far off it is on its own runs (the largest
    ratio of losses, less one)."""

    law: Law
    draws: tuple[Law, ...]
    error_max: float

    def intervals(self) -> dict[str, tuple[float, float]]:
        """5 % and 95 % of each constant over the draws; empty without draws."""
        return {
            name: self._interval([getattr(law, name) for law in self.draws])
            for name in CONSTANTS
            if self.draws
        }

    def prediction(self, run: SmallRun) -> tuple[float, tuple[float, float] | None]:
        """Returns the loss foretold for a run's size, and the draws' 5 % and 95 %."""
        losses = [law.loss(run.parameters, run.tokens) for law in self.draws]
        between = self._interval(losses) if losses else None
        return self.law.loss(run.parameters, run.tokens), between

    @staticmethod
    def _interval(values: Sequence[float]) -> tuple[float, float]:
        low, high = np.percentile(values, INTERVAL)
        return float(low), float(high)


CONSTANTS = ("irreducible", "parameters_scale", "tokens_scale", "alpha", "beta")


def read_runs(path: Path) -> list[SmallRun]:
    """Returns the runs of a file with one JSON object a line: N, D and loss.

    Raises: UsageError naming the line that is none."""
    runs: list[SmallRun] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise UsageError(
                f'{path}, line {number}: {error}; each is like {{"N": 1e6, "D": 2e7, '
                '"loss": 3.1}'
            ) from error
        runs.append(SmallRun(parameters=found.N, tokens=found.D, loss=found.loss))
    return runs


class _Line(msgspec.Struct):
    N: float
    D: float
    loss: float


def fit(
    runs: Sequence[SmallRun],
    *,
    draws: int = 0,
    seed: int = 0,
    source: str = "own runs",
) -> Fit:
    """Returns the law that fits the runs best, and that of so many bootstrap draws.

    Raises: UsageError for too few runs, numbers that are none, or sizes that are all
        the same, from which nothing can be learnt."""
    _check(runs)
    table = _table(runs)
    best = min((_solve(table, start) for start in _starts()), key=_cost)
    law = _law(best.x, source)
    random = np.random.default_rng(seed)
    laws: list[Law] = []
    while len(laws) < draws:
        chosen = table[random.integers(len(table), size=len(table))]
        # Fewer distinct runs than constants: such a draw says nothing, and every fit
        # through it would be as good.
        if len(np.unique(chosen, axis=0)) >= len(CONSTANTS):
            laws.append(_law(_solve(chosen, best.x).x, source))
    ratios = [law.loss(run.parameters, run.tokens) / run.loss for run in runs]
    error_max = max(abs(ratio - 1) for ratio in ratios)
    return Fit(law=law, draws=tuple(laws), error_max=error_max)


def _check(runs: Sequence[SmallRun]) -> None:
    if len(runs) < RUNS_MIN:
        raise UsageError(
            f"{len(runs)} runs; at least {RUNS_MIN} are needed for five constants"
        )
    for run in runs:
        for name in ("parameters", "tokens", "loss"):
            value = getattr(run, name)
            if not (value > 0 and np.isfinite(value)):
                raise UsageError(f"a run's {name} is {value:g}; it must be above 0")
    for name in ("parameters", "tokens"):
        if len({getattr(run, name) for run in runs}) < 3:
            raise UsageError(
                f"the runs have fewer than three numbers of {name}; vary them, "
                "best by a factor of ten"
            )


def _table(runs: Sequence[SmallRun]) -> np.ndarray:
    """float[runs, 3]: logarithms of parameters, tokens and loss."""
    return np.log([(run.parameters, run.tokens, run.loss) for run in runs])


def _starts() -> list[np.ndarray]:
    return [np.array([a, b, START_E, power, power]) for a, b, power in STARTS]


def _solve(table: np.ndarray, start: np.ndarray) -> Any:
    n, d, loss = table.T
    one = np.ones_like(n)

    def terms(x: np.ndarray) -> np.ndarray:
        a, b, e, alpha, beta = x
        return np.stack([a - alpha * n, b - beta * d, e * one])

    def off(x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(terms(x), axis=0) - loss

    def slopes(x: np.ndarray) -> np.ndarray:
        logs = terms(x)
        of_n, of_d, of_e = np.exp(logs - np.logaddexp.reduce(logs, axis=0))
        return np.stack([of_n, of_d, of_e, -n * of_n, -d * of_d], axis=1)

    exact: Any = slopes  # scipy's own types allow names only
    return least_squares(
        off,
        start,
        jac=exact,
        bounds=BOUNDS,
        loss="huber",
        f_scale=HUBER_DELTA,
        x_scale="jac",
        max_nfev=EVALUATIONS_MAX,
    )


def _cost(solution: Any) -> float:
    return float(solution.cost)


def _law(x: np.ndarray, source: str) -> Law:
    a, b, e, alpha, beta = (float(each) for each in x)
    return Law(
        source=source,
        irreducible=float(np.exp(e)),
        parameters_scale=float(np.exp(a)),
        tokens_scale=float(np.exp(b)),
        alpha=alpha,
        beta=beta,
    )
