"""A StorageWriter that saves into memory each time, and to files every n-th time.

    all ranks      prepare_local_plan   this rank's items, before DCP leaves out doubles
    coordinator    prepare_global_plan  as FileSystemWriter
    all ranks      write_data           items ──► slot ──► neighbours; files if due
    coordinator    finish               as FileSystemWriter, if files were written

What is written to files is FileSystemWriter's work, as without twinstep. A save that
was not due and that some rank could not keep goes to files instead: the ranks agree on
that by one small collective. One that the agents passed over, since the copies of the
one before are still on their way, does not: the one before is kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from twinstep import clock
from twinstep.adapters.torch_dcp_items import About
from twinstep.capture.turn import Came, Outcome
from twinstep.dcp.memory import memory
from twinstep.dcp.stored import Stored, mark
from twinstep.errors import ConfigError

WAIT_S_MAX = 10.0


class TwinstepWriter(FileSystemWriter):
    """Saves into this run's memory, and into a directory every n-th time."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        step: int | None = None,
        storage_every: int = 1,
        wait_s_max: float = WAIT_S_MAX,
        process_group: dist.ProcessGroup | None = None,
        **files: Any,
    ) -> None:
        """Args:
          path: as of FileSystemWriter; dcp.save(checkpoint_id=...) replaces it.
          step: what the user calls this save; the reader says it.
          storage_every: every so many saves of this run are written to `path`. 1, the
            default: each one is, as without twinstep.
          wait_s_max: seconds that a save waits for its agent to call for it.
          process_group: as given to dcp.save.
          files: further arguments of FileSystemWriter.

        Raises: ConfigError for an argument that is out of bounds."""
        if storage_every < 1 or wait_s_max <= 0:
            raise ConfigError(
                f"storage_every ({storage_every}) must be at least 1, and wait_s_max "
                f"({wait_s_max}) more than 0"
            )
        to_files: Any = super()
        to_files.__init__(path, **files)
        self.step = step
        self.storage_every, self.wait_s_max = storage_every, wait_s_max
        self._group = process_group
        self._about = About()
        self._to_files = True

    def set_up_storage_writer(
        self, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        number = memory().saves + 1  # of the save that begins here
        due = number % self.storage_every == 0
        self._to_files = due or not (memory().began and self.use_collectives)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        kept = memory()
        if plan.usable:  # else it is the same as last time
            kept.items, kept.mappings = list(plan.items), plan.planner_data
        return super().prepare_local_plan(plan) if self._to_files else plan

    def write_data(
        self, plan: SavePlan, planner: SavePlanner
    ) -> Future[list[WriteResult]]:
        self._about = About(
            step=self.step, checkpoint_id=str(self._folder), saved_s=clock.now_s()
        )
        kept = memory()
        outcome = kept.save(planner, about=self._about, seconds_max=self.wait_s_max)
        if kept.began:
            self._tell(outcome)
        if not self._to_files and self._any_failed(outcome):
            self._to_files = True
            self._folder.mkdir(parents=True, exist_ok=True)
        if self._to_files:
            return super().write_data(plan, planner)
        nothing: Future[list[WriteResult]] = Future()
        nothing.set_result([])
        return nothing

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        if not self._to_files:
            return
        super().finish(metadata, results)
        about = self._about
        mark(self._folder, Stored(saved_s=about.saved_s, step=about.step))

    @property
    def _folder(self) -> Path:
        return Path(cast("Any", self).path)

    def _any_failed(self, outcome: Outcome) -> bool:
        failed = outcome.came is Came.FAILED
        if not (dist.is_available() and dist.is_initialized()):
            return failed
        found: list[Any] = [None] * dist.get_world_size(self._group)
        cast("Any", dist).all_gather_object(found, failed, group=self._group)
        return any(found)

    def _tell(self, outcome: Outcome) -> None:
        if outcome.came is Came.CAPTURED:
            return
        named = f"save {memory().saves}" if self.step is None else f"step {self.step}"
        instead = "it goes to files" if self._to_files else "the one before is kept"
        if outcome.came is Came.FAILED:
            instead = "it goes to files"
        memory().say(
            f"{named} is not in memory: {outcome.reason}; {instead}",
            topic=f"{outcome.came} {outcome.reason}",
        )
