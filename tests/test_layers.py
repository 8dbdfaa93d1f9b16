"""Imports point backwards along the pipeline, and decisions touch no outside.

The checkers take source text and a path, so that planted offenders show that they
find what they are for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "twinstep"

# `cloud` comes after `agent`: operators start agents. `adapters` comes before
# `session`, which chooses the adapter for the objects that it is given.
LAYERS = (
    "errors",
    "values",
    "bounds",
    "clock",
    "telling",
    "cloud_settings",
    "schedule_settings",
    "storage_settings",
    "vigilance",
    "config",
    "launched",
    "environment",
    "trust",
    "capture",
    "placement",
    "schedule",
    "transfer",
    "store",
    "recovery",
    "planner",
    "agent",
    "cloud",
    "adapters",
    "last_word",
    "arriving",
    "pulsing",
    "loading",
    "twin",
    "session",
    "dcp",
    "jobs",
    "status_view",
    "explain",
    "explain_view",
    "stepfiles",
    "planning",
    "timeline_view",
    "launcher",
    "joining",
    "launch_pods",
    "guesthouse",
    "inject",
    "sim",
    "dashboard",
    "demo",
    "decoder",
    "cli",
)
TOP = ("__init__", "__main__")
"""The package's surface: may import anything, and nothing imports more of it than
its version."""

USERS = ("demo", "decoder")
"""Workloads: they use the library as any user does, through `import twinstep`."""

TRAINERS = ("adapters/lightning.py", "adapters/transformers.py")
"""Adapters that hold a Session in a trainer's stead, as any user does."""

HOMES = {
    "torch": ("adapters/", "dcp/", "decoder/", "demo/"),
    "torchdata": ("adapters/", "decoder/", "demo/"),
    "jax": ("adapters/", "decoder/", "demo/"),
    "jaxlib": ("adapters/", "decoder/", "demo/"),
    "lightning": ("adapters/lightning.py",),
    "pytorch_lightning": ("adapters/lightning.py",),
    "transformers": ("adapters/transformers.py",),
    "accelerate": ("adapters/transformers.py",),
    "etcd3": ("agent/etcd.py",),
    "etcd3gw": ("agent/etcd.py",),
    "aetcd": ("agent/etcd.py",),
    "etcd": ("agent/etcd.py",),
    "ray": ("cloud/ray.py", "cloud/ray_fleet.py"),
    "kubernetes": ("cloud/kubernetes_api.py",),
}

ENVIRONMENT_READERS = ("environment.py", "cli.py", "agent/script.py")
ENVIRONMENT_NAMES = {"environ", "environb", "getenv", "getenvb"}

PURE = (
    "bounds.py",
    "launched.py",
    "capture/manifest.py",
    "placement/",
    "schedule_settings.py",
    "schedule/",
    "transfer/frame.py",
    "store/archive.py",
    "store/dcp.py",
    "store/flattened.py",
    "store/foreign.py",
    "store/pickles.py",
    "store/slots.py",
    "store/archive.py",
    "store/dcp.py",
    "store/flattened.py",
    "store/foreign.py",
    "store/pickles.py",
    "recovery/choice.py",
    "recovery/outlook.py",
    "recovery/reshard.py",
    "planner/",
    "stepfiles/coverage.py",
    "trust/handshake.py",
    "trust/strangers.py",
    "agent/actions.py",
    "agent/ballot.py",
    "agent/begins.py",
    "agent/blame.py",
    "agent/border.py",
    "agent/requests.py",
    "agent/copies.py",
    "agent/election.py",
    "agent/guestbook.py",
    "agent/health.py",
    "agent/kv_ledger.py",
    "agent/messages.py",
    "agent/rank_messages.py",
    "agent/record.py",
    "agent/room.py",
    "agent/root.py",
    "agent/suspicion.py",
    "agent/stacks.py",
    "agent/culprits.py",
    "agent/relief.py",
    "agent/reserving.py",
    "agent/resizing.py",
    "agent/stored_messages.py",
    "agent/strikes.py",
    "agent/deadlines.py",
    "agent/status.py",
    "agent/traffic.py",
    "agent/transit.py",
    "agent/verdicts.py",
    "agent/roster.py",
    "agent/phase.py",
    "agent/plans.py",
    "agent/lookout.py",
    "agent/arrivals.py",
    "agent/layouts.py",
    "agent/chronicle.py",
    "agent/inventories.py",
    "agent/vote.py",
    "agent/wellbeing.py",
    "agent/worker.py",
    "cloud/pods.py",
    "cloud/nodes.py",
)
IMPURE = {"asyncio", "os", "random", "socket", "subprocess", "threading", "time"}
IMPURE_OF_OURS = {"twinstep.clock", "twinstep.environment"}


