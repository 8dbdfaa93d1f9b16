"""The command `twinstep`: reads arguments, calls what does the work, ends with

    0    the job, or what was asked, ended well
    1    it failed
    2    what was asked cannot be done: one message on stderr, nothing was left behind
    130  Ctrl-C

Tables are for people; `--json` gives the same to programs. What is slow to import
(frameworks, matplotlib) is imported by the command that needs it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from twinstep import __version__, clock, config, inject, joining, launcher
from twinstep.agent.status import Status
from twinstep.cloud.choice import OPERATORS
from twinstep.decoder import commands as decoder
from twinstep.demo import commands
from twinstep.errors import TwinstepError, UsageError
from twinstep.jobs import JobView, find_job, list_jobs
from twinstep.planning.command import plan
from twinstep.sim.commands import try_seeds
from twinstep.status_view import draw
from twinstep.stepfiles import commands as stepfiles
from twinstep.trust import commands as trust

WATCH_S = 0.5  # how often `status --watch` looks; the root publishes as often

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Every training step has a twin in a neighbour's memory.",
)
injuries = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Injure a running job with real signals, to see it come back.",
)
app.add_typer(injuries, name="inject")

JobFolder = Annotated[
    Path | None,
    typer.Option("--job", help="The job's folder; the newest that runs by default."),
]
MachineName = Annotated[
    str, typer.Argument(help="A name (m02), a machine rank (2), or root.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the result to this file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]
Script = Annotated[Path, typer.Argument(help="A Python file.")]
Arguments = Annotated[
    list[str] | None, typer.Argument(help="Passed to the script as they are.")
]
Machines = Annotated[int | None, typer.Option(help="Machines that train.")]
RanksPerMachine = Annotated[
    int | None, typer.Option(help="Training processes on each machine.")
]
Copies = Annotated[
    int | None, typer.Option(help="Machines that hold each shard, its own among.")
]
Placement = Annotated[
    str | None, typer.Option(help=f"One of {', '.join(config.STRATEGIES)}.")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="A TOML file; see docs/reference.md."),
]
StoragePath = Annotated[
    str | None,
    typer.Option("--storage", help="Folder or address that steps are written to."),
]
StoreAddress = Annotated[
    str | None,
    typer.Option("--store", help="etcd://HOST:2379/JOB, or a store's HOST:PORT."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"twinstep {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    pass


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    script: Script,
    arguments: Arguments = None,
    machines: Machines = None,
    ranks_per_machine: RanksPerMachine = None,
    standby: Annotated[
        int | None, typer.Option(help="Machines that wait to replace a lost one.")
    ] = None,
    copies: Copies = None,
    placement: Placement = None,
    config_file: ConfigFile = None,
    store: StoreAddress = None,
    storage: StoragePath = None,
    job_folder: Annotated[
        Path | None,
        typer.Option("--job", help="Folder for the job's sockets; a new one."),
    ] = None,
    store_port: Annotated[
        int, typer.Option(help="Port of the key-value store; 0 takes a free one.")
    ] = 0,
) -> None:
    """Train SCRIPT on machines of this computer, protected at every step."""
    job = config.load(
        config_file,
        machines=machines,
        ranks_per_machine=ranks_per_machine,
        standbys=standby,
        copies=copies,
        placement=placement,
        store=store,
        storage=storage,
    )
    status = launcher.run(
        job, script, arguments or [], folder=job_folder, store_port=store_port
    )
    raise typer.Exit(status)


@app.command(context_settings={"allow_interspersed_args": False})
def join(
    script: Script,
    arguments: Arguments = None,
    store: StoreAddress = None,
    machine: Annotated[
        str, typer.Option(help="This machine's name in the job; the host's.")
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address others reach it at; found by the store's.")
    ] = "",
    standby: Annotated[
        bool,
        typer.Option("--standby/--trains", help="Wait, to replace a lost machine."),
    ] = False,
    operator: Annotated[
        str, typer.Option(help=f"Who gives machines: {', '.join(OPERATORS)}.")
    ] = "none",
    machines: Machines = None,
    ranks_per_machine: RanksPerMachine = None,
    copies: Copies = None,
    placement: Placement = None,
    config_file: ConfigFile = None,
    job_folder: Annotated[
        Path | None,
        typer.Option("--job", help="Folder for sockets on this machine."),
    ] = None,
) -> None:
    """Make this computer a machine of a job that runs on several."""
    job = config.load(
        config_file,
        machines=machines,
        ranks_per_machine=ranks_per_machine,
        copies=copies,
        placement=placement,
        store=store,
    )
    status = joining.join(
        job,
        script,
        arguments or [],
        machine=machine,
        host=host,
        standby=standby,
        operator=operator,
        folder=job_folder,
    )
    raise typer.Exit(status)


@app.command("store")
def keep_store(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    config_file: ConfigFile = None,
) -> None:
    """Keep a key-value store for one job, where there is no etcd."""
    credentials = config.load(config_file).trust
    raise typer.Exit(joining.keep_store(credentials, host=host, port=port))


def _view(job: Path | None, store: str | None, config_file: Path | None) -> JobView:
    proofs = config.load(config_file).trust if config_file else None
    return JobView(store or find_job(job), trust=proofs)


@app.command()
def status(
    job: JobFolder = None,
    store: StoreAddress = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Until Ctrl-C.")] = False,
    every: Annotated[bool, typer.Option("--list", help="List your jobs.")] = False,
) -> None:
    """Show a running job: machines, what they hold, the step, what is waited for."""
    if every:
        for folder in list_jobs():
            print(folder)
        return
    with closing(_view(job, store, config_file)) as view:
        if as_json:
            print(view.json())
        elif watch:
            _watch(view)
        else:
            Console().print(_picture(view))


def _picture(view: JobView) -> RenderableType:
    name = f"{view.job.name} ({Path(view.job.script).name})"
    records, result = view.recoveries(), view.result()
    return draw(name, view.status(), records, result, now_s=clock.now_s())


def _watch(view: JobView) -> None:
    """Draws the job anew until it is over."""
    with Live(auto_refresh=False) as live:
        while view.result() is None:
            live.update(_picture(view), refresh=True)
            time.sleep(WATCH_S)
        live.update(_picture(view), refresh=True)


@app.command()
def explain(
    machines: Annotated[
        list[str] | None,
        typer.Argument(help="Lost at once: names, machine ranks or root; each alone."),
    ] = None,
    job: JobFolder = None,
    store: StoreAddress = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what would happen if machines died now; nothing is injured."""
    from twinstep.explain_view import show

    with closing(_view(job, store, config_file)) as view:
        print_ = print if as_json else Console().print
        print_(show(view, machines or [], as_json=as_json))


