"""The commands `twinstep decoder ...`: from nothing to a trained, evaluated model.

Each works in one folder and reads what the one before has left there. What they import
is heavy (JAX), and is imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from twinstep.decoder.recipe import Recipe
    from twinstep.decoder.run import Run

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a multimodal decoder under protection, from data to evaluation.",
)

Folder = Annotated[Path, typer.Option("--folder", help="The run's folder.")]
HERE = Path("decoder-run")
WIDE = 132
"""Columns of a table that is written into a file or a pipe."""
Preset = Annotated[
    str | None, typer.Option(help="The model's sizes: tiny or mini; tiny by default.")
]
Amount = Annotated[
    float | None, typer.Option(help="Of the full number of examples, 0 to 1.")
]
Steps = Annotated[int | None, typer.Option(help="Of training.")]
Machines = Annotated[
    int | None, typer.Option(help="That train; 0: this process, unprotected.")
]
RanksPerMachine = Annotated[int | None, typer.Option(help="On each machine.")]
Standby = Annotated[int | None, typer.Option(help="Machines that wait.")]
Limit = Annotated[int | None, typer.Option(help="Held-out items of each task.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this file.")
]


def _console() -> Console:
    """Where there is no terminal, a table has room for its words."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def _open(folder: Path, changes: dict[str, Any]) -> tuple[Run, Recipe]:
    """The run, and its settings with these arguments over them, which are kept."""
    from twinstep.decoder.recipe import changed
    from twinstep.decoder.run import Run

    run = Run(folder)
    recipe = changed(run.recipe(), changes)
    if recipe != run.recipe() or not run.settings.exists():
        run.keep(recipe)
    return run, recipe


def _preset(name: str | None) -> dict[str, Any]:
    """The settings that a preset's name stands for."""
    if name is None:
        return {}
    import msgspec

    from twinstep.decoder.config import preset

    return {"model": msgspec.to_builtins(preset(name))}


@app.command()
def data(
    folder: Folder = HERE,
    task: Annotated[
        list[str] | None, typer.Option(help="Only these tasks; all by default.")
    ] = None,
    amount: Amount = None,
    seed: Annotated[int | None, typer.Option(help="Of what is drawn.")] = None,
    preset: Preset = None,
) -> None:
    """Make the examples: found or synthesised on this machine, offline."""
    from twinstep.decoder import stages

    changes = {"data.tasks": task, "data.amount": amount, "data.seed": seed}
    run, recipe = _open(folder, changes | _preset(preset))
    stages.make_data(run, recipe, stages.Speech(_console()))


@app.command()
def tokenizer(
    folder: Folder = HERE,
    vocabulary: Annotated[int | None, typer.Option(help="Pieces it learns.")] = None,
) -> None:
    """Train the tokenizer on texts of the mixture."""
    from twinstep.decoder import stages

    run, recipe = _open(folder, {"model.vocabulary": vocabulary})
    stages.make_tokenizer(run, recipe, stages.Speech(_console()))


@app.command()
def train(
    folder: Folder = HERE,
    steps: Steps = None,
    machines: Machines = None,
    ranks_per_machine: RanksPerMachine = None,
    standby: Standby = None,
    seconds_max: Annotated[
        float | None, typer.Option(help="End early after so long; 0: never.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.")] = None,
    anew: Annotated[
        bool, typer.Option("--anew", help="Not from the newest step in RUN/steps.")
    ] = False,
) -> None:
    """Train the model, on machines of this computer, protected at every step. What was
    interrupted goes on."""
    from twinstep.decoder import stages

    run, recipe = _open(
        folder,
        {
            "train.steps": steps,
            "train.seed": seed,
            "job.machines": machines,
            "job.ranks_per_machine": ranks_per_machine,
            "job.standbys": standby,
            "job.seconds_max": seconds_max,
        },
    )
    console = _console()
    stages.train(run, recipe, stages.Speech(console), anew=anew)
    stages.show_goodput(run, console)


@app.command()
def goodput(
    folder: Folder = HERE,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
    json_file: JsonFile = None,
) -> None:
    """Show what a run's time went to, also while it goes on."""
    from twinstep.decoder import stages
    from twinstep.decoder.run import Run

    stages.show_goodput(Run(folder), _console(), png=png, json_file=json_file)


