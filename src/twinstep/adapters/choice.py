"""Which adapter serves the objects a session was given, without importing frameworks.

torch's objects are given when a session is made. A state that is a value, as in JAX,
comes with restore(like=...): only then is it known that JAX is used. So that a session
for JAX does not import torch, what is given before is looked at by torch's adapter only
where torch has been imported already, as it has where there is an object of torch's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from twinstep.adapters.state import StateAdapter, ValueAdapter
from twinstep.errors import StateError


def adapter_for(objects: Mapping[str, object]) -> StateAdapter:
    """Returns the adapter for `objects`; one that is a StateAdapter serves itself.

    Raises: StateError when there are none, or their framework is not installed."""
    for given in objects.values():
        if len(objects) == 1 and isinstance(given, StateAdapter):
            return given
    if "jax" in sys.modules and (not objects or "torch" not in sys.modules):
        from twinstep.adapters.jax import JaxState

        return JaxState(objects)
    if not objects:
        raise StateError(
            "a Session needs the state to keep: Session(model=model, "
            "optimizer=optimizer, loader=loader); in JAX, import jax before"
        )
    try:
        from twinstep.adapters.torch import TorchState
    except ModuleNotFoundError as error:
        raise StateError(
            f"the state given ({', '.join(objects)}) needs PyTorch: "
            "pip install 'twinstep[torch]'"
        ) from error
    return TorchState(objects)


def adapter_like(
    chosen: StateAdapter, objects: Mapping[str, object], like: object
) -> StateAdapter:
    """Returns the adapter for a state that is `like` this one, and the `objects`
    beside it; that is `chosen`, where it is one for such states.

    Raises: StateError naming what cannot be captured."""
    if isinstance(chosen, ValueAdapter):
        chosen.offer(like)
        return chosen
    try:
        from twinstep.adapters.jax import JaxState
    except ModuleNotFoundError as error:
        raise StateError(
            "restore(like=...) is for JAX, which is not installed: "
            "pip install 'twinstep[jax]'; for torch, Session(model=model, ...)"
        ) from error
    made = JaxState(objects)
    made.offer(like)
    return made
