"""Memory tiers for code that calls torch.distributed.checkpoint, by one argument.

    dcp.save(state_dict, storage_writer=TwinstepWriter(path, step=step))
    dcp.load(state_dict, storage_reader=TwinstepReader(path))

Each save goes into memory that outlives the rank, with copies on neighbours, and every
n-th into `path` by torch's own writer. A page on it is docs/dcp.md.
"""

from __future__ import annotations

from twinstep.dcp.reader import TwinstepReader
from twinstep.dcp.writer import TwinstepWriter

__all__ = ["TwinstepReader", "TwinstepWriter"]
