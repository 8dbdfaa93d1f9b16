"""Dies at the same step, every time: it never comes further than step 5."""

from __future__ import annotations

import time

import torch

import twinstep

session = twinstep.Session(model=torch.nn.Linear(2, 2))
for step in range(session.restore(), 100):
    if step == 5:
        raise ValueError("bad batch")
    session.after_step(step + 1)
    time.sleep(0.05)
