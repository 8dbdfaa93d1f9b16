"""The jobs that tests of the planner plan for."""

from __future__ import annotations

import dataclasses
from typing import Any

from twinstep.planner.job import Job
from twinstep.planner.policy import Policy, Recovery, Tier

GBPS = 1e9 / 8


def job(**changes: Any) -> Job:
    """GPT-2 100B on 16 p4d.24xlarge, as in GEMINI (section 7.1)."""
    paper = Job(
        machines=16,
        parameters=100e9,
        step_s=62.0,
        network_bytes_per_s=400 * GBPS,
        storage_bytes_per_s=20 * GBPS,
    )
    return dataclasses.replace(paper, **changes)


def policy(*tiers: Tier, slowdown: float = 0.0, **recovery: Any) -> Policy:
    """A policy of given tiers; a recovery takes 100 s unless said."""
    parts: dict[str, Any] = {
        "detect_s": {"process": 10.0, "machine": 10.0},
        "replace_s": 0.0,
        "start_s": 90.0,
        "warm_up_s": 0.0,
    }
    return Policy(
        name="tried",
        says="for a test",
        tiers=tiers,
        slowdown=slowdown,
        recovery=Recovery(**(parts | recovery)),
    )


def storage(interval_s: float, delay_s: float, *, read_s: float = 0.0) -> Tier:
    return Tier(
        name="storage",
        interval_s=interval_s,
        delay_s=delay_s,
        read_s={"process": read_s, "machine": read_s},
    )


def memory(interval_s: float, *, copies: int, read_s: float = 0.0) -> Tier:
    return Tier(
        name="memory",
        interval_s=interval_s,
        delay_s=interval_s,
        read_s={"process": 0.0, "machine": read_s},
        copies=copies,
    )