def sources() -> list[tuple[str, str]]:
    """Path below src/twinstep and text of every source file."""
    return [
        (str(path.relative_to(SOURCE)), path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    ]


def imported(text: str) -> Iterator[str]:
    """Full names of all modules that a source imports, wherever it does.

    `from a import b` gives a.b, which may be a module; import_module("a") gives a."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                yield "."
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name
            case _:
                pass


def layer_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def out_of_order(path: str, text: str) -> list[str]:
    layer = layer_of(path)
    if layer in TOP:
        return []
    if layer not in LAYERS:
        return [f"{path}: layer {layer!r} has no place in LAYERS"]
    wrong: list[str] = []
    for name in imported(text):
        parts = name.split(".")
        if parts[0] == "":
            wrong.append(f"{path}: relative import")
        if parts[0] != "twinstep" or parts[1:] == ["__version__"]:
            continue
        if len(parts) == 1 and (layer in USERS or path in TRAINERS):
            continue
        other = parts[1] if len(parts) > 1 else ""
        if other not in LAYERS:
            wrong.append(f"{path}: imports {name}, which is no layer")
        elif LAYERS.index(other) > LAYERS.index(layer):
            wrong.append(f"{path}: imports {name}; {other} comes after {layer}")
    return wrong


def away_from_home(path: str, text: str) -> list[str]:
    roots = {name.split(".")[0] for name in imported(text)}
    return [
        f"{path}: imports {root}; only {', '.join(HOMES[root])} may"
        for root in sorted(roots & set(HOMES))
        if not path.startswith(HOMES[root])
    ]


def reads_environment(path: str, text: str) -> list[str]:
    if path in ENVIRONMENT_READERS:
        return []
    wrong: list[str] = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name):
                names = {name}
            case ast.ImportFrom(module="os", names=aliases):
                names = {alias.name for alias in aliases}
            case _:
                continue
        for name in sorted(names & ENVIRONMENT_NAMES):
            wrong.append(f"{path}:{node.lineno}: os.{name}")
    return wrong


def touches_outside(path: str, text: str) -> list[str]:
    if not path.startswith(PURE):
        return []
    return [
        f"{path}: a decision imports {name}"
        for name in imported(text)
        if name.split(".")[0] in IMPURE
        or ".".join(name.split(".")[:2]) in IMPURE_OF_OURS
    ]


CHECKS = (out_of_order, away_from_home, reads_environment, touches_outside)


@pytest.mark.parametrize("check", CHECKS)
def test_no_source_offends(check: object) -> None:
    assert callable(check)
    wrong = [line for path, text in sources() for line in check(path, text)]
    assert not wrong, "\n".join(wrong)


def test_the_checks_see_the_sources() -> None:
    paths = [path for path, _ in sources()]
    assert "errors.py" in paths
    assert any(path.startswith(PURE) for path in paths)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("errors.py", "import twinstep.values", "values comes after errors"),
        ("store/memory.py", "from twinstep.agent import worker", "after store"),
        ("store/memory.py", "from twinstep import session", "after store"),
        ("store/memory.py", "from twinstep import Session", "no layer"),
        ("store/memory.py", "import twinstep", "no layer"),
        ("adapters/torch.py", "import twinstep", "no layer"),
        ("store/memory.py", "from . import slots", "relative"),
        ("helpers.py", "", "no place in LAYERS"),
        (
            "values.py",
            "def late():\n    from twinstep.cli import main",
            "cli comes after",
        ),
        (
            "values.py",
            "import importlib\nimportlib.import_module('twinstep.cli')",
            "cli comes after",
        ),
    ],
)
def test_an_import_out_of_order_is_found(path: str, text: str, says: str) -> None:
    assert any(says in line for line in out_of_order(path, text))


def test_an_import_in_order_is_not() -> None:
    text = "import os\nfrom twinstep import __version__\nimport twinstep.store.memory\n"
    assert out_of_order("recovery/restore.py", text) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("session.py", "import torch.distributed as dist"),
        ("capture/snapshot.py", "from torch import Tensor"),
        ("agent/warm.py", "__import__('torch')"),
        ("cli.py", "if True:\n    import jax"),
        ("agent/kv.py", "import etcd3"),
        ("adapters/torch.py", "import lightning.pytorch"),
        ("session.py", "from transformers import Trainer"),
    ],
)
def test_a_framework_away_from_home_is_found(path: str, text: str) -> None:
    assert away_from_home(path, text)


def test_a_framework_at_home_is_not() -> None:
    assert away_from_home("adapters/torch.py", "import torch") == []
    assert away_from_home("agent/etcd.py", "import etcd3") == []


@pytest.mark.parametrize(
    "text",
    [
        "import os\nrank = os.environ['RANK']",
        "import os\nrank = os.getenv('RANK')",
        "from os import environ",
    ],
)
def test_a_reader_of_the_environment_is_found(text: str) -> None:
    assert reads_environment("session.py", text)
    assert reads_environment("environment.py", text) == []


@pytest.mark.parametrize("path", PURE)
@pytest.mark.parametrize(
    "text",
    [
        "import time",
        "from os.path import join",
        "import asyncio.tasks",
        "def now():\n    from time import monotonic",
        "from twinstep import clock",
        "from twinstep.clock import monotonic_s",
    ],
)
def test_an_impure_decision_is_found(path: str, text: str) -> None:
    path = path if path.endswith(".py") else f"{path}any.py"
    assert touches_outside(path, text)
    assert touches_outside("agent/process.py", text) == []
