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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twinstep.demo import show
from twinstep.demo.drive import Planned
from twinstep.demo.frameworks import check_style, framework_of
from twinstep.demo.ground import KINDS_OF_STORE, Ground, Loopback
from twinstep.demo.hosts.ground import OWN, Hosts
from twinstep.demo.hosts.network import missing
from twinstep.demo.job import Plan
from twinstep.demo.kinds import FAULTS, check, named, needs
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
BALLAST_MB = 24
BALLAST_STEP_S = 0.25
"""Kinds that aim at the moments of a copy have more to copy, and time to send it."""
STEPS_MAX = 1_000_000
KILLS_ON_HOSTS_MAX = 90
"""A network has 100 hosts; the job's own and etcd's are among them."""
END_S_PER_STEP = 2.0
MISSED_SHARE_MAX = 0.1
"""A soak in which more blows met no moment to fall in has not shown what it says."""


def schedule(
    kills: int, *, seed: int, weights: dict[str, int] | None = None
) -> list[Planned]:
    """Returns the blows of a soak; the same for the same seed.

    Raises: UsageError for fewer than one kill, or a kind that is not known."""
    chosen = WEIGHTS if weights is None else weights
    check(list(chosen))
    if kills < 1:
        raise UsageError(f"kills is {kills}; at least 1, of {', '.join(chosen)}")
    random = Random(seed)
    blows: list[Planned] = []
    for number in range(kills):
        if weights is not None and number < len(chosen):
            kind = list(chosen)[number]  # what was asked for by name comes
        else:
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


def weights_of(include: str) -> dict[str, int]:
    """Returns the kinds of a list as `--include` has it; each as often as its weight in
    WEIGHTS, or twice. Raises: UsageError naming kinds that are not known."""
    kinds = named(word.strip() for word in include.split(",") if word.strip())
    check(kinds)
    return {kind: WEIGHTS.get(kind, 2) for kind in kinds}


def ground_for(
    blows: Sequence[Planned],
    *,
    kv: str,
    on_hosts: bool,
    console: Console,
    framework: str = "torch",
) -> Ground:
    """Returns where a job can be injured in these ways.

    Raises: UsageError when that needs what is not here."""
    kinds = [blow.kind for blow in blows]
    wanted = needs(kinds)
    if kv not in KINDS_OF_STORE:
        raise UsageError(f"kv is {kv!r}; use one of {', '.join(KINDS_OF_STORE)}")
    if "etcd" in wanted and not KINDS_OF_STORE[kv]:
        these = [kind for kind in FAULTS if "etcd" in FAULTS[kind].needs]
        raise UsageError(f"{', '.join(these)} need --kv etcd")
    if "hosts" not in wanted and not on_hosts:
        return Loopback(kv=kv)
    if not on_hosts:
        these = [kind for kind in FAULTS if kind in kinds and FAULTS[kind].needs]
        console.print(f"On hosts, for {', '.join(these)}.", highlight=False)
    if "loopback" in wanted:
        these = [kind for kind in FAULTS if "loopback" in FAULTS[kind].needs]
        these = [kind for kind in these if kind in kinds]
        raise UsageError(
            f"{', '.join(these)}: for processes of this computer, not for hosts"
        )
    if len(blows) > KILLS_ON_HOSTS_MAX:
        raise UsageError(
            f"kills is {len(blows)}; on hosts at most {KILLS_ON_HOSTS_MAX}, as each "
            "may cost a host; use several soaks with other seeds"
        )
    if missing():
        raise UsageError(missing())
    return Hosts(
        kv=kv,
        replacements=len(blows) + 2,
        own=wanted & OWN,
        settings=framework_of(framework).settings,
    )


