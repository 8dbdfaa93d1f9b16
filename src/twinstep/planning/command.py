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
from twinstep.planner.paper import ERRATA, with_costs
from twinstep.planner.paper_rows import rows
from twinstep.planner.policies import Costs
from twinstep.planning.plan import make
from twinstep.planning.request import Words, read_file, understand
from twinstep.planning.settings import explain

SAMPLES, DAYS = 200, 30.0

Machines = Annotated[int | None, typer.Option(help="That train.")]
Parameters = Annotated[str, typer.Option(help="Of the model, as 100e9.")]
Step = Annotated[
    str, typer.Option("--step-seconds", help="Of training, as 62 or 500ms.")
]
Network = Annotated[str, typer.Option(help="Of a machine to others, as 400Gbps.")]
Storage = Annotated[str, typer.Option(help="Shared, all machines together, as 20Gbps.")]
ShardStorage = Annotated[
    str,
    typer.Option(help="Of each machine to storage that grows; the network's."),
]
Disk = Annotated[str, typer.Option(help="Of a machine's own, as 3GB/s.")]
Memory = Annotated[
    str, typer.Option(help="That copies may take on a machine, as 1152GB.")
]
Failures = Annotated[
    str, typer.Option(help="Lost machines: 1.5%/day (each), 15/day, every 3h.")
]
ProcessFailures = Annotated[
    str, typer.Option(help="Failed processes, in the same words.")
]
DomainMachines = Annotated[
    int, typer.Option(help="That fail together: a rack's, a cube's.")
]
DomainFailures = Annotated[str, typer.Option(help="Of domains, in the same words.")]
Copies = Annotated[int | None, typer.Option(help="Holders of each shard.")]
Replicas = Annotated[
    int | None, typer.Option(help="Of the state that training itself holds.")
]
Standby = Annotated[int | None, typer.Option(help="Machines that wait.")]
RanksPerMachine = Annotated[int | None, typer.Option()]
BytesPerParameter = Annotated[
    float, typer.Option(help="12: float32 weights and Adam's moments.")
]
IdleShare = Annotated[
    float, typer.Option(help="Of a step, in which the network idles.")
]
WarmUp = Annotated[str, typer.Option(help="After a restart, beside twinstep's: 30s.")]
Replace = Annotated[str, typer.Option(help="Until the cloud gives a machine: 5.5min.")]
Preset = Annotated[str, typer.Option(help="A public machine, as p4d.")]
Pods = Annotated[
    int, typer.Option(help="Of a preset with pods (tpu-v4): the job is so many.")
]
StandbyCubes = Annotated[
    int | None, typer.Option(help="Of each pod, that do not train.")
]
CostsFile = Annotated[
    Path | None, typer.Option(help="Measured: what `soak --json` wrote.")
]
Trace = Annotated[
    Path | None,
    typer.Option(help='Failures to draw from: {"at_s": 60, "machines": 1} a line.'),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Explain a job's own settings as well."),
]
Days = Annotated[float, typer.Option(help="Drawn in each sample.")]
Samples = Annotated[int, typer.Option(help="Of so many days; 0: closed forms only.")]
Paper = Annotated[
    bool, typer.Option("--paper", help="GEMINI's numbers, computed again.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write it to this file.")]
Png = Annotated[Path | None, typer.Option(help="Draw it into this file.")]


def plan(
    machines: Machines = None,
    parameters: Parameters = "",
    step: Step = "",
    network: Network = "",
    storage: Storage = "",
    shard_storage: ShardStorage = "",
    disk: Disk = "",
    memory: Memory = "",
    failures: Failures = "1.5%/day",
    process_failures: ProcessFailures = "0/day",
    domain_machines: DomainMachines = 0,
    domain_failures: DomainFailures = "0/day",
    copies: Copies = None,
    replicas: Replicas = None,
    standby: Standby = None,
    ranks_per_machine: RanksPerMachine = None,
    bytes_per_parameter: BytesPerParameter = 12.0,
    idle_share: IdleShare = 0.15,
    warm_up: WarmUp = "",
    replace: Replace = "",
    preset: Preset = "",
    pods: Pods = 0,
    standby_cubes: StandbyCubes = None,
    costs: CostsFile = None,
    trace: Trace = None,
    config_file: ConfigFile = None,
    days: Days = DAYS,
    samples: Samples = SAMPLES,
    seed: int = 0,
    paper: Paper = False,
    json_file: JsonFile = None,
    png: Png = None,
) -> None:
    """Say what failures will cost a job, and what copies take, before it runs."""
    given = locals()  # The options by name, before there is anything else.
    if paper:
        _paper(costs, json_file=json_file, png=png)
        return
    settings = config.load(config_file) if config_file else None
    if settings is not None:
        Console().print(explain(settings))
        if not parameters:
            return
    words = Words(**{name: given[name] for name in Words.__dataclass_fields__})
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
