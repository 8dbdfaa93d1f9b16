"""Which adapter serves the objects a session was given, without importing frameworks.

An object's framework is told from the modules of its class's ancestors, so that
neither torch nor jax is imported for a user of the other.
"""

from __future__ import annotations

from collections.abc import Mapping

from twinstep.adapters.state import StateAdapter
from twinstep.errors import StateError


def adapter_for(objects: Mapping[str, object]) -> StateAdapter:
    """Returns the adapter for `objects`; one that is a StateAdapter serves itself.

    Raises: StateError when there are none, or torch is not installed."""
    if not objects:
        raise StateError(
            "a Session needs the state to keep: Session(model=model, "
            "optimizer=optimizer, loader=loader)"
        )
    for given in objects.values():
        if len(objects) == 1 and isinstance(given, StateAdapter):
            return given
    try:
        from twinstep.adapters.torch import TorchState
    except ModuleNotFoundError as error:
        raise StateError(
            f"the state given ({', '.join(objects)}) needs PyTorch: "
            "pip install 'twinstep[torch]'"
        ) from error
    return TorchState(objects)
