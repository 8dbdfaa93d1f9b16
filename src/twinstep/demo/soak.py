"""The soak: one long run that is killed at random, again and again, from a seed.

Kinds, victims and moments come from the seed; what the computer makes of them does
not, so two soaks of a seed are alike and not equal. Some blows fall right after a
recovery. Those that take a machine wait until every copy exists again: two copies
promise to survive one lost machine, not two. After the last blow the run is told where
to end, and an undisturbed run of as many steps shows whether any bit differs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from twinstep.demo import show
from twinstep.demo.drive import Planned
from twinstep.demo.faults import FAULTS
from twinstep.demo.job import Plan
from twinstep.demo.record import compare, report, summary
from twinstep.demo.trial import Run, train
from twinstep.errors import TwinstepError, UsageError

WEIGHTS = {"kill-rank": 5, "stop-rank": 1, "kill-machine": 3, "kill-root": 2}
"""How often each kind is drawn. A new kind of fault needs an entry in FAULTS and one
here."""
SOON_SHARE = 0.25
"""This share of the blows that leave all memory falls right after a recovery."""
AFTER_STEPS = (1, 10)
MOMENT_S_MAX = 0.15
"""More than a step, so that every point of a step is hit."""
STEPS_MAX = 1_000_000
END_S_PER_STEP = 2.0


def schedule(
    kills: int, *, seed: int, weights: dict[str, int] | None = None
) -> list[Planned]:
    """Returns the blows of a soak; the same for the same seed.

    Raises: UsageError for fewer than one kill, or a kind that is not known."""
    chosen = WEIGHTS if weights is None else weights
    unknown = sorted(set(chosen) - set(FAULTS))
    if kills < 1 or unknown:
        raise UsageError(
            f"kills is {kills}, at least 1; unknown kinds: "
            f"{', '.join(unknown) or 'none'}, known: {', '.join(FAULTS)}"
        )
    random = Random(seed)
    blows: list[Planned] = []
    for number in range(kills):
        (kind,) = random.choices(list(chosen), weights=list(chosen.values()))
        soon = random.random() < SOON_SHARE and not FAULTS[kind].takes_machine
        blows.append(
            Planned(
                kind=kind,
                after_steps=random.randint(*AFTER_STEPS),
                moment_s=MOMENT_S_MAX * random.random(),
                soon=soon and number > 0,
            )
        )
    return blows


def soak(
    *,
    kills: int,
    seed: int = 0,
    json_file: Path | None = None,
    style: str = "fsdp2",
    console: Console | None = None,
) -> int:
    """Returns 0 when every kill was survived and all bits are the same, else 1."""
    blows = schedule(kills, seed=seed)
    screen_console = console or Console()
    folder = Path(tempfile.mkdtemp(prefix="twinstep-soak-"))
    plan = Plan(style=style, steps=STEPS_MAX, seed=seed, stoppable=True)
    try:
        with show.Screen(screen_console, failures_planned=kills) as screen:
            injured = train(plan, folder / "injured", screen, blows=blows, seed=seed)
            calm = train(
                replace(plan, steps=injured.steps, stoppable=False),
                folder / "undisturbed",
                screen,
                end_s_max=plan.start_s_max + END_S_PER_STEP * injured.steps,
            )
    except TwinstepError as error:
        screen_console.print(f"[bold red]The soak failed:[/] {error}", highlight=False)
        screen_console.print(f"Seed {seed}; all output is in {folder}")
        return 1
    wrong = _tell(calm, injured, screen_console, kills, seed, json_file)
    if wrong:
        screen_console.print(f"Seed {seed}; all output is in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def _tell(
    calm: Run,
    injured: Run,
    console: Console,
    kills: int,
    seed: int,
    json_file: Path | None,
) -> list[str]:
    """Prints sums and verdict, writes the JSON; returns what is wrong."""
    failures = injured.failures
    comparisons = [compare(injured.style, calm.digests, injured.digests)]
    sums = summary(failures, kills=kills)
    console.print(_table(sums))
    console.print(
        f"resumed {sums['resumed']}/{kills}, steps lost: median "
        f"{sums['steps_lost_median']}, max {sums['steps_lost_max']} "
        f"({sums['steps_lost_max_settled']} where copies had time to become safe)",
        highlight=False,
    )
    for line in show.comparison_lines(comparisons):
        console.print(line, soft_wrap=True)
    wrong = show.verdict(failures, comparisons)
    if len(failures) < kills:
        wrong.append(f"only {len(failures)} of {kills} kills were survived")
    for text in wrong:
        console.print(f"[bold red]Lost:[/] {text}", highlight=False)
    if json_file is not None:
        record = report(
            failures,
            comparisons,
            steps=injured.steps,
            timeline=[*injured.timeline, *calm.timeline],
            seed=seed,
            seconds=round(injured.took_s + calm.took_s, 1),
            summary=sums,
        )
        json_file.write_text(json.dumps(record, indent=1))
    return wrong


def _table(sums: dict[str, Any]) -> Table:
    table = Table(title="Back after", title_justify="left", title_style="bold")
    table.add_column("kind")
    for name in ("kills", "median", "max"):
        table.add_column(name, justify="right")
    for kind, times in sums["recovery_s"].items():
        count, middle, most = times["count"], times["median"], times["max"]
        table.add_row(kind, str(count), f"{middle:.2f} s", f"{most:.2f} s")
    return table
