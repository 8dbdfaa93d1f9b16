"""Lightning's Trainer under twinstep: one callback.

    trainer = L.Trainer(callbacks=[twinstep.adapters.lightning.TwinstepCallback()])

    on_fit_start          session is made and restored; the loop's counters are loaded
    process_dataloader    each training loader is watched, and begins where it stood
    on_train_batch_start  the state is that of the last update, all that followed it
                          done: validation, epoch ends, schedules, other callbacks
    teardown              session is closed

A step is told when the next batch begins, not when its own ends: Lightning has no way
back into the middle of what lies between. The next batch is fetched by then, so that
its fetch is made again after a restart (replay.py). What Lightning's own resuming does
to its counters is done through its own state_dict() and load_state_dict(); what it
does to data, namely nothing, is done here.

Session is used as any user does. Left out: metrics that gather over an epoch, and what
callbacks keep outside their state_dict().
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import twinstep
from twinstep.adapters import replay, torch_values
from twinstep.errors import OrderError, StateError
from twinstep.telling import tell

try:
    lightning: Any = import_module("lightning.pytorch")
    lightning_callbacks: Any = import_module("lightning.pytorch.callbacks")
except ModuleNotFoundError as error:
    raise StateError(
        "twinstep.adapters.lightning needs Lightning: pip install 'twinstep[lightning]'"
    ) from error

INTERNALS = (
    "strategy.process_dataloader",
    "_checkpoint_connector._loaded_checkpoint",
    "_logger_connector._callback_metrics",
    "fit_loop._data_fetcher",
    "fit_loop._restarting",
    "fit_loop.state_dict",
    "fit_loop.load_state_dict",
    "fit_loop.epoch_progress.current.processed",
    "fit_loop.epoch_loop.batch_progress.current.completed",
    "fit_loop.epoch_loop._batches_that_stepped",
    "fit_loop.epoch_loop.reset_restart_stage",
)
"""What is read of a Trainer and is not in Lightning's documentation."""
VERSIONS = "lightning 2.6"
NO_PLACE = (
    "has no indices to find a place by: after a restart the epoch is read again and "
    "what was used is thrown away, which takes time, and is right if its epochs are "
    "the same in each start, or it has state_dict() and load_state_dict()"
)
AVERAGES = ("StochasticWeightAveraging", "WeightAveraging")
"""Callbacks that keep a second model which is in no state_dict()."""


class TwinstepCallback(lightning_callbacks.Callback):
    """Keeps every update of a `fit` in memory that outlives the process.

    An update is a step of the optimizer, after all its accumulated batches; with
    manual optimization, a batch with any. One fit of a script is protected.

    Raises: StateError when the fit starts, for parts that would not continue."""

    def __init__(self) -> None:
        self._session: twinstep.Session | None = None
        self._step = 0
        self._updates = 0
        """Lightning's count when the last step was told."""
        self._used = False
        self._now: dict[str, Any] | None = None
        """The random state to go on from, until the first batch is there."""
        self._progress: _Progress | None = None
        self._undo: Callable[[], None] | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        if self._used:
            raise OrderError(
                "this callback has protected a fit already, and a script that starts "
                "again could not tell two of them apart; fit once in a script"
            )
        self._used = True
        _check(trainer)
        progress = self._progress = _Progress(trainer)
        strategy = trainer.strategy
        process = strategy.process_dataloader

        def process_dataloader(loader: Any) -> Any:
            found = process(loader)
            if trainer.training:
                progress.watch(found)
            return found

        def undo() -> None:
            strategy.__dict__.pop("process_dataloader", None)

        strategy.process_dataloader = process_dataloader
        self._undo = undo

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        assert self._progress is not None, "setup() comes first"
        objects: dict[str, Any] = {
            "model": trainer.strategy.model,
            "optimizers": trainer.optimizers,
            "schedulers": [each.scheduler for each in trainer.lr_scheduler_configs],
            "precision": trainer.precision_plugin,
            "progress": self._progress,
        }
        if trainer.datamodule is not None:
            objects["datamodule"] = trainer.datamodule
        first = torch_values.generators()
        self._session = twinstep.Session(**objects)
        self._step = self._session.restore()
        if self._step:
            # The script's own way to the first batch is as in its first start.
            self._now = torch_values.generators()
            torch_values.set_generators(first)
            trainer._checkpoint_connector._loaded_checkpoint = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert self._progress is not None
        self._updates = trainer.global_step
        self._progress.begins()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._now is not None:  # this is where the restored step was told
            torch_values.set_generators(self._now)
            self._now = None
            # Else Lightning would leave out schedules at the end of this epoch.
            trainer.fit_loop._restarting = False
        elif self._session is not None and trainer.global_step > self._updates:
            self._step += 1
            self._session.after_step(self._step)
        self._updates = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._progress is not None
        self._progress.batch_ends()

    def on_exception(
        self, trainer: Any, pl_module: Any, exception: BaseException
    ) -> None:
        if self._session is not None:
            self._session.__exit__(type(exception), exception, exception.__traceback__)
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self._session is not None:
            self._session.close()
        self._end()

    def _end(self) -> None:
        self._session = None
        if self._undo is not None:
            self._undo()


