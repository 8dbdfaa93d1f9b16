"""The frameworks that the demo and the soak train with: a script and settings each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from twinstep.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """What a framework's runs need. The last of `styles` shards its state."""

    script: Path
    settings: Path
    styles: tuple[str, ...]


HERE = Path(__file__).parent
FRAMEWORKS = {
    "torch": Framework(
        script=HERE / "train.py",
        settings=HERE / "demo.toml",
        styles=("ddp", "fsdp2"),
    ),
    "jax": Framework(
        script=HERE / "train_jax.py",
        settings=HERE / "demo_jax.toml",
        styles=("dp", "fsdp"),
    ),
}


def framework_of(name: str) -> Framework:
    """Raises: UsageError naming those there are."""
    if name not in FRAMEWORKS:
        raise UsageError(f"framework is {name!r}; use one of {', '.join(FRAMEWORKS)}")
    return FRAMEWORKS[name]


def check_style(framework: str, style: str) -> str:
    """Returns the style, the framework's sharded one if none is named.

    Raises: UsageError for one that the framework has not."""
    styles = framework_of(framework).styles
    if style and style not in styles:
        raise UsageError(
            f"style is {style!r}; with {framework} use one of {', '.join(styles)}"
        )
    return style or styles[-1]
