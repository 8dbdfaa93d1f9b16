"""How large a model, and how many tokens, for so much computing.

After Hoffmann et al. 2022 (Training Compute-Optimal Large Language Models, section
3.3): the loss of a model of N parameters after D tokens is

    L = E + A / N^alpha + B / D^beta,      and training it takes C = 6 N D FLOPs.

For a given C the best is N* = G (C/6)^(beta/(alpha+beta)) and D* = (C/6) / N*, with
G = (alpha A / (beta B))^(1/(alpha+beta)). Besiroglu et al. 2024 (Chinchilla Scaling: A
Replication Attempt) found that the constants in the paper's text are rounded so far
that they mislead, and fitted its data anew: all three sets are here. Own runs are
fitted in scaling_fit.py. Left out: data that is seen more than once, and mixtures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from twinstep.errors import UsageError

FLOPS_PER_PARAMETER_AND_TOKEN = 6.0
"""Two for the forward pass and four for the backward pass (Kaplan et al. 2020)."""
SERVING_FLOPS = 2.0
"""Of a forward pass, for each parameter and token served."""
TOKENS_PER_PARAMETER = 20.0
"""The rule of thumb; Hoffmann et al., tables 3 and 9, have 20 to 22."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """Constants of the loss, in nats a token. `source` says whose they are."""

    source: str
    irreducible: float
    parameters_scale: float
    tokens_scale: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name in ("parameters_scale", "tokens_scale", "alpha", "beta"):
            if not getattr(self, name) > 0:
                raise UsageError(
                    f"{self.source}: {name} is {getattr(self, name):g}; it must be "
                    "more than 0"
                )

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats a token after training."""
        return (
            self.irreducible
            + self.parameters_scale * parameters**-self.alpha
            + self.tokens_scale * tokens**-self.beta
        )


HOFFMANN_TEXT = Law(
    source="hoffmann-text",
    irreducible=1.69,
    parameters_scale=406.4,
    tokens_scale=410.7,
    alpha=0.34,
    beta=0.28,
)
"""As printed in the paper's equation 10."""
HOFFMANN = Law(
    source="hoffmann",
    irreducible=1.69337368,
    parameters_scale=406.401018,
    tokens_scale=410.722827,
    alpha=0.33917084,
    beta=0.2849083,
)
"""As the paper's source has them, before they were rounded (Besiroglu et al., 2024)."""
BESIROGLU = Law(
    source="besiroglu",
    irreducible=1.8172,
    parameters_scale=482.01,
    tokens_scale=2085.43,
    alpha=0.3478,
    beta=0.3658,
)
LAWS = {law.source: law for law in (BESIROGLU, HOFFMANN, HOFFMANN_TEXT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One way to spend computing. `loss` is in nats a token, None where no law says
    it; `serving_flops` is 0 where nothing is served."""

    parameters: float
    tokens: float
    loss: float | None
    serving_flops: float = 0.0

    @property
    def training_flops(self) -> float:
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.parameters * self.tokens

    @property
    def flops(self) -> float:
        return self.training_flops + self.serving_flops

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters


def law_named(name: str) -> Law:
    """Raises: UsageError with the names there are."""
    if name not in LAWS:
        raise UsageError(f"no law {name!r}; there are {', '.join(sorted(LAWS))}")
    return LAWS[name]


def best(flops: float, law: Law) -> Budget:
    """Returns the model and tokens of least loss for so many FLOPs of training."""
    _check("flops", flops)
    product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
    both = law.alpha + law.beta
    ratio = law.alpha * law.parameters_scale / (law.beta * law.tokens_scale)
    parameters = ratio ** (1 / both) * product ** (law.beta / both)
    tokens = product / parameters
    return Budget(
        parameters=parameters, tokens=tokens, loss=law.loss(parameters, tokens)
    )


def rule_of_thumb(flops: float, law: Law | None = None) -> Budget:
    """Returns the budget with twenty tokens a parameter."""
    _check("flops", flops)
    both = FLOPS_PER_PARAMETER_AND_TOKEN * TOKENS_PER_PARAMETER
    parameters = math.sqrt(flops / both)
    tokens = TOKENS_PER_PARAMETER * parameters
    loss = law.loss(parameters, tokens) if law is not None else None
    return Budget(parameters=parameters, tokens=tokens, loss=loss)


def tokens_for(parameters: float, loss: float, law: Law) -> float:
    """Returns how many tokens a model needs for a loss; infinity where it is too small
    for any number of them."""
    left = loss - law.irreducible - law.parameters_scale * parameters**-law.alpha
    if left <= 0:
        return math.inf
    return (law.tokens_scale / left) ** (1 / law.beta)


def best_for_serving(loss: float, served: float, law: Law) -> Budget:
    """Returns the cheapest model of a given loss when `served` tokens will be served.

    The sum 6 N D + 2 N served is least at a smaller model that is trained for longer
    than the best one for training alone: the more, the more is served. (Sardana et al.
    2024, Beyond Chinchilla-Optimal, have the same sum.)

    Raises: UsageError for a loss that no model reaches."""
    if served < 0:
        raise UsageError(f"served is {served:g} tokens; it must be at least 0")
    if not loss > law.irreducible:
        raise UsageError(
            f"a loss of {loss:g} is not above {law.irreducible:g}, which no model "
            f"betters by the constants of {law.source}"
        )
    smallest = (law.parameters_scale / (loss - law.irreducible)) ** (1 / law.alpha)

    def cost(logarithm: float) -> float:
        parameters = math.exp(logarithm)
        tokens = tokens_for(parameters, loss, law)
        return parameters * (FLOPS_PER_PARAMETER_AND_TOKEN * tokens + 2 * served)

    parameters = math.exp(
        _least(cost, math.log(smallest) + 1e-9, math.log(smallest) + SPAN)
    )
    tokens = tokens_for(parameters, loss, law)
    return Budget(
        parameters=parameters,
        tokens=tokens,
        loss=law.loss(parameters, tokens),
        serving_flops=SERVING_FLOPS * parameters * served,
    )


SPAN = 40.0
"""e-foldings above the smallest possible model in which the cheapest one is looked for;
the best for training alone is a few above it."""
NARROWINGS = 200
GOLDEN = (math.sqrt(5) - 1) / 2


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Returns where a function with one minimum is least (golden section)."""
    for _ in range(NARROWINGS):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _check(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UsageError(f"{name} is {value:g}; it must be more than 0 and finite")
