"""Decides when a machine that is not well gives up its place, for the root.

Not well is a machine whose ranks die by themselves again and again (strikes.py), or
whose own probes fail (probes.py). It is replaced only by a machine that is here, and
only if nothing is lost by it: once all ranks stand still and every machine has said
what it holds, the newest step must be whole without it. Until then it trains on; a job
is never made smaller, nor a step given up, for a suspicion.

    not well ──► a spare is here? ──no──► ask the operator, train on
                     │ yes
                 all members stopped (its own failure, or a round for this purpose)
                     │
                 the newest step is whole without it? ──no──► it keeps its place
                     │ yes
                 its place is vacant, and the spare takes it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import actions as do, messages as say
from twinstep.agent.inventories import choose_from
from twinstep.agent.phase import Phase

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


def struck(root: Root, machine: str, reason: str) -> Actions:
    """A machine's ranks have died too often, if there is a `reason`."""
    if not reason or machine in root.roster.struck or root.guests:
        return []  # under another launcher, that one gives the places
    if _copies(root) == 1 or root.suspicion.guard.furthest == 0:
        return []  # no step is, or would be, whole without it
    root.roster.struck[machine] = reason
    root.suspicion.guard.fruitless = 0  # the script may be well without that machine
    text = f"{machine} is to be replaced: {reason}"
    return [do.Log(text=text), *_ask(root, machine, reason)]


def condition(root: Root, said: say.Condition) -> Actions:
    """A machine says how it is, by its own probes."""
    roster = root.roster
    if said.machine not in roster.joined:
        return []
    former = roster.conditions.get(said.machine)
    roster.conditions[said.machine] = said
    reason = f"unhealthy: {said.failing}"
    if not said.failing or (former is not None and former.failing):
        return []
    replaces = root.job.health.replace and not root.guests
    if said.machine not in roster.members or not replaces:
        return [do.Log(text=f"{said.machine} is {reason}")]
    done: Actions = [do.Log(text=f"{said.machine} is to be replaced: {reason}")]
    roster.kept.discard(said.machine)
    return [*done, *_ask(root, said.machine, reason), *planned(root)]


def _ask(root: Root, machine: str, reason: str) -> Actions:
    """Wants another machine, where none stands by."""
    if root.guests or root.roster.fit_spares():
        return []
    ask = root.requests.first(machine, f"{machine} is not well: {reason}")
    return [ask] if ask is not None else []


def planned(root: Root) -> Actions:
    """Begins a round in which a machine that is not well can be replaced, if one is
    here that could, and if every copy exists, so that nothing hangs on it."""
    roster = root.roster
    unwell = [name for name in _unwell(root) if name not in roster.kept]
    if not unwell or not roster.fit_spares() or root.begin is None:
        return []
    whole = root.ballot.keep > root.begin.step and _copies(root) > 1
    if root.phase is not Phase.TRAINING or not whole or root.seen.ended:
        return []
    reason = f"to replace {unwell[0]}: {roster.reason(unwell[0])}"
    return root.new_round("machine", unwell[0], reason)


def waits(root: Root) -> bool:
    """Whether a spare that could replace somebody has yet to say what it holds."""
    if root.phase is not Phase.STOPPING or not _unwell(root):
        return False
    late = root.now_s - root.phase_since_s > root.job.timing.stop_s_max
    ready = any(name in root.inventories for name in root.roster.fit_spares())
    return bool(root.roster.fit_spares()) and not ready and not late


def relieve(root: Root) -> Actions:
    """Every member has said what it holds: who is not well gives up its place, as far
    as spares are ready and nothing is lost."""
    done: Actions = []
    spares = [name for name in root.roster.fit_spares() if name in root.inventories]
    for machine in _unwell(root)[: len(spares)]:
        reason = root.roster.reason(machine)
        before, after = _newest(root, ""), _newest(root, machine)
        if after != before:
            root.roster.kept.add(machine)
            step = before[0]
            text = f"{machine} keeps its place: step {step} is not whole without it"
            done.append(do.Log(text=text))
            continue
        root.roster.vacate(machine)
        root.inventories.pop(machine, None)
        done.append(do.Log(text=f"{machine} gives up its place: {reason}"))
        done.append(do.GiveBack(machine=machine, reason=reason))
        done += root.ask()
    return done


def _unwell(root: Root) -> list[str]:
    """The machines with a place that are to be replaced.

    What more than half of them fail for lies with what they share, or with the probe:
    others would fail as well."""
    if root.guests:
        return []  # whoever launches gives the places
    roster = root.roster
    found = roster.unwell()
    failing = [name for name in found if name not in roster.struck]
    few = 2 * len(failing) <= len(roster.present())
    replaces = root.job.health.replace and few
    return [name for name in found if replaces or name in roster.struck]


def _copies(root: Root) -> int:
    """How many machines hold each shard, of as many as train now."""
    return min(root.job.copies_held, root.grid.machines)


def _newest(root: Root, without: str) -> tuple[int, int]:
    """The step that would be gone back to, if `without` were not here."""
    members = [name for name in root.roster.present() if name != without]
    choice = choose_from(
        [root.inventories[name] for name in members],
        grid=root.grid,
        shared=root.layouts.shared,
        bad=root.bad,
    )
    return choice.step, choice.captured_in
