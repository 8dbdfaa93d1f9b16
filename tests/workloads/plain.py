"""A script written for torchrun, which knows nothing of twinstep."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist

if __name__ == "__main__":
    dist.init_process_group("gloo")
    total = torch.tensor([float(os.environ["RANK"])])
    dist.all_reduce(total)
    names = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    places = " ".join(os.environ[name] for name in names)
    print(f"total {total.item()} at {places} with {sys.argv[1:]}")
    dist.destroy_process_group()
