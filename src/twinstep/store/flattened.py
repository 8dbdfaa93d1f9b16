"""Where in torch's nested state a tensor or value of ours is, as DCP's keys tell it.

A job that used torch.distributed.checkpoint itself would save

    {"model": get_model_state_dict(model),
     "optimizer": get_optimizer_state_dict(model, optimizer), "scheduler": ...}

and DCP calls each leaf by the path to it, joined with dots. Our names become the same
paths, so that such a job loads what we wrote:

    model.inner.weight                    ("model", "inner.weight")
    models['a'][0].inner.weight           ("models", "a", 0, "inner.weight")
    optimizer[3:model.inner.weight].step  ("optimizer", "state", "inner.weight", "step")
    optimizer[3:optimizer[3]].step        ("optimizer", "state", "3", "step")
    optimizer[3].parameter                ("optimizer", 3, "parameter")
    model.gate  (of extra state)          ("model", "gate._extra_state", ...)

Names of a state of JAX are paths in one tree, as jax.tree_util.keystr writes them:

    state['opt'][0].mu['embed']           ("state", "opt", 0, "mu", "embed")
    state/opt/0/mu/embed                  the same, from keystr(simple=True)

In an optimizer's state a parameter goes without its module's name, as torch has it,
unless the optimizer has parameters of several objects: then two could be called alike.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from twinstep.capture.plain import Blob

Path = tuple[str | int, ...]

HEAD = re.compile(r"[^.\[]*")
SUBSCRIPT = re.compile(
    r"\[(?:(?P<index>\d{1,18})|(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"))\]",
    re.DOTALL,
)
OTHER = re.compile(r"\[([^\[\]]*)\](?=[.\[]|$)", re.DOTALL)
PARAMETER = re.compile(r"\[(\d{1,18}):(.*)\]\.(.*)", re.DOTALL)
NODE = re.compile(
    r"\.(?P<attribute>[^.\[]+)|\[<flat index (?P<index>\d{1,18})>\]"
    r"|\[(?P<other>[^\[\]]+)\](?P<text>)",
    re.DOTALL,
)
"""What a name of JAX's has beside numbers and texts in brackets."""
INDEX = re.compile(r"0|[1-9][0-9]{0,8}")
INDEX_MAX = 1 << 16
"""A number beyond it is no index of a list, which a reader would fill up to there."""


class _Name(NamedTuple):
    """A name taken apart: the object, and what is inside it."""

    object: Path
    rest: str
    label: str = ""
    """The parameter that this is the state of; nothing for what is no such state."""
    position: int = 0


def key_path(name: str) -> Path:
    """Returns the path of a tensor by its manifest's name, when the optimizer it may
    be of has parameters of one object only."""
    return key_paths([name])[name]


def key_paths(names: Iterable[str], *, trees: bool = False) -> dict[str, Path]:
    """Returns the path of each tensor of a step; `trees` says that it is JAX's."""
    if trees:
        return {name: tree_path(name) for name in names}
    parsed = {name: _parse(name) for name in names}
    owners: dict[Path, set[Path]] = {}
    for part in parsed.values():
        if part.label:
            owners.setdefault(part.object, set()).add(_parse(part.label).object)
    return {
        name: (
            (*part.object, "state", _short(part, owners[part.object]), part.rest)
            if part.label
            else (*part.object, part.rest)
            if part.rest
            else part.object
        )
        for name, part in parsed.items()
    }


def tree_path(name: str) -> Path:
    """Returns the path of a leaf by the name that JAX makes of it: a name, then keys
    in brackets and attributes after dots, or all of them between slashes, where what
    looks like a number may be a place in a list."""
    if "/" in name and "[" not in name:
        parts = name.split("/")
        return tuple(int(part) if INDEX.fullmatch(part) else part for part in parts)
    head = HEAD.match(name)
    assert head is not None
    path: list[str | int] = [head[0]]
    at = head.end()
    while at < len(name):
        key = SUBSCRIPT.match(name, at) or NODE.match(name, at)
        if key is None:
            return (name,)
        found = key.groupdict()
        if found["index"]:
            path.append(int(found["index"]))
        elif found["text"]:
            path.append(str(ast.literal_eval(found["text"])))
        else:
            path.append(found["attribute"] or found["other"])
        at = key.end()
    return tuple(path)


def dotted(path: Path) -> str:
    """The key that DCP gives to a path."""
    return ".".join(map(str, path))


def settled(paths: Mapping[str, Path]) -> dict[str, Path]:
    """Returns keys and paths by what the paths were given for: no key twice, and
    numbers only where a list can be: where all that is beside them are numbers too."""
    texts: set[Path] = set()
    for path in paths.values():
        for depth, part in enumerate(path):
            if depth and (isinstance(part, str) or part > INDEX_MAX):
                texts.add(path[:depth])
    taken: set[str] = set()
    result: dict[str, Path] = {}
    for name, path in paths.items():
        safe = tuple(
            str(part) if path[:depth] in texts else part
            for depth, part in enumerate(path)
        )
        if dotted(safe) in taken:
            safe = (name,)
        taken.add(dotted(safe))
        result[name] = safe
    return result


