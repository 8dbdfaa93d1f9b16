"""A StorageReader that loads the newest save: from memory, or from files.

Which of the two is newer is rank 0's to say, by its own clock at both saves, and all
ranks must load the same: DCP's planning carries what each rank can, and what is done.

    all ranks     read_metadata         memory's boxes, where there is a save in memory
    all ranks     prepare_local_plan    an Offer: does my own part have all I need?
    coordinator   prepare_global_plan   memory, if all can and it is newer; else files
    all ranks     read_data             from the own part; or planned anew, from files

A rank reads no other rank's memory. So another number of ranks, or other shards, load
from files, and it is said why.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner
from torch.futures import Future

from twinstep.adapters.torch_dcp_items import moved
from twinstep.adapters.torch_dcp_state import Restored
from twinstep.dcp.memory import memory
from twinstep.dcp.stored import Stored, stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one rank has, and then what all do; travels with DCP's plan."""

    memory: bool
    reason: str = ""
    """Why it is not from memory."""


class _Known(dict[str, Any]):
    """What memory has, by name; asked for more, what files have. They are not opened
    before that: a directory's metadata can be large."""

    def __init__(self, known: dict[str, Any], more: Callable[[], dict[str, Any]]):
        super().__init__(known)
        self._more = more

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._more()

    def __missing__(self, name: str) -> Any:
        return self._more()[name]


class TwinstepReader(FileSystemReader):
    """Loads this run's newest save, from memory if it is newer than `path`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        only_step: int | None = None,
        **files: Any,
    ) -> None:
        """Args:
        path: as of FileSystemReader; dcp.load(checkpoint_id=...) replaces it.
        only_step: memory is used only if its save was called so; else `path` is.
        files: further arguments of FileSystemReader."""
        from_files: Any = super()
        from_files.__init__(path, **files)
        self.only_step = only_step
        self.source = ""
        """Where the last load came from: "memory" or "files"; empty before."""
        self._step: int | None = None
        self._id = ""
        self._files_metadata: Metadata | None = None

    @property
    def found(self) -> bool:
        """Whether there is anything to load."""
        return memory().restored is not None or self._stored() is not None

    @property
    def step(self) -> int | None:
        """What was loaded, as the user called it; before, what this rank would load.
        None: its user did not say."""
        if self.source:
            return self._step
        kept, reason = memory().restored, self._why_not_memory()
        if kept is not None and not reason:
            return kept.about.step
        on_disk = self._stored()
        return None if on_disk is None else on_disk.step

    @property
    def loaded_id(self) -> str:
        """The path that the save which was loaded was given; empty before."""
        return self._id

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        cast("Any", super()).reset(checkpoint_id)
        self.source, self._files_metadata = "", None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self.source, self._files_metadata = "", None
        kept = memory().restored
        if kept is None or kwargs.get("rank") is not None:
            return super().read_metadata(*args, **kwargs)
        return Metadata(
            state_dict_metadata=_Known(kept.metadata(), self._in_files),
            planner_data={fqn: tuple(path) for fqn, path in kept.paths.items()},
            storage_data=kept,
        )

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        kept = self._kept()
        reason = "no save is in memory"
        if kept is not None:
            lacking = kept.lacks(plan.items)
            reason = f"{lacking} of what is to be loaded is not in the own part of it"
            reason = reason if lacking else ""
        return dataclasses.replace(
            plan, storage_data=Offer(memory=not reason, reason=reason)
        )

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        offers = [cast("Offer", plan.storage_data) for plan in plans]
        reason = self._why_not_memory()
        refused = [(r, o.reason) for r, o in enumerate(offers) if not o.memory]
        if refused and not reason:
            reason = f"rank {refused[0][0]}: {refused[0][1]}"
        if reason and self._kept() is not None:
            memory().say(f"memory's save is not loaded, but {self._folder}: {reason}")
        done = Offer(memory=not reason, reason=reason)
        return [dataclasses.replace(plan, storage_data=done) for plan in plans]

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        kept, done = self._kept(), cast("Offer", plan.storage_data)
        if done.memory:
            assert kept is not None, "a rank without memory has offered none"
            for item in plan.items:
                kept.read(item, planner)
            self.source, self._step = "memory", kept.about.step
            self._id = kept.about.checkpoint_id
            read: Future[None] = Future()
            read.set_result(None)
            return read
        if kept is not None:
            metadata = self._metadata_of_files()
            self.storage_data = metadata.storage_data
            items = [new for item in plan.items for new in moved(item, metadata)]
            plan = dataclasses.replace(plan, items=items)
        read = super().read_data(plan, planner)
        on_disk = self._stored()
        self.source, self._id = "files", str(self._folder)
        self._step = None if on_disk is None else on_disk.step
        return read

    def _kept(self) -> Restored | None:
        """Memory's save, while the metadata of it is what DCP plans with."""
        found: Any = self.storage_data
        return found if isinstance(found, Restored) else None

    def _stored(self) -> Stored | None:
        return stored(self._folder)

    @property
    def _folder(self) -> Path:
        return Path(cast("Any", self).path)

    def _why_not_memory(self) -> str:
        """Returns why files are to be loaded, as far as this rank knows."""
        kept, on_disk = memory().restored, self._stored()
        if kept is None:
            return "no save is in memory"
        about = kept.about
        if self.only_step is not None and about.step != self.only_step:
            return f"it is of step {about.step}, not of {self.only_step}"
        if on_disk is not None and on_disk.saved_s > about.saved_s:
            return "files are newer"
        return ""

    def _in_files(self) -> dict[str, Any]:
        if self._stored() is None:
            return {}
        return self._metadata_of_files().state_dict_metadata

    def _metadata_of_files(self) -> Metadata:
        if self._files_metadata is None:
            self._files_metadata = super().read_metadata()
        return self._files_metadata
