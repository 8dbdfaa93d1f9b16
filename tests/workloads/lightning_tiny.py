"""A Lightning training of the size of a test: prints a digest of its final state.

All that draws numbers draws from the global generators: the order of the data, the
dataset, dropout, validation. Rank 1 kills itself once, as its arguments say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

import twinstep
from tests.workloads.kills import Kills


class Noisy(Dataset[torch.Tensor]):
    """Draws noise for each item that it is asked for."""

    def __len__(self) -> int:
        return 28

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(8) + index / 10


class Tiny(L.LightningModule):
    def __init__(self, kills: Kills) -> None:
        super().__init__()
        self.kills = kills
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(8, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(16, 1),
        )

    def setup(self, stage: str) -> None:
        # Lightning has seeded all ranks alike; each shall draw its own numbers.
        torch.manual_seed(100 + self.global_rank)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.kills.look(self.trainer.fit_loop.total_batch_idx + 1)
        return self.layers(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        loss = self.layers(batch).square().mean() + torch.rand(())
        self.log("loss", loss, sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": plateau, "monitor": "loss"},
        }


def digest(trainer: L.Trainer, module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for tensor in module.state_dict().values():
        found.update(tensor.numpy().tobytes())
    for state in trainer.optimizers[0].state_dict()["state"].values():
        for value in state.values():
            found.update(value.numpy().tobytes())
    found.update(torch.get_rng_state().numpy().tobytes())
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    found.update(f"{trainer.global_step} {trainer.current_epoch} {rate}".encode())
    return found.hexdigest()[:16]


def shuffled() -> Any:
    return DataLoader(Noisy(), batch_size=4, shuffle=True)


def trained(
    kills: Kills,
    *callbacks: Any,
    nodes: int,
    loader: Callable[[], Any] = shuffled,
    **settings: Any,
) -> str:
    """Returns the digest of what is trained: 16 updates in four epochs."""
    torch.set_num_threads(1)
    L.seed_everything(3, verbose=False)
    module = Tiny(kills)
    chosen: dict[str, Any] = {
        "max_epochs": 4,
        "accumulate_grad_batches": 2,
        "val_check_interval": 3,
        "use_distributed_sampler": False,
    }
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        num_nodes=nodes,
        strategy="ddp" if nodes > 1 else "auto",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(chosen | settings),
    )
    trainer.fit(module, loader(), DataLoader(Noisy(), batch_size=4))
    return digest(trainer, module)


def main() -> None:
    callback = twinstep.adapters.lightning.TwinstepCallback()
    print(f"digest {trained(Kills.told(), callback, nodes=2)}")


if __name__ == "__main__":
    main()
