"""What each rank of a run does, and alone by hand: `twinstep run rank.py RUN`.

The ledger opens first, so that imports are in it. What takes long to import is imported
within its `init` event; a rank that was forked from a warm process has it already.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import twinstep
from twinstep.clock import wall_s
from twinstep.decoder.train.ledger import Ledger
from twinstep.environment import rank_place

AHEAD_STEPS = 10
"""A run that ends early does so this many steps ahead: ranks are not so far apart."""


def train_rank(folder: Path, *, began_wall_s: float | None = None) -> None:
    """The run's training is over; its first rank has left the weights in RUN/model.

    Raises: UsageError when data or tokenizer are missing, or do not fit."""
    place = rank_place()
    first = place is None or place.rank == 0
    ledger = Ledger(
        folder / "ledger.jsonl" if first else None, began_wall_s=began_wall_s
    )
    try:
        _train(folder, ledger, alone=place is None, number=place.rank if place else 0)
        ledger.end()
    finally:
        ledger.leave()


def _train(folder: Path, ledger: Ledger, *, alone: bool, number: int) -> None:
    with ledger.event("init"):
        from rich.console import Console

        from twinstep.decoder import weights
        from twinstep.decoder.model.decoder import decoder_spec
        from twinstep.decoder.run import Run
        from twinstep.decoder.stages import open_batches_of
        from twinstep.decoder.train import initial, loop, ranks
        from twinstep.decoder.train.metrics import Metrics
        from twinstep.decoder.train.step import make_step

        run = Run(folder)
        recipe = run.recipe()
        job, train = recipe.job, recipe.train
        if not alone:
            ranks.keep_to_processors(job.threads, number=number)
        us = ranks.join(run.cache)
        source = open_batches_of(run, recipe, rows=us.rows(train.shape))
        spec = decoder_spec(recipe.model)
        shapes = initial.shapes(recipe.model, train, spec=spec)
        where = us.shardings(spec, shapes, train.shape)
        state = initial.initial_state(recipe.model, train, spec=spec, where=where.state)
        step = make_step(recipe.model, train, spec=spec, shardings=where)
        metrics = Metrics(
            run.metrics if us.rank == 0 else None,
            steps=train.steps,
            tensorboard=run.board if recipe.tensorboard else None,
            console=Console(),
        )
    with twinstep.Session() as session:
        state = loop.train(
            state,
            loop.Controls(
                step=step,
                source=source,
                steps=train.steps,
                session=session,
                ledger=ledger,
                metrics=metrics,
                place=ranks.placing(where.batch),
                last_step=lambda: run.last_step(train.steps),
                hooks=(_deadline(run.stop_at, job.seconds_max),) if not us.rank else (),
            ),
        )
    if us.rank == 0:
        reached = int(state["step"])
        weights.save(
            run.model,
            state["params"],
            recipe.model,
            step=reached,
            state_digest=weights.digest(state),
        )


def _deadline(stop_at: Path, seconds_max: float) -> Any:
    """Returns a hook that ends the run a few steps after its time is over."""

    def look(step: int, state: Any, ledger: Ledger) -> None:
        if seconds_max and ledger.elapsed_s > seconds_max and not stop_at.exists():
            from twinstep.decoder.run import replace_text

            replace_text(stop_at, str(step + AHEAD_STEPS))

    return look


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains a decoder in a run's folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--began", type=float, help="wall clock when it was started")
    args = parser.parse_args()
    train_rank(args.folder, began_wall_s=args.began or wall_s())


if __name__ == "__main__":
    main()
