"""The small values of a state in its manifest: written, read and checked.

Beside plain leaves and the states of objects: the generators of keys, which arrays
have a type that gives way to another (weak_type), on which the type of what is computed
with them depends, and so its bits; and for Orbax the nodes of the tree without a leaf.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from twinstep.adapters.jax_leaves import to_blob
from twinstep.capture.plain import encode_plain
from twinstep.errors import ProtocolError, StateError

FRAMEWORK = "jax"


def encode_values(
    others: Mapping[str, Any],
    *,
    keys: dict[str, str],
    weak: list[str],
    bare: dict[str, str],
) -> bytes:
    """Returns the values as plain data; `others` are plain leaves and objects' states.

    Raises: StateError naming what is no plain data."""
    values = {"framework": FRAMEWORK, "others": others, "keys": keys, "weak": weak}
    values["empty"] = bare
    return encode_plain(values, path="values", to_blob=to_blob)


def checked_values(values: object) -> dict[str, Any]:
    """Returns decoded values. Raises: StateError, ProtocolError."""
    if not isinstance(values, dict):
        raise ProtocolError("the values of a manifest are no dict")
    found = cast("dict[str, Any]", values)
    if found.get("framework") != FRAMEWORK:
        raise StateError(
            "the state was captured by another framework's session, and restore("
            "like=...) is JAX's; use another job or storage folder for this run"
        )
    kinds: dict[str, type[Any]] = {"others": dict, "keys": dict, "weak": list}
    for part, kind in kinds.items():
        if type(found.get(part)) is not kind:
            raise ProtocolError(f"the values of a manifest have no {part}")
    return found


def load_others(objects: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """The objects beside the state have theirs. Raises: StateError by name."""
    for name, value in objects.items():
        try:
            value.load_state_dict(values["others"][name])
        except Exception as error:
            raise StateError(f"{name}.load_state_dict() failed: {error!r}") from error


def check_others(objects: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises: StateError when the objects are not those that were captured."""
    state = ("state", "state[", "state.")
    captured = {n for n in values["others"] if n != state[0] and n[:6] not in state}
    if captured != set(objects):
        raise StateError(
            f"captured objects: {sorted(captured)}; given: {sorted(objects)}. Pass the "
            "same objects under the same names to twinstep.Session"
        )
