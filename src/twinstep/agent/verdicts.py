"""Decides for the root what follows when all machines have reported a step.

The vote itself is counted in ballot.py: what is kept, and whether the step is captured.
Here it is told to all; training has begun, or goes on, a recovery is over, a hang is
not suspected, and what copies cost is known better than before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import actions as do, messages as say, relief
from twinstep.agent.phase import Phase
from twinstep.agent.plans import answer_of

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


def report(root: Root, report: say.Report) -> Actions:
    """A machine stands at a step; with the last of them there is a verdict."""
    if not root.is_active() or root.begin is None:
        return []
    captured = root.ballot.captured
    verdict = root.ballot.take(report)
    if verdict is None:
        return []
    root.suspicion.stepped(verdict.step, first=verdict.first, now_s=root.now_s)
    notes = list(verdict.notes)
    if verdict.first:
        notes += root.traffic.stepped(verdict, captured=captured, now_s=root.now_s)
    done: Actions = [do.Log(text=text) for text in notes]
    if root.phase is Phase.LOADING:
        root.enter(Phase.TRAINING)
    done += root.moment("first_step_s")
    if verdict.keep > 0:
        done += root.chronicle.redundant(root.now_s)
    if verdict.keep >= root.begin.step:
        root.bad.clear()  # every holder has verified a copy since, or a newer one
    answer = answer_of(root, verdict, root.begin)
    return [*done, *root.tell_members(answer), *relief.planned(root)]


def copy_bad(root: Root, bad: say.CopyBad) -> Actions:
    """A copy was found to be bad, or not to be had; without another all start anew."""
    if root.begin is None:
        return []
    if bad.corrupt:
        root.bad.add((bad.holder, bad.shard, bad.step, root.begin.captured_in))
    done: Actions = [do.Log(text=root.chronicle.copy_bad(bad))]
    if bad.last:
        reason = f"no good copy of shard {bad.shard} at step {bad.step} is left"
        done += root.new_round("copy", bad.holder, reason)
    return done


def loaded(root: Root, loaded: say.Loaded) -> Actions:
    """A machine's ranks have loaded; with the last of them, all have."""
    root.seen.loaded.add(loaded.machine)
    root.chronicle.read_from(loaded.sources.values())
    all_loaded = len(root.seen.loaded) == root.grid.machines
    return root.moment("loaded_s") if all_loaded else []