def of_trees(values: Mapping[str, Any]) -> bool:
    """Whether a rank's values, decoded, and its names are those of a state of JAX."""
    return values.get("framework") == "jax"


def plain_items(
    values: Mapping[str, Any], names: Iterable[str]
) -> list[tuple[Path, Any]]:
    """Returns the small values of a rank, each with its path, for archive_plain().

    `values` are those of the rank's manifest as decode_plain() returns them, `names`
    those of its tensors. Left out
    are the generators of random numbers, which differ from rank to rank and which
    torch's own checkpoints do not have. Values of an older manifest, which does not say
    which parameters a group has, give no `params` where there are several groups."""
    items: list[tuple[Path, Any]] = []
    labels = _labels(names)
    for name, optimizer in values.get("optimizers", {}).items():
        if name in values.get("params", {}):
            optimizer = {**optimizer, "params": values["params"][name]}
        path = _parse(name).object
        known = labels.get(path, {})
        groups = _groups(name, optimizer, known)
        every = {**known, **_numbered(name, optimizer)}
        owners = {_parse(label).object for label in every.values()}
        for index, state in optimizer["state"].items():
            label = every.get(index, f"{name}[{index}]")
            short = _short(_Name(path, "", label, index), owners)
            items += _leaves((*path, "state", short), state)
        for group, fields in enumerate(groups):
            if "params" in fields:
                fields["params"] = [
                    _short(_Name(path, "", label, index), owners)
                    for index, label in fields["params"]
                ]
            items += _leaves((*path, "param_groups", group), fields)
    for name, state in values.get("extra", {}).items():
        part = _parse(name)
        key = f"{part.rest}._extra_state" if part.rest else "_extra_state"
        items += _leaves((*part.object, key), state)
    for name, state in values.get("others", {}).items():
        if of_trees(values):
            items.append((tree_path(name), state))
        else:
            items += _leaves(_parse(name).object, state)
    return items


def _parse(name: str) -> _Name:
    head = HEAD.match(name)
    assert head is not None
    path: list[str | int] = [head[0]]
    at = head.end()
    while name[at : at + 1] == "[":
        state = PARAMETER.fullmatch(name, at)
        if state:
            return _Name(tuple(path), state[3], state[2], int(state[1]))
        part = SUBSCRIPT.match(name, at)
        other = part or OTHER.match(name, at)
        if other is None:
            return _Name((name,), "")
        if part is None:
            path.append(other[1])
        elif part["index"]:
            path.append(int(part["index"]))
        else:
            path.append(str(ast.literal_eval(part["text"])))
        at = other.end()
    if at < len(name) and name[at] != ".":
        return _Name((name,), "")
    return _Name(tuple(path), name[at + 1 :])


def _short(state: _Name, owners: set[Path]) -> str:
    """Returns what torch calls the parameter that `state` is of."""
    label = _parse(state.label)
    if label.object == (*state.object, state.position) and not label.rest:
        return str(state.position)
    modules = {owner for owner in owners if owner[: len(state.object)] != state.object}
    if label.rest and len(modules) == 1:
        return label.rest
    return dotted((*label.object, label.rest) if label.rest else label.object)


def _labels(names: Iterable[str]) -> dict[Path, dict[int, str]]:
    """The parameters whose state is among the tensors, by optimizer and position."""
    labels: dict[Path, dict[int, str]] = {}
    for name in names:
        part = _parse(name)
        if part.label:
            labels.setdefault(part.object, {})[part.position] = part.label
    return labels


def _numbered(name: str, optimizer: Mapping[str, Any]) -> dict[int, str]:
    labels = [label for group in optimizer.get("params", ()) for label in group]
    return dict(enumerate(labels))


def _groups(
    name: str, optimizer: Mapping[str, Any], known: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Returns the groups, with the positions and labels of their parameters."""
    groups: list[dict[str, Any]] = [dict(group) for group in optimizer["groups"]]
    params: list[list[str]] | None = optimizer.get("params")
    if params is None and len(groups) == 1:
        count = max([*known, *optimizer["state"]], default=-1) + 1
        params = [[known.get(i, f"{name}[{i}]") for i in range(count)]]
    first = 0
    for group, labels in zip(groups, params or (), strict=False):
        group["params"] = list(enumerate(labels, first))
        first += len(labels)
    return groups


def _leaves(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    """As DCP flattens: dicts are opened, and lists if a tensor or dict is inside."""
    if isinstance(value, dict):
        for key, item in cast("dict[object, Any]", value).items():
            yield from _leaves((*path, str(key)), item)
    elif isinstance(value, list) and _opens(cast("list[Any]", value)):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _leaves((*path, index), item)
    else:
        yield path, value


def _opens(items: list[Any]) -> bool:
    return any(
        isinstance(item, dict)
        or (isinstance(item, list) and _opens(cast("list[Any]", item)))
        or (isinstance(item, Blob) and item.kind in ("tensor", "parameter"))
        for item in items
    )
