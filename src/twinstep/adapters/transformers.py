"""The Trainer of Hugging Face transformers under twinstep: one callback.

    trainer = Trainer(
        ..., callbacks=[twinstep.adapters.transformers.TwinstepCallback()]
    )

    on_train_begin  session is made and restored; the loop's counters are loaded
    _run_epoch      epochs that are over are left out; the epoch of the restored step is
                    entered as Trainer enters it when it resumes from a folder
    on_step_begin   the state is that of the last update, all that followed it done:
                    logs, evaluation, saved folders, schedules, epoch ends
    on_train_end    session is closed

A step is told when the next update begins, not when its own ends: Trainer has no way
back into what lies between. The batches of that update and one more are fetched by
then, so that their fetch is made again after a restart (replay.py). Callbacks are not
told their Trainer, so that it is looked for among the callers; and no hook can say in
which epoch a run begins, so that Trainer._run_epoch is replaced in that one Trainer.

Session is used as any user does. Left out: what callbacks keep outside their state().
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib import import_module
from types import FrameType
from typing import Any, cast

import torch

import twinstep
from twinstep.adapters import replay, torch_values
from twinstep.errors import OrderError, StateError

try:
    transformers: Any = import_module("transformers")
    trainer_callback: Any = import_module("transformers.trainer_callback")
    trainer_module: Any = import_module("transformers.trainer")
except ModuleNotFoundError as error:
    raise StateError(
        f"twinstep.adapters.transformers lacks {error.name}: "
        "pip install 'twinstep[transformers]'"
    ) from error

VERSIONS = "transformers 5.24"
INTERNALS = (
    "_run_epoch",
    "callback_handler",
    "model_wrapped",
    "accelerator",
    "current_flos",
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
)
"""What is used of a Trainer and is not in its documentation."""
EPOCH_ARGUMENTS = {
    "epoch",
    "train_dataloader",
    "resume_from_checkpoint",
    "epochs_trained",
    "steps_trained_in_current_epoch",
}
LOGS_MAX = 1000
"""So many of the newest entries of log_history come back."""
NO_FOLDER = "/nonexistent/twinstep"
"""Trainer looks here for random state, finds none, and goes on with ours."""


class TwinstepCallback(trainer_callback.TrainerCallback):
    """Keeps every update of a `train()` in memory that outlives the process.

    An update is a step of the optimizer, after all its accumulated batches. One
    train() of a script is protected.

    Raises: StateError when training begins, for parts that would not continue."""

    def __init__(self) -> None:
        self._session: twinstep.Session | None = None
        self._step = 0
        self._updates = 0
        """Trainer's count when the last step was told."""
        self._used = False
        self._now: dict[str, Any] | None = None
        """The random state to go on from, until the first update begins."""
        self._progress: _Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if self._used:
            raise OrderError(
                "this callback has protected a train() already, and a script that "
                "starts again could not tell two of them apart; train once in a script"
            )
        self._used = True
        trainer = _trainer(inspect.currentframe())
        _check(trainer)
        progress = self._progress = _Progress(trainer, parts["train_dataloader"])
        optimizer = trainer.optimizer
        objects: dict[str, Any] = {
            "model": trainer.model_wrapped,
            # accelerate's own optimizer holds the real one.
            "optimizer": getattr(optimizer, "optimizer", optimizer),
            "progress": progress,
        }
        if trainer.lr_scheduler is not None:
            objects["scheduler"] = trainer.lr_scheduler
        if trainer.accelerator.scaler is not None:
            objects["scaler"] = trainer.accelerator.scaler
        first = torch_values.generators()
        self._session = twinstep.Session(**objects)
        self._step = self._session.restore()
        self._updates = trainer.state.global_step
        if self._step:
            # The way to the first batch is as in the first start.
            self._now = torch_values.generators()
            torch_values.set_generators(first)
        progress.enter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if self._now is not None:  # this is where the restored step was told
            torch_values.set_generators(self._now)
            self._now = None
        elif self._session is not None and state.global_step > self._updates:
            self._step += 1
            self._session.after_step(self._step)
        self._updates = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if self._progress is not None:
            self._progress.used += args.gradient_accumulation_steps

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
        if self._progress is not None:
            self._progress.leave()


