"""Decides for the root what follows when ranks end, or stand still.

Whom to blame is found out by suspicion.py; here the job ends well, ends with a report,
has its ranks looked at, or begins the next round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twinstep.agent import actions as do, messages as say, relief

if TYPE_CHECKING:
    from twinstep.agent.root import Actions, Root


def rank_ended(root: Root, ended: say.RankEnded) -> Actions:
    """A rank's process is gone; after the last that ended well the job is over."""
    if not root.is_active():
        return []
    if ended.status == 0:
        root.seen.ended.add(ended.rank)
        if len(root.seen.ended) == root.grid.world_size:
            return root.finish(0, "all ranks have ended well")
        return []
    end = root.suspicion.rank_ended(ended, root.now_s)
    done = relief.struck(root, ended.machine, end.struck)
    if end.report and not done:
        return root.finish(1, end.report)
    return done + root.new_round("rank", f"rank {ended.rank}", end.reason)


def looked(root: Root, looked: say.Looked) -> Actions:
    """Once everybody was looked at, the culprit is named and all start again."""
    if not root.is_active():
        return []
    hang = root.suspicion.looked(looked, root.now_s)
    if hang is None:
        return []
    if hang.note:
        return [do.Log(text=hang.note)]
    if hang.again:
        return look(root)
    if hang.report:
        return root.finish(1, hang.report)
    return root.new_round("hang", hang.who, hang.reason)


def look(root: Root) -> Actions:
    """No step for too long: all machines say what their ranks are doing."""
    looking = root.suspicion.looking
    assert looking is not None
    threads = looking.threads
    look = say.LookAtRanks(round=root.round, term=root.term, threads=threads)
    return root.tell_members(look)
