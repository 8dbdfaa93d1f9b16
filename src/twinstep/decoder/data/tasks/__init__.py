"""The tasks that a model can be trained and judged on: one file a family.

Every task is real or made on this machine, without a network, and the same each time.
TASKS lists them by name.
"""

from __future__ import annotations

from twinstep.decoder.data.tasks import (
    arithmetic,
    documents,
    handwriting,
    retrieval,
    scene,
    spoken,
    translation,
    video,
    words,
)
from twinstep.decoder.data.tasks.task import Task

FAMILIES = (
    handwriting,
    spoken,
    video,
    translation,
    arithmetic,
    retrieval,
    words,
    scene,
    documents,
)
TASKS: dict[str, Task] = {
    task.name: task for family in FAMILIES for task in family.TASKS
}
DEFAULT = tuple(name for name, task in TASKS.items() if task.default)
"""Those that are made unless others are asked for."""
