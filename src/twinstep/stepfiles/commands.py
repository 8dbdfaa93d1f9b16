"""The commands `twinstep list`, `verify` and `export`: checkpoints as files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from twinstep import clock, config
from twinstep.errors import TwinstepError, UsageError
from twinstep.jobs import JobView, find_job
from twinstep.stepfiles import exporting, listing, view
from twinstep.stepfiles.checking import Report, check_step
from twinstep.stepfiles.foreign import check_directory
from twinstep.stepfiles.where import Where, options_of, step_in, where
from twinstep.storage_settings import Storage
from twinstep.store import contents as stored, reading

Checkpoints = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A storage, one step's folder in it, or a DCP directory; a folder, or an "
        "address that fsspec knows.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="What fsspec is told."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")]


def add_to(app: typer.Typer) -> None:
    """The commands are `app`'s afterwards."""
    app.command("list")(list_steps)
    app.command("verify")(verify)
    app.command("export")(export)


def list_steps(
    path: Checkpoints, as_json: AsJson = False, option: Options = None
) -> None:
    """List the steps in a storage: when and by whom written, whole or why not."""
    with _storage_errors(path):
        at = where(path, options_of(option or []))
        if at.foreign:
            found = listing.describe(at)
            picture = view.draw_directory(at.name, found)
            record = {"path": at.name, "directory": found}
        else:
            steps_max = Storage().steps_max
            one = [listing.row_of(at)] if at.folder else None
            rows = one or listing.rows(at, steps_max=steps_max)
            picture = view.draw_rows(at.name, rows, now_s=clock.wall_s())
            record = {"path": at.name, "steps": rows}
    if as_json:
        print(msgspec.json.encode(record).decode())
    else:
        Console().print(picture)


def verify(
    path: Checkpoints,
    step: Annotated[
        int | None, typer.Option(help="Only this step of the storage.")
    ] = None,
    as_json: AsJson = False,
    option: Options = None,
) -> None:
    """Read every byte of the checkpoints at PATH, and name what is damaged."""
    with _storage_errors(path):
        at = where(path, options_of(option or []))
        if step is not None:
            at = step_in(at, step)
        notes, reports = list[str](), list[Report]()
        for one in [at] if at.folder else _finished(at, notes):
            report = _check(one)
            if report is None:
                notes.append(f"{one.folder} was removed while it was read")
            else:
                reports.append(report)
    if not reports:
        raise UsageError(f"{at.name} has no step to verify{'; '.join(['', *notes])}")
    if as_json:
        record = {"path": at.name, "checked": reports, "notes": notes}
        print(msgspec.json.encode(record).decode())
    else:
        for report in reports:
            Console().print(view.draw_report(report), soft_wrap=True)
        for note in notes:
            Console().print(note, markup=False, soft_wrap=True)
    raise typer.Exit(1 if any(report.faults for report in reports) else 0)


def export(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[STEP] OUT", help="A step's number or latest; OUT."),
    ],
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(exporting.FORMATS)}.")
    ],
    job: Annotated[
        Path | None,
        typer.Option("--job", help="The job's folder; the newest that runs."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="STORAGE", help="Not from a job's memory."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="The store of a job on other computers.")
    ] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config", help="Names the job's credentials.")
    ] = None,
    option: Options = None,
) -> None:
    """Write a step of a running job's memory, or of a storage, to the folder OUT."""
    step, out = _step_and_out(words)
    if source is not None and (job, store, config_file) != (None, None, None):
        raise UsageError("--from names a storage; leave out --job, --store, --config")
    exporting.check_out(out)
    options = options_of(option or [])
    if options and source is None:
        raise UsageError("--option is for --from STORAGE")
    with _storage_errors(source or str(out)):
        if source is not None:
            contents = exporting.from_storage(
                where(source, options), out, step=step, form=form, bar=view.bar
            )
        else:
            trust = config.load(config_file).trust if config_file else None
            with closing(JobView(store or find_job(job), trust=trust)) as running:
                contents = exporting.from_memory(
                    running, out, step=step, form=form, bar=view.bar, say=_say
                )
    origin = source or "memory"
    print(f"twinstep: {out} has step {contents.step} ({form}), from {origin}")


def _step_and_out(words: list[str]) -> tuple[int | None, Path]:
    """Raises: UsageError."""
    if len(words) > 2:
        raise UsageError(f"export takes [STEP] OUT, not {' '.join(words)!r}")
    step = words[0] if len(words) == 2 else "latest"
    if step != "latest" and not (step.isdecimal() and step.isascii() and int(step)):
        raise UsageError(f"step {step!r} is neither a number from 1 on nor 'latest'")
    return None if step == "latest" else int(step), Path(words[-1])


def _check(at: Where) -> Report | None:
    """Returns what is wrong with a checkpoint; None if it was removed meanwhile, as a
    job removes old steps: the metadata first."""
    before = at.place.sizes(at.folder)
    check = check_directory if at.foreign else check_step
    try:
        with view.bar(at.folder, sum(before.values())) as tick:
            report = check(at, tick=tick)
    except FileNotFoundError:
        report = None
    if stored.finished(before) and not stored.finished(at.place.sizes(at.folder)):
        return None
    if report is None:
        raise OSError(f"{at.name} cannot be read: a file of it comes and goes")
    return report


def _finished(storage: Where, notes: list[str]) -> list[Where]:
    """The checkpoints of a storage; folders that are none are noted."""
    found: list[Where] = []
    for one in reading.look(storage.place, steps_max=Storage().steps_max):
        if one.finished:
            found.append(
                Where(place=storage.place, folder=one.folder, foreign=one.foreign)
            )
        else:
            notes.append(f"{one.folder} is passed over: {one.reason}")
    return found


def _say(text: str) -> None:
    print(f"twinstep: {text}", file=sys.stderr)


@contextlib.contextmanager
def _storage_errors(name: str) -> Generator[None]:
    """What the storage refuses is one message. Raises: TwinstepError."""
    try:
        yield
    except (OSError, EOFError) as error:
        if isinstance(error, TwinstepError):
            raise
        raise TwinstepError(f"{name}: {error}") from error
