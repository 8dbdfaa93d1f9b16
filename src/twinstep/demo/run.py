"""The demo: the same training twice, undisturbed and injured, ends in the same bits.

For DDP and for FSDP2, or in JAX for a replicated and a sharded state: four machines
with a rank each, a standby and two copies train a small GPT on the standard library's
sources. The second run loses a rank, has one that hangs, loses a machine, has a damaged
copy and loses another, and loses the machine of the root. Then the final states are
compared bit by bit.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from rich.console import Console
from rich.markup import escape

from twinstep.demo import picture, show
from twinstep.demo.drive import Planned
from twinstep.demo.frameworks import framework_of
from twinstep.demo.job import Plan
from twinstep.demo.record import Comparison, compare, report
from twinstep.demo.trial import Run, train
from twinstep.errors import TwinstepError

KINDS = ("kill-rank", "stop-rank", "kill-machine", "corrupt-copy", "kill-root")
STEPS = 110
STEPS_BETWEEN = 12


def blows(kinds: Sequence[str], *, seed: int) -> list[Planned]:
    """Returns a blow of each kind, each at another moment of a step."""
    random = Random(seed)
    return [
        Planned(kind=kind, after_steps=STEPS_BETWEEN, moment_s=0.1 * random.random())
        for kind in kinds
    ]


def demo(
    *,
    json_file: Path | None = None,
    png: Path | None = None,
    seed: int = 0,
    console: Console | None = None,
    styles: Sequence[str] = (),
    framework: str = "torch",
    kinds: Sequence[str] = KINDS,
    steps: int = STEPS,
) -> int:
    """Returns 0 when nothing was lost and all bits are the same, else 1; says why.

    Args:
      styles: of the framework; none: all.

    Raises: UsageError for a framework that is not known."""
    screen_console = console or Console()
    plans = [
        Plan(framework=framework, style=style, steps=steps, seed=seed)
        for style in styles or framework_of(framework).styles
    ]
    folder = Path(tempfile.mkdtemp(prefix="twinstep-demo-"))
    try:
        with show.Screen(screen_console, failures_planned=len(kinds)) as screen:
            pairs = [_pair(plan, folder, screen, kinds=kinds) for plan in plans]
    except TwinstepError as error:
        screen_console.print(
            f"[bold red]The demo failed:[/] {escape(str(error))}", highlight=False
        )
        screen_console.print(f"All output of its runs is in {folder}")
        return 1
    wrong = _tell(pairs, screen_console, json_file=json_file, steps=steps)
    if png is not None:
        picture.draw(pairs, png)
        screen_console.print(f"Picture: {png}")
    if wrong:
        screen_console.print(f"All output of its runs is in {folder}")
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


def _pair(
    plan: Plan,
    folder: Path,
    screen: show.Screen,
    *,
    kinds: Sequence[str],
) -> tuple[Run, Run]:
    """The undisturbed and the injured run of a style."""
    calm = train(plan, folder / f"{plan.style}-undisturbed", screen)
    injured = train(
        plan,
        folder / f"{plan.style}-injured",
        screen,
        blows=blows(kinds, seed=plan.seed),
        seed=plan.seed,
    )
    return calm, injured


def compared(pairs: Sequence[tuple[Run, Run]]) -> list[Comparison]:
    return [
        compare(calm.style, calm.digests, injured.digests) for calm, injured in pairs
    ]


def _tell(
    pairs: Sequence[tuple[Run, Run]],
    console: Console,
    *,
    json_file: Path | None,
    steps: int,
) -> list[str]:
    """Prints the table and the comparison, writes the JSON; returns what is wrong."""
    failures = [failure for _, injured in pairs for failure in injured.failures]
    comparisons = compared(pairs)
    console.print(show.failure_table(failures))
    for text in show.bad_copy_lines(failures):
        console.print(text, soft_wrap=True, highlight=False)
    for line in show.comparison_lines(comparisons):
        console.print(line, soft_wrap=True)
    wrong = show.verdict(failures, comparisons)
    wrong += [f"not shown: {text}" for _, injured in pairs for text in injured.missed]
    for text in wrong:
        console.print(f"[bold red]Lost:[/] {escape(text)}", highlight=False)
    if not wrong:
        console.print(f"[bold green]Nothing was lost[/] in {len(failures)} failures.")
    if json_file is not None:
        timeline = [event for pair in pairs for run in pair for event in run.timeline]
        record = report(failures, comparisons, steps=steps, timeline=timeline)
        record["seconds"] = round(sum(run.took_s for pair in pairs for run in pair), 1)
        json_file.write_text(json.dumps(record, indent=1))
    return wrong