class _Progress:
    """Where a Trainer stands: its counters, its callbacks, its place in the data."""

    def __init__(self, trainer: Any, loader: Any) -> None:
        self._trainer = trainer
        inner = getattr(loader, "base_dataloader", loader)
        indices = replay.watch(inner)
        if indices is None:
            kind = type(getattr(inner, "dataset", None)).__name__
            raise StateError(
                f"the training data is a {kind} in a {type(inner).__name__}, which has "
                "no indices to find a place by; use a map-style dataset"
            )
        self._loader, self._indices = loader, indices
        self._epoch = 0
        self.used = 0
        """Batches of this epoch that updates were made of."""
        self._back: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Called when the batches of the next update are in hand and not yet used."""
        trainer = self._trainer
        counters = {name: getattr(trainer.state, name) for name in _counters(trainer)}
        return {
            "epoch": self._epoch,
            "indices": self._indices.position(self.used),
            "counters": counters,
            "logs": trainer.state.log_history[-LOGS_MAX:],
            "callbacks": [each.state()["attributes"] for each in _stateful(trainer)],
            "flos": trainer.current_flos,
            "loss": trainer._tr_loss,
            "loss_logged": trainer._total_loss_scalar,
            "step_logged": trainer._globalstep_last_logged,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        trainer = self._trainer
        for name, value in state["counters"].items():
            setattr(trainer.state, name, value)
        trainer.state.log_history[:] = state["logs"]
        callbacks = _stateful(trainer)
        if len(callbacks) != len(state["callbacks"]):
            raise StateError(
                f"{len(state['callbacks'])} callbacks with a state were captured, and "
                f"there are {len(callbacks)}; give Trainer the same as before"
            )
        for callback, attributes in zip(callbacks, state["callbacks"], strict=True):
            for name, value in attributes.items():
                setattr(callback, name, value)
        trainer.current_flos = state["flos"]
        trainer._tr_loss = cast("torch.Tensor", state["loss"]).to(trainer.args.device)
        trainer._total_loss_scalar = state["loss_logged"]
        trainer._globalstep_last_logged = state["step_logged"]
        self._back = state

    def enter(self) -> None:
        """Trainer's epochs go through here, and begin with the restored one."""
        trainer, back = self._trainer, self._back
        run = trainer._run_epoch

        def run_epoch(**arguments: Any) -> None:
            epoch = arguments["epoch"]
            if back is not None and epoch < back["epoch"]:
                return
            resumes = arguments["resume_from_checkpoint"] is not None
            resumes = resumes and epoch == arguments["epochs_trained"]
            self.used = arguments["steps_trained_in_current_epoch"] if resumes else 0
            self._epoch = epoch
            replay.set_epoch(self._loader, epoch)
            if back is not None and epoch == back["epoch"]:
                self.used = used = back["indices"]["used"]
                self._indices.begin_at(back["indices"], skip=False)
                arguments |= {
                    "resume_from_checkpoint": NO_FOLDER if used else None,
                    "epochs_trained": epoch,
                    "steps_trained_in_current_epoch": used,
                }
            elif back is not None:
                arguments["resume_from_checkpoint"] = None
            run(**arguments)

        trainer._run_epoch = run_epoch

    def leave(self) -> None:
        self._trainer.__dict__.pop("_run_epoch", None)


def _counters(trainer: Any) -> list[str]:
    """Returns the plain fields of a TrainerState that follow from training."""
    own = {"log_history", "stateful_callbacks", "trial_params"}
    names = [field.name for field in dataclasses.fields(trainer.state)]
    return [name for name in names if name not in own and not name.startswith("is_")]


def _stateful(trainer: Any) -> list[Any]:
    kind = trainer_callback.ExportableState
    return [
        each for each in trainer.callback_handler.callbacks if isinstance(each, kind)
    ]


def _trainer(frame: FrameType | None) -> Any:
    """Returns the Trainer among the callers; callbacks are not given theirs.

    Raises: StateError when there is none."""
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, trainer_module.Trainer):
            return found
        frame = frame.f_back
    raise StateError("on_train_begin was not called by a transformers.Trainer")


def _check(trainer: Any) -> None:
    """Raises: StateError for what would not continue, with the way out."""
    lacks = [name for name in INTERNALS if not hasattr(trainer, name)]
    if not lacks:
        code = trainer._run_epoch.__func__.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        lacks = sorted(EPOCH_ARGUMENTS - set(names))
    if lacks:
        raise StateError(
            f"transformers {transformers.__version__} has no {', '.join(lacks)} in "
            f"Trainer, which twinstep needs; it was made for {VERSIONS}"
        )
    args = trainer.args
    if trainer.is_deepspeed_enabled:
        raise StateError(
            "DeepSpeed keeps optimizer state of its own; use DDP, or FSDP version 2"
        )
    for name in ("ignore_data_skip", "auto_find_batch_size"):
        if getattr(args, name):
            raise StateError(
                f"TrainingArguments({name}=True) changes which batches a restarted run "
                f"sees; leave {name} out"
            )