@app.command()
def timeline(
    job: JobFolder = None,
    store: StoreAddress = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
    png: Annotated[Path | None, typer.Option(help="Draw it into this file.")] = None,
) -> None:
    """Show a step of each machine: training's traffic, and what of copies goes when."""
    from twinstep.timeline_view import show

    with closing(_view(job, store, config_file)) as view:
        print_ = print if as_json else Console().print
        print_(show(view, as_json=as_json, png=png))


def _injure(job: Path | None, injure: Callable[[Status], inject.Injury]) -> None:
    with closing(JobView(find_job(job))) as view:
        status = view.status()
        if status is None:
            raise UsageError(
                f"job {view.job.name} has no root yet; try again when `twinstep "
                "status` shows its machines"
            )
        injury = injure(status)
    print(f"{injury.kind} {injury.who}: {injury.detail}")


@injuries.command("kill-rank")
def kill_rank(rank: int, job: JobFolder = None) -> None:
    """SIGKILL for one rank."""
    _injure(job, lambda status: inject.kill_rank(status, rank))


@injuries.command("stop-rank")
def stop_rank(rank: int, job: JobFolder = None) -> None:
    """SIGSTOP for one rank: it lives, and does nothing."""
    _injure(job, lambda status: inject.stop_rank(status, rank))


@injuries.command("kill-machine")
def kill_machine(machine: MachineName, job: JobFolder = None) -> None:
    """SIGKILL for a machine's agent and ranks at once: its memory is lost."""
    _injure(job, lambda status: inject.kill_machine(status, machine))


@injuries.command("corrupt-copy")
def corrupt_copy(
    machine: MachineName,
    shard: Annotated[int, typer.Option(help="Whose copy: a shard's number.")],
    offset: Annotated[
        int, typer.Option(help="Which byte; negative counts from the end.")
    ] = -1,
    job: JobFolder = None,
) -> None:
    """Flip one bit of a shard's copies in a machine's memory, unknown to its agent."""
    _injure(
        job,
        lambda status: inject.corrupt_copy(status, machine, shard=shard, offset=offset),
    )


app.command("demo")(commands.show)
app.command("soak")(commands.endure)
app.command("simulate")(try_seeds)
app.command("plan")(plan)
stepfiles.add_to(app)
trust.add_to(app)
app.add_typer(decoder.app, name="decoder")


def main() -> None:
    """Runs the command; whatever went wrong is one message, never a traceback."""
    try:
        sys.exit(app(standalone_mode=False))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except UsageError as error:
        _end(str(error), 2)
    except TwinstepError as error:
        _end(str(error), 1)
    except Exception as error:
        # What typer says of arguments; its class has another home in each version.
        say = getattr(error, "format_message", None)
        if say is None:
            raise
        _end(str(say()), 2)


def _end(message: str, status: int) -> NoReturn:
    text = message if message.startswith("Usage") else f"twinstep: {message}"
    print(text, file=sys.stderr)
    sys.exit(status)
