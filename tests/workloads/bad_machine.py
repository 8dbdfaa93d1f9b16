"""A training script whose ranks die on one machine only, as on one that is broken.

    bad_machine.py --steps 60 --folder FOLDER

At step 20 rank 1 writes the machine that it is on into FOLDER/bad; from then on any
rank on that machine dies soon after it has started."""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

import twinstep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    model = torch.nn.Linear(16, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    machine = Path(os.environ.get("TWINSTEP_AGENT", "none")).name
    with twinstep.Session(model=model, optimizer=optimizer) as session:
        start = session.restore()
        for step in range(start, options.steps):
            if options.folder is not None:
                bad = options.folder / "bad"
                if step == 20 and dist.get_rank() == 1 and not bad.exists():
                    bad.write_text(machine)
                if bad.exists() and bad.read_text() == machine and step > start:
                    raise RuntimeError("device lost")
            loss = model(torch.randn(8, 16)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
            optimizer.step()
            session.after_step(step + 1)
            time.sleep(0.02)
    state = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print(f"digest {hashlib.sha256(state).hexdigest()[:16]}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
