"""The command `twinstep plan`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from twinstep import config
from twinstep.errors import UsageError
from twinstep.planner.gemini_report import assumptions, largest_job
from twinstep.planner.measured import costs_of
from twinstep.planner.paper import ERRATA, rows, with_costs
from twinstep.planner.policies import Costs
from twinstep.planning.plan import make
from twinstep.planning.request import Words, read_file, understand
from twinstep.planning.settings import explain

SAMPLES, DAYS = 200, 30.0

Speed = Annotated[str, typer.Option(help="As 400Gbps, or 50GB/s.")]


def plan(
    machines: Annotated[int | None, typer.Option(help="That train.")] = None,
    parameters: Annotated[str, typer.Option(help="Of the model, as 100e9.")] = "",
    step: Annotated[
        str, typer.Option("--step-seconds", help="Of training, as 62 or 500ms.")
    ] = "",
    network: Annotated[
        str, typer.Option(help="Of a machine to others, as 400Gbps.")
    ] = "",
    storage: Annotated[
        str, typer.Option(help="Shared, all machines together, as 20Gbps.")
    ] = "",
    shard_storage: Annotated[
        str,
        typer.Option(help="Of each machine to storage that grows; the network's."),
    ] = "",
    disk: Annotated[str, typer.Option(help="Of a machine's own, as 3GB/s.")] = "",
    memory: Annotated[
        str, typer.Option(help="That copies may take on a machine, as 1152GB.")
    ] = "",
    failures: Annotated[
        str, typer.Option(help="Lost machines: 1.5%/day (each), 15/day, every 3h.")
    ] = "1.5%/day",
    process_failures: Annotated[
        str, typer.Option(help="Failed processes, in the same words.")
    ] = "0/day",
    domain_machines: Annotated[
        int, typer.Option(help="That fail together: a rack's, a cube's.")
    ] = 0,
    domain_failures: Annotated[
        str, typer.Option(help="Of domains, in the same words.")
    ] = "0/day",
    copies: Annotated[int | None, typer.Option(help="Holders of each shard.")] = None,
    replicas: Annotated[
        int | None, typer.Option(help="Of the state that training itself holds.")
    ] = None,
    standby: Annotated[int | None, typer.Option(help="Machines that wait.")] = None,
    ranks_per_machine: Annotated[int | None, typer.Option()] = None,
    bytes_per_parameter: Annotated[
        float, typer.Option(help="12: float32 weights and Adam's moments.")
    ] = 12.0,
    idle_share: Annotated[
        float, typer.Option(help="Of a step, in which the network idles.")
    ] = 0.15,
    warm_up: Annotated[
        str, typer.Option(help="After a restart, beside twinstep's: 30s.")
    ] = "",
    replace: Annotated[
        str, typer.Option(help="Until the cloud gives a machine: 5.5min.")
    ] = "",
    preset: Annotated[str, typer.Option(help="A public machine, as p4d.")] = "",
    pods: Annotated[
        int, typer.Option(help="Of a preset with pods (tpu-v4): the job is so many.")
    ] = 0,
    standby_cubes: Annotated[
        int | None, typer.Option(help="Of each pod, that do not train.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="Measured: what `soak --json` wrote.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help='Failures to draw from: {"at_s": 60, "machines": 1} a line.'),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="Explain a job's own settings as well."),
    ] = None,
    days: Annotated[float, typer.Option(help="Drawn in each sample.")] = DAYS,
    samples: Annotated[
        int, typer.Option(help="Of so many days; 0: closed forms only.")
    ] = SAMPLES,
    seed: int = 0,
    paper: Annotated[
        bool, typer.Option("--paper", help="GEMINI's numbers, computed again.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write it to this file.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
) -> None:
    """Say what failures will cost a job, and what copies take, before it runs."""
    if paper:
        _paper(costs, json_file=json_file, png=png)
        return
    settings = config.load(config_file) if config_file else None
    if settings is not None:
        Console().print(explain(settings))
        if not parameters:
            return
    words = Words(
        machines=machines,
        parameters=parameters,
        step=step,
        network=network,
        storage=storage,
        shard_storage=shard_storage,
        disk=disk,
        memory=memory,
        failures=failures,
        process_failures=process_failures,
        domain_machines=domain_machines,
        domain_failures=domain_failures,
        copies=copies,
        replicas=replicas,
        standby=standby,
        ranks_per_machine=ranks_per_machine,
        bytes_per_parameter=bytes_per_parameter,
        idle_share=idle_share,
        warm_up=warm_up,
        replace=replace,
        preset=preset,
        pods=pods,
        standby_cubes=standby_cubes,
        costs=costs,
        trace=trace,
    )
    if samples < 0 or not 0 < days < math.inf:
        raise UsageError(
            f"--samples is {samples} and --days {days:g}; at least 0, and more than 0"
        )
    made = make(
        understand(words, settings=settings), days=days, samples=samples, seed=seed
    )
    from twinstep.planning.view import draw

    Console().print(draw(made))
    if json_file:
        _write(json_file, made.record())
    if png:
        from twinstep.planning.plots import picture

        picture(made, png)


def _paper(measured: Path | None, *, json_file: Path | None, png: Path | None) -> None:
    from twinstep.planning.view import draw_paper

    costs = Costs()
    if measured:
        text = read_file(measured, "--costs")
        costs = costs_of(text, costs, option=str(measured))
    found, assumed = rows(), assumptions(largest_job(), costs)
    ours = with_costs(costs)
    Console().print(draw_paper(found, assumed, ours, costs))
    if json_file:
        _write(
            json_file,
            {
                "rows": [
                    {
                        **msgspec.structs.asdict(row),
                        "relative_difference": row.relative_difference,
                        "explained": row.explained,
                    }
                    for row in found
                ],
                "errata": dict(ERRATA),
                "figure_15_with_our_costs": ours,
                "from_85_to_97": assumed,
                "costs": costs,
            },
        )
    if png:
        from twinstep.planning.plots import paper_picture

        paper_picture(costs, png)


def _write(path: Path, record: dict[str, Any]) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    except OSError as error:
        raise UsageError(f"--json {path} cannot be written: {error}") from error
