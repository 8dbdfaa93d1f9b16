"""What each step measured: to a file of JSON lines, TensorBoard, and the console.

A restarted run goes on in the same files: when it begins at step k, lines of later
steps are removed, so that no step is there twice. Written by the first rank alone.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from twinstep.clock import Clock, SystemClock

DRAW_S = 0.5
"""How often the line on a terminal is drawn anew."""
SAY_S = 10.0
"""How often a line is printed where there is no terminal."""
LINE_BYTES_MAX = 4096


class Metrics:
    """One attempt's measurements.

    Args:
      path: the file of lines; None writes nothing and says nothing.
      tensorboard: folder for TensorBoard's events, where tensorboardX is installed.
      console: None says nothing."""

    def __init__(
        self,
        path: Path | None,
        *,
        steps: int,
        tensorboard: Path | None = None,
        console: Console | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._path, self._steps = path, steps
        self._console = console if path is not None else None
        self._clock = clock or SystemClock()
        self._board_folder = tensorboard if path is not None else None
        self._board: Any = None
        self._file: IO[str] | None = None
        self._live: Live | None = None
        self._drawn_s = -math.inf

    def begin(self, start: int) -> None:
        """Steps after `start` are as if they had never been written."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read(self._path) if line["step"] <= start]
        part = self._path.with_suffix(".part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(self._path)
        self._file = self._path.open("a")
        if self._board_folder is not None:
            with contextlib.suppress(ModuleNotFoundError):
                from tensorboardX import SummaryWriter

                self._board = SummaryWriter(
                    str(self._board_folder), purge_step=start + 1 if start else None
                )
        if self._console is not None and self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """The step's numbers are in the files."""
        if self._file is None:
            return
        line = {"step": step, **numbers, "wall_s": round(self._clock.wall_s(), 3)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def is_due(self, step: int) -> bool:
        """Whether the console is to show this step."""
        if self._console is None or self._file is None:
            return False
        every_s = DRAW_S if self._live is not None else SAY_S
        last = step >= self._steps
        return last or self._clock.monotonic_s() - self._drawn_s >= every_s

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """The console's line is of this step."""
        assert self._console is not None, "show() when it is_due()"
        self._drawn_s = self._clock.monotonic_s()
        text = f"step {step}/{self._steps}"
        for name, form in SHOWN.items():
            if name in numbers:
                text += f"  {form.format(numbers[name])}"
        if self._live is not None:
            self._live.update(Text(text), refresh=True)
        else:
            self._console.print(text, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Everything is written. Safe to repeat."""
        if self._live is not None:
            self._live.stop()
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()
        self._live = self._board = self._file = None


SHOWN = {
    "loss": "loss {:.4f}",
    "lr": "lr {:.2e}",
    "tokens_per_s": "{:,.0f} tokens/s",
    "data_wait_s": "waits {:.3f} s",
    "goodput": "goodput {:.1%}",
    "copied": "copied {:.0f}",
    "left_s": "{:.0f} s left",
}
"""What the console shows, in this order. `copied`: steps of this attempt whose state a
session has copied into its agent's memory."""


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of metrics; torn ones are left out, and there is none
    where there is no file."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for raw in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(raw[:LINE_BYTES_MAX])
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                lines.append(found)
    return lines
