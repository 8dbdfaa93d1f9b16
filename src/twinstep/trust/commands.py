"""The commands `twinstep certs` and `twinstep token`: what a job's machines prove
themselves with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """The commands are `app`'s afterwards."""
    app.command()(certs)
    app.command()(token)


def certs(
    folder: Annotated[Path, typer.Argument(help="Holds the job's authority.")],
    machine: Annotated[str, typer.Option(help="Whose certificate to make.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="An address or name others reach it at; as many as it has."),
    ] = None,
    days: Annotated[int, typer.Option(help="How long it is valid.")] = 365,
) -> None:
    """Make a certificate for a machine, and with the first one the job's authority."""
    from twinstep.trust.certs import make

    made = make(folder, machine=machine, hosts=host or [], days=days)
    if made.ca_made:
        print(
            f"twinstep: a new authority in {folder}, valid until "
            f"{made.ca_expires:%Y-%m-%d}; keep {folder}/ca.key where only you are: "
            "whoever has it can make machines of this job"
        )
    print(
        f"twinstep: {made.folder} is for {machine} ({', '.join(made.hosts)}), valid "
        f"until {made.expires:%Y-%m-%d}; copy it there, and set trust.certs to it"
    )


def token(
    file: Annotated[Path, typer.Argument(help="A new file, for you alone.")],
) -> None:
    """Make a secret that a job's machines share, where the network is trusted."""
    from twinstep.trust.certs import make_token

    make_token(file)
    print(
        f"twinstep: {file} holds a new token; copy it to every machine of the job, "
        "readable for its user only, and set trust.token_file to it"
    )
