"""The commands `twinstep demo` and `twinstep soak`.

What they run imports a framework, and is imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this file.")
]
Framework = Annotated[str, typer.Option(help="torch or jax.")]


def show(
    json_file: JsonFile = None,
    png: Annotated[Path, typer.Option(help="Draw the run into this picture.")] = Path(
        "twinstep-demo.png"
    ),
    seed: Annotated[int, typer.Option(help="Of data and initial weights.")] = 0,
    framework: Framework = "torch",
) -> None:
    """Train a small GPT twice, once under five failures, and compare every bit."""
    from twinstep.demo.run import demo

    status = demo(
        json_file=json_file,
        png=png,
        seed=seed,
        console=Console(),
        framework=framework,
    )
    raise typer.Exit(status)


def endure(
    kills: Annotated[int, typer.Option(help="How often something is injured.")] = 50,
    seed: Annotated[int, typer.Option(help="Of who is injured, and when.")] = 0,
    kv: Annotated[
        str,
        typer.Option(help="The store: embedded, or etcd (three members)."),
    ] = "embedded",
    include: Annotated[
        str,
        typer.Option(
            help="Kinds of failure, with commas between; those of links are tried on "
            "hosts of their own (needs root). Unknown ones are answered with a list."
        ),
    ] = "",
    hosts: Annotated[
        bool, typer.Option("--hosts", help="On hosts of their own in any case.")
    ] = False,
    style: Annotated[
        str,
        typer.Option(
            help="ddp or fsdp2; in JAX dp or fsdp. Left out: the one that shards."
        ),
    ] = "",
    framework: Framework = "torch",
    storage: Annotated[
        Path | None, typer.Option(help="Folder that steps are written to.")
    ] = None,
    lose_group: Annotated[
        bool,
        typer.Option(
            "--lose-group",
            help="Kill all holders of a shard at once, each time; needs --storage.",
        ),
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Train under many random injuries, and compare every bit with a calm run."""
    from twinstep.demo.soak import soak

    status = soak(
        kills=kills,
        seed=seed,
        json_file=json_file,
        style=style,
        framework=framework,
        kv=kv,
        include="kill-group" if lose_group else include,
        storage=storage,
        on_hosts=hosts,
    )
    raise typer.Exit(status)