@app.command()
def sample(
    text: Annotated[str, typer.Argument(help="What is asked, behind all media.")] = "",
    folder: Folder = HERE,
    image: Annotated[
        list[Path] | None, typer.Option(help="An image file; as many as wanted.")
    ] = None,
    sound: Annotated[list[Path] | None, typer.Option(help="A WAV file.")] = None,
    clip: Annotated[
        list[Path] | None, typer.Option(help="An animated GIF, WebP or PNG.")
    ] = None,
    tokens_max: Annotated[int, typer.Option(help="Of the answer.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="0: always the most probable token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what is drawn, above 0.")] = 0,
) -> None:
    """Print what the model says to a text, and to images, sounds and clips."""
    from twinstep.decoder.answering import Question, answer
    from twinstep.decoder.run import Run

    question = Question(
        text=text, images=image or (), sounds=sound or (), clips=clip or ()
    )
    said = answer(
        Run(folder),
        question,
        tokens_max=tokens_max,
        temperature=temperature,
        seed=seed,
    )
    print(said)


@app.command("eval")
def evaluate(
    folder: Folder = HERE,
    task: Annotated[
        list[str] | None, typer.Option(help="Only these tasks; all by default.")
    ] = None,
    limit: Limit = None,
) -> None:
    """Ask the model held-out questions, blind as well, and write a page of answers."""
    from twinstep.decoder import stages

    changes = {"evaluation.tasks": task, "evaluation.limit": limit}
    run, recipe = _open(folder, changes)
    console = _console()
    stages.evaluate(run, recipe, stages.Speech(console), console)


@app.command("all")
def everything(
    folder: Folder = HERE,
    preset: Preset = None,
    amount: Amount = None,
    steps: Steps = None,
    machines: Machines = None,
    standby: Standby = None,
    limit: Limit = None,
) -> None:
    """From nothing to a trained and evaluated model: data, tokenizer, train, eval."""
    from twinstep.decoder import stages

    changes = {
        "data.amount": amount,
        "train.steps": steps,
        "job.machines": machines,
        "job.standbys": standby,
        "evaluation.limit": limit,
    }
    run, recipe = _open(folder, _preset(preset) | changes)
    console = _console()
    speech = stages.Speech(console)
    stages.make_data(run, recipe, speech)
    stages.make_tokenizer(run, recipe, speech)
    stages.train(run, recipe, speech)
    stages.show_goodput(run, console)
    stages.evaluate(run, recipe, speech, console)


@app.command()
def prove(
    folder: Folder = HERE,
    steps: Annotated[
        int,
        typer.Option(
            help="Of each of the two runs; 0: of the run itself, which has been "
            "trained undisturbed, and is trained once more, injured."
        ),
    ] = 60,
    machines: Annotated[int, typer.Option(help="That train.")] = 2,
    standby: Annotated[int, typer.Option(help="Machines that wait.")] = 1,
    kill_rank: Annotated[
        int, typer.Option(metavar="STEP", help="After this step; 0: none is.")
    ] = 20,
    kill_machine: Annotated[
        int, typer.Option(metavar="STEP", help="After this step; 0: none is.")
    ] = 40,
    rank: Annotated[int, typer.Option(help="The rank that is killed.")] = 1,
    machine: Annotated[
        str, typer.Option(help="The machine: a name, a machine rank, or root.")
    ] = "0",
    json_file: JsonFile = None,
) -> None:
    """Train twice, undisturbed and with a rank and a machine killed; compare bits."""
    from twinstep.decoder.prove import Blow, prove as run_proof
    from twinstep.decoder.recipe import changed
    from twinstep.decoder.run import Run

    run = Run(folder)
    recipe = run.recipe()
    changes: dict[str, Any] = {"job.standbys": standby, "job.seconds_max": 0.0}
    if steps:
        changes |= {
            "train.steps": steps,
            "train.warm_up": min(recipe.train.warm_up, steps // 4),
            "job.machines": machines,
        }
    blows = [
        Blow(kind=kind, victim=victim, at_step=at)
        for kind, victim, at in (
            ("rank", str(rank), kill_rank),
            ("machine", machine, kill_machine),
        )
        if at
    ]
    blows.sort(key=lambda blow: blow.at_step)
    status = run_proof(
        run,
        changed(recipe, changes),
        blows,
        console=_console(),
        json_file=json_file,
        whole=not steps,
    )
    raise typer.Exit(status)


@app.command()
def plan(
    flops: Annotated[
        float | None, typer.Option(help="Of training; or --seconds and --speed.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Of training.")] = None,
    speed: Annotated[
        float, typer.Option(help="FLOP/s that training reaches, all devices together.")
    ] = 80e9,
    served: Annotated[
        float, typer.Option(help="Tokens that will be served: what is cheapest then?")
    ] = 0.0,
    law: Annotated[
        str, typer.Option(help="hoffmann, hoffmann-text or besiroglu.")
    ] = "besiroglu",
    runs: Annotated[
        Path | None,
        typer.Option("--fit", help='Own runs, one {"N":, "D":, "loss":} a line.'),
    ] = None,
    hold_out: Annotated[
        bool, typer.Option(help="Keep the largest run out of the fit; foretell it.")
    ] = False,
    draws: Annotated[int, typer.Option(help="Of the bootstrap, for intervals.")] = 100,
    json_file: JsonFile = None,
) -> None:
    """Say how large a model, and how many tokens, for so many FLOPs."""
    from twinstep.decoder.scaling_view import show

    show(
        flops=flops if flops is not None else (seconds and seconds * speed),
        served=served,
        law=law,
        runs=runs,
        hold_out=hold_out,
        draws=draws,
        json_file=json_file,
        console=_console(),
    )