def soak(
    *,
    kills: int,
    seed: int = 0,
    json_file: Path | None = None,
    framework: str = "torch",
    style: str = "",
    kv: str = "embedded",
    include: str = "",
    on_hosts: bool = False,
    storage: Path | None = None,
    console: Console | None = None,
) -> int:
    """Returns 0 when every kill was survived and all bits are the same, else 1.

    Args:
      style: of the framework; none: the one that shards the state.
      storage: the folder in which steps are written, in one of the soak's own.

    Raises: UsageError for what is not known, or not possible here."""
    weights = weights_of(include) if include else None
    blows = schedule(kills, seed=seed, weights=weights)
    style = check_style(framework, style)
    kinds = [blow.kind for blow in blows]
    if "storage" in needs(kinds) and storage is None:
        these = [kind for kind in FAULTS if "storage" in FAULTS[kind].needs]
        raise UsageError(f"{', '.join(these)} need --storage DIR, where steps go")
    screen_console = console or Console()
    ground = ground_for(
        blows, kv=kv, on_hosts=on_hosts, console=screen_console, framework=framework
    )
    folder = Path(tempfile.mkdtemp(prefix="twinstep-soak-"))
    plan = Plan(framework=framework, style=style, steps=STEPS_MAX, seed=seed)
    plan = replace(plan, stoppable=True)
    if "ballast" in needs(kinds):
        plan = replace(plan, ballast_mb=BALLAST_MB, step_s=BALLAST_STEP_S)
    try:
        with show.Screen(screen_console, failures_planned=kills) as screen:
            injured = train(
                replace(plan, storage=_own(storage, folder)),
                folder / "injured",
                screen,
                blows=blows,
                seed=seed,
                ground=ground,
            )
            calm = train(
                replace(plan, steps=injured.steps, stoppable=False),
                folder / "undisturbed",
                screen,
                end_s_max=plan.start_s_max + END_S_PER_STEP * injured.steps,
            )
    except TwinstepError as error:
        screen_console.print(
            f"[bold red]The soak failed:[/] {escape(str(error))}", highlight=False
        )
        screen_console.print(f"Seed {seed}; all output is in {folder}")
        return 1
    wrong = _tell(calm, injured, screen_console, kills, seed, json_file)
    if wrong:
        screen_console.print(f"Seed {seed}; all output is in {folder}")
    else:
        shutil.rmtree(folder)
        if storage is not None:
            shutil.rmtree(_own(storage, folder))
    return 1 if wrong else 0


def _own(storage: Path | None, folder: Path) -> str:
    """The soak's own folder in the storage: what others left there is not its start."""
    return "" if storage is None else str(storage.absolute() / folder.name)


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
        f"resumed {sums['resumed']}/{kills - len(injured.missed)}, steps lost: median "
        f"{sums['steps_lost_median']}, max {sums['steps_lost_max']} "
        f"({sums['steps_lost_max_settled']} where copies had time to become safe)",
        highlight=False,
    )
    for line in show.comparison_lines(comparisons):
        console.print(line, soft_wrap=True)
    wrong = show.verdict(failures, comparisons)
    for text in injured.missed:
        console.print(f"Not injured: {escape(text)}", highlight=False)
    if kills - len(failures) > MISSED_SHARE_MAX * kills:
        wrong.append(f"only {len(failures)} of {kills} blows fell")
    for text in wrong:
        console.print(f"[bold red]Lost:[/] {escape(text)}", highlight=False)
    if json_file is not None:
        record = report(
            failures,
            comparisons,
            steps=injured.steps,
            timeline=[*injured.timeline, *calm.timeline],
            seed=seed,
            seconds=round(injured.took_s + calm.took_s, 1),
            summary=sums,
            missed=injured.missed,
        )
        json_file.write_text(json.dumps(record, indent=1))
    return wrong


def _table(sums: dict[str, Any]) -> Table:
    title = (
        "Seconds from the blow to decision and next step, where there was a recovery"
    )
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 0, 0, 2),  # so that it fits 80 columns
        pad_edge=False,
    )
    table.add_column("kind", no_wrap=True)
    for name in ("blows", "aims", "back", "decided", "max", "step", "max", "lost"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, found in sums["kinds"].items():
        words = [str(found[name]) for name in ("count", "aims_max", "recoveries")]
        for times in (found["decided_s"], found["next_step_s"]):
            words += ["", ""] if times is None else _words(times)
        table.add_row(kind, *words, str(found["steps_lost_max"]))
    return table


def _words(times: dict[str, float]) -> list[str]:
    return [f"{times['median']:.2f}", f"{times['max']:.2f}"]
