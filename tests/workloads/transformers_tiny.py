"""A training by transformers of the size of a test: prints a digest of its final state.

The dataset, dropout and the order of the data draw numbers; the learning rate follows
evaluations. Rank 1 kills itself once, as its arguments say."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import twinstep
from tests.workloads.kills import Kills


class Noisy(Dataset[dict[str, torch.Tensor]]):
    """Draws an item anew each time that it is asked for."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.randint(0, 32, (8,))
        tokens[0] = index % 32
        return {"input_ids": tokens, "labels": tokens}


class Dying(Trainer):
    """Looks in each batch whether it is the one to die in."""

    kills: Kills

    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        done = self.state.global_step * self.args.gradient_accumulation_steps
        self.kills.look(done + 1)
        return super().training_step(*arguments, **options)


def digest(trainer: Trainer) -> str:
    found = hashlib.sha256()
    for tensor in trainer.model.state_dict().values():
        found.update(tensor.numpy().tobytes())
    for state in trainer.optimizer.state_dict()["state"].values():
        for value in state.values():
            found.update(value.numpy().tobytes())
    found.update(torch.get_rng_state().numpy().tobytes())
    rate = trainer.optimizer.param_groups[0]["lr"]
    logs = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    found.update(f"{trainer.state.global_step} {trainer.state.epoch} {rate}".encode())
    found.update(f"{logs}".encode())
    return found.hexdigest()[:16]


def trained(kills: Kills, *callbacks: Any, ranks: int, **settings: Any) -> str:
    """Returns the digest of what is trained: 16 updates in four epochs."""
    torch.set_num_threads(1)
    torch.manual_seed(3)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=32, n_positions=8, use_cache=False
    )
    model = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            ddp_find_unused_parameters=False,
            per_device_train_batch_size=4,
            per_device_eval_batch_size=4,
            gradient_accumulation_steps=2,
            num_train_epochs=4,
            learning_rate=1e-2,
            lr_scheduler_type="reduce_lr_on_plateau",
            lr_scheduler_kwargs={"patience": 0},
            eval_strategy="steps",
            eval_steps=3,
            save_strategy="no",
            logging_steps=5,
            report_to=[],
            disable_tqdm=True,
            **settings,
        )
        trainer = Dying(
            model=model,
            args=args,
            train_dataset=Noisy(28 * ranks),
            eval_dataset=Noisy(8 * ranks),
            callbacks=list(callbacks),
        )
        trainer.kills = kills
        torch.manual_seed(100 + int(os.environ.get("RANK", "0")))
        trainer.train()
    return digest(trainer)


def main() -> None:
    callback = twinstep.adapters.transformers.TwinstepCallback()
    print(f"digest {trained(Kills.told(), callback, ranks=2)}")


if __name__ == "__main__":
    main()
