"""A run of the size of a test: its settings, and a script's text that makes one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "data.tasks": ["image_digit", "addition"],
    "data.amount": 0.01,
    "model.vocabulary": 300,
    "model.layers": 1,
    "model.width": 16,
    "model.hidden": 16,
    "model.heads": 1,
    "model.head_size": 8,
    "model.tower.layers": 0,
    "train.steps": 6,
    "train.warm_up": 1,
    "train.shape.rows": 2,
    "train.shape.tokens": 64,
    "train.shape.images": 16,
    "train.shape.audio": 1,
    "job.machines": 0,
}
TINY_RUN = """
import sys
from pathlib import Path
from tests.decoder.tiny_run import make, trained

run = make(Path(sys.argv[1]))
"""


def make(folder: Path, **changes: Any) -> Any:
    """Returns a run with data and tokenizer."""
    from twinstep.decoder import recipe, stages
    from twinstep.decoder.run import Run

    run = Run(folder)
    settings = recipe.changed(recipe.Recipe(), SETTINGS | changes)
    run.keep(settings)
    stages.make_data(run, settings, stages.Speech())
    stages.make_tokenizer(run, settings, stages.Speech())
    return run


def trained(run: Any, speech: Any = None) -> str:
    """Trains the run, and returns the digest of the state at its end."""
    from twinstep.decoder import stages, weights

    stages.train(run, run.recipe(), speech or stages.Speech())
    return weights.about(run.model).state_digest