class _Progress:
    """Where a Trainer stands: its counters, its callbacks, its place in the data."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._back: dict[str, Any] | None = None
        """What was restored, until the loop goes on from it."""
        self._watched = 0
        self._ended: list[Any] = []
        """What each loader told of itself when its last epoch was over."""

    def state_dict(self) -> dict[str, Any]:
        """Called when the next batch is in hand and not yet used."""
        loop = self._trainer.fit_loop
        used = loop.epoch_loop.batch_progress.current.completed
        found = [replay.watched(loader) for loader in self._loaders()]
        return {
            "loop": _counters(loop),
            "epoch": loop.epoch_progress.current.processed,
            "used": used,
            "callbacks": {
                each.state_key: each.state_dict() for each in self._trainer.callbacks
            },
            "metrics": dict(self._trainer._logger_connector._callback_metrics),
            "indices": [each.position(used) if each else None for each in found],
            "ended": self._ended,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._back = state
        self._trainer.fit_loop.load_state_dict(state["loop"])
        # Schedules and early stopping read what an earlier validation has logged.
        self._trainer._logger_connector._callback_metrics.update(state["metrics"])
        for each in self._trainer.callbacks:
            if each.state_key in state["callbacks"]:
                each.load_state_dict(state["callbacks"][each.state_key])

    def watch(self, loader: Any) -> None:
        """A training loader begins where it stood in the restored step, if any."""
        indices, back = replay.watch(loader), self._back
        number, self._watched = self._watched, self._watched + 1
        if back is None:
            if indices is None and not number:
                tell(f"twinstep: {_kind(loader)} {NO_PLACE}", error=True)
        elif indices is not None:
            replay.set_epoch(loader, back["epoch"])
            indices.begin_at(back["indices"][number], skip=True)

    def begins(self) -> None:
        """The loop is about to ask for its first batch.

        Raises: StateError when some loaders have indices, and others do not."""
        loop = self._trainer.fit_loop
        if type(loop._data_fetcher).__name__ == "_DataLoaderIterDataFetcher":
            raise StateError(
                "training_step(dataloader_iter) takes batches by itself, so that "
                "nobody knows which are used; let training_step have a batch"
            )
        loaders = self._loaders()
        blind = [item for item in loaders if replay.watched(item) is None]
        if blind and len(blind) < len(loaders):
            raise StateError(
                f"of the training loaders, {_kind(blind[0])} has no indices to find a "
                "place by, and others have; give all of them map-style datasets"
            )
        back, self._back = self._back, None
        if back is None:
            return
        # Lightning would take this for a checkpoint at the end of a batch, and skip
        # what it takes to have been done by then.
        loop.epoch_loop.reset_restart_stage()
        if blind:
            self._ended = back["ended"]
            for loader, state in zip(loaders, self._ended, strict=False):
                if state is not None:
                    loader.load_state_dict(state)
                    if loop._data_fetcher.length is not None:
                        iter(loader)  # Lightning had not asked for more than there was
            iter(loop._data_fetcher)
            for _ in range(back["used"]):
                next(loop._data_fetcher)
            loop._data_fetcher.fetched = 0  # Lightning adds the used ones itself

    def batch_ends(self) -> None:
        """The batch in hand is used; the next one was not asked for."""
        loaders = self._loaders()
        last = self._trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last and any(map(_tells, loaders)):
            self._ended = [
                item.state_dict() if _tells(item) else None for item in loaders
            ]

    def _loaders(self) -> list[Any]:
        return self._trainer.fit_loop._combined_loader.flattened


def _counters(loop: Any) -> dict[str, Any]:
    """Returns the state of a fit loop as it was before the batch in hand."""
    state = loop.state_dict()
    state["state_dict"].pop("combined_loader", None)
    batches = state["epoch_loop.batch_progress"]
    for part in ("total", "current"):
        done = batches[part]["completed"]
        batches[part] |= dict.fromkeys(("ready", "started", "processed"), done)
    batches["is_last_batch"] = False
    # Lightning adds one when it resumes, for its own checkpoints lack it.
    state["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    return state


def _tells(loader: Any) -> bool:
    """Whether a loader without indices has a state that one epoch hands to the next."""
    return replay.watched(loader) is None and all(
        callable(getattr(loader, name, None))
        for name in ("state_dict", "load_state_dict")
    )


def _kind(loader: Any) -> str:
    dataset = getattr(loader, "dataset", None)
    return f"{type(loader).__name__} of {type(dataset).__name__}"


def _check(trainer: Any) -> None:
    """Raises: StateError for what would not continue, with the way out."""
    for path in INTERNALS:
        found = trainer
        for name in path.split("."):
            if not hasattr(found, name):
                raise StateError(
                    f"Lightning {lightning.__version__} has no trainer.{path}, which "
                    f"twinstep needs; it was made for {VERSIONS}"
                )
            found = getattr(found, name)
    for callback in trainer.callbacks:
        if any(kind.__name__ in AVERAGES for kind in type(callback).__mro__):
            raise StateError(
                f"{type(callback).__name__} keeps its average of the weights where "
                "twinstep cannot see it; leave it out"
            )
    strategy = trainer.strategy
    if strategy.handles_gradient_accumulation:
        raise StateError(
            f"{type(strategy).__name__} keeps optimizer state of its own; use "
            "strategy='ddp', ModelParallelStrategy (FSDP2) or a single device"
        )
    if trainer.reload_dataloaders_every_n_epochs > 1:
        raise StateError(
            "reload_dataloaders_every_n_epochs="
            f"{trainer.reload_dataloaders_every_n_epochs} counts from the start of a "
            "process, so that a restart moves it; allowed are 0 and 1"
        )
    if trainer.ckpt_path and strategy.restore_checkpoint_after_setup:
        raise StateError(
            f"{type(strategy).__name__} loads ckpt_path={str(trainer.ckpt_path)!r} "
            "after twinstep has restored a newer step; load it in the script instead"
        )
