"""The command `twinstep simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from twinstep.sim.show import show


def try_seeds(
    seeds: Annotated[int, typer.Option(help="How many clusters.")] = 1000,
    first: Annotated[int, typer.Option(help="The first seed.")] = 0,
    machines: Annotated[int | None, typer.Option(help="Not drawn.")] = None,
    ranks_per_machine: Annotated[int | None, typer.Option(help="Not drawn.")] = None,
    copies: Annotated[int | None, typer.Option(help="Not drawn.")] = None,
    faults: Annotated[
        str, typer.Option(help="Kinds of damage, by commas; all by default.")
    ] = "",
    processes: Annotated[int, typer.Option(help="At once; 0: one a core.")] = 0,
    trace: Annotated[bool, typer.Option(help="Show what happens in each.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result to this file.")
    ] = None,
) -> None:
    """Run whole clusters of the shipped decisions, from seeds, under damage."""
    fixed = {"machines": machines, "ranks": ranks_per_machine, "copies": copies}
    raise typer.Exit(
        show(
            first=first,
            seeds=seeds,
            kinds=[kind for kind in faults.split(",") if kind],
            fixed={name: value for name, value in fixed.items() if value is not None},
            processes=processes,
            trace=trace,
            json_file=json_file,
            console=Console(),
        )
    )
