"""A rank that kills itself, once: the next one finds the file that it has left."""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Kills:
    at: int = 0
    """The batch, counted from 1 over all epochs; 0 for none."""
    marker: Path = Path()
    pause_s: float = 0.0

    @staticmethod
    def told() -> Kills:
        """What the arguments of the script say."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--at", type=int, default=0)
        parser.add_argument("--marker", type=Path, default=Path())
        parser.add_argument("--pause-s", type=float, default=0.0)
        return Kills(**vars(parser.parse_args()))

    def look(self, batch: int) -> None:
        """Called in each batch."""
        due = batch == self.at and os.environ.get("RANK") == "1"
        if due and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause_s)
