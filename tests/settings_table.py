"""Makes the tables of docs/reference.md from the settings' own docstrings.

`python -m tests.settings_table` prints them all.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from typing import Any

from twinstep import config, schedule_settings, storage_settings

PARTS: dict[str, type[Any]] = {
    "the job": config.Job,
    "[timing]": config.Timing,
    "[health]": config.Health,
    "[transfer]": config.Transfer,
    "[schedule]": config.Schedule,
    "[trust]": config.Trust,
    "[storage]": config.Storage,
    "[kubernetes]": config.Kubernetes,
    "[slurm]": config.Slurm,
}

LEAST = {
    "machines": ">= 1",
    "ranks_per_machine": ">= 1",
    "min_machines": "0 .. machines",
    "standbys": ">= 0",
    "copies": "0 .. machines",
    "placement": "one of these",
    "memory_bytes_max": ">= 0",
    "rounds_without_progress_max": ">= 1",
    "output_lines_max": ">= 1",
    "stack_rounds_max": ">= 1",
    "stack_bytes_max": ">= 1",
    "looks_min": ">= 1",
    "port": "0 .. 65535",
    "strikes_max": ">= 1",
    "strikes_s": "> 0",
    "check_s": "> 0",
    "check_s_max": "> 0",
    "celsius_max": "> 0",
    "failures_max": ">= 1",
    "disk_bytes_min": ">= 0",
    "memory_left_bytes_min": ">= 0",
    "probes": "of these",
    "data": "one of these",
    "strangers_max": "> 0",
    "handshake_s_max": "> 0",
    "handshake_threads": "> 0",
    "strangers_lines_max": "> 0",
    "domains": "none, or one a machine",
    "drain": "bad or never",
    "replacements_max": ">= 1",
    "return_s": ">= 0",
    "call_s_max": "> 0",
    "look_s": "> 0",
}


def docstrings(part: type[Any]) -> dict[str, str]:
    """The string below each field of a class, on one line."""
    body = ast.parse(inspect.getsource(part)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(words))),
            ):
                found[name] = " ".join(words.split())
            case _:
                continue
    return found


def unit(field: dataclasses.Field[Any]) -> str:
    """The unit that a field's name ends in, by the rules of names."""
    words = field.name.removesuffix("_max").removesuffix("_min").split("_")
    if words[-3:] == ["bytes", "per", "s"]:
        return "bytes/s"
    return {"s": "s", "bytes": "bytes"}.get(words[-1], "")


def least(part: type[Any], field: dataclasses.Field[Any]) -> str:
    """The smallest value that is allowed, in words; empty where there is none."""
    if part is config.Timing:
        return ">= 0" if field.default == 0.0 else "> 0"
    if part is config.Kubernetes:
        return "" if field.name == "template" else "> 0"
    if part is config.Transfer:
        return ">= 1"
    if part is config.Storage:
        return stored(field)
    if part is config.Schedule:
        return scheduled(field)
    return LEAST.get(field.name, "")


def scheduled(field: dataclasses.Field[Any]) -> str:
    """The bound of a setting of [schedule]."""
    if isinstance(field.default, str | bool):
        return "one of these" if field.name == "mode" else ""
    least = schedule_settings.LEAST.get(field.name)
    most = schedule_settings.MOST.get(field.name)
    if most is None:
        return "> 0" if least is None else f">= {least}"
    return f"> 0, <= {most}" if least is None else f"{least} .. {most}"


def stored(field: dataclasses.Field[Any]) -> str:
    """The bound of a setting of [storage]."""
    if not isinstance(field.default, int | float) or isinstance(field.default, bool):
        return ""
    least = storage_settings.LEAST.get(field.name)
    return "> 0" if least is None else f">= {least}"


def settings_table(part: type[Any]) -> str:
    """Returns a Markdown table: name, unit, bound, default, what it means."""
    words = docstrings(part)
    rows = ["| setting | unit | bound | default | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(part):
        if dataclasses.is_dataclass(default(field)):
            continue  # a part of its own
        cells = [
            f"`{field.name}`",
            unit(field),
            least(part, field),
            f"`{toml(default(field))}`",
            words[field.name],
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def toml(value: Any) -> str:
    """A default as the file would have it."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


if __name__ == "__main__":
    for title, part in PARTS.items():
        print(f"### {title}\n\n{settings_table(part)}\n")
