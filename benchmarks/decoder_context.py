"""What a long context costs: one layer's forward pass, seconds and memory.

    python -m benchmarks.decoder_context [--json FILE] [--tokens 4096 8192 16384 32768]

One layer of the decoder (4 heads of 64, one key head, width 256, one row, one long
example), with attention to everything before and in a window of 1,024, by the default
backend and, where its scores fit, by the dense one. Each is a process of its own on one
core. Seconds are the better of two runs of the compiled layer; memory is the process's
peak (VmHWM) less what it had with jax loaded, inputs made and nothing computed, so it
has the compiler's own in it: its share is what the shortest row shows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

TOKENS = (4096, 8192, 16384, 32768)
WINDOW = 1024
HEADS, SIZE, WIDTH = 4, 64, 256
DENSE_TOKENS_MAX = 8192
"""Scores of 4 heads are 1 GiB then, and several of that size exist at once."""
CASES = (("auto", None), ("auto", WINDOW), ("reference", None), ("reference", WINDOW))


def peak_bytes() -> int:
    """The largest resident memory this process ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM")]
    return int(peak.split()[1]) * 1024


def measure(tokens: int, window: int | None, backend: str) -> dict[str, Any]:
    """Returns what one layer takes, in this process."""
    import jax
    import jax.numpy as jnp

    from twinstep.decoder.model.layers import BlockSizes, Sight, block, block_spec, rope
    from twinstep.decoder.model.structure import Structure
    from twinstep.decoder.spec import init

    sizes = BlockSizes(
        width=WIDTH,
        heads=HEADS,
        kv_heads=1,
        head_size=SIZE,
        hidden=4 * WIDTH,
        depth=1,
        epsilon=1e-6,
    )
    params = init(block_spec(sizes), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (1, tokens, WIDTH))
    at = jnp.arange(tokens, dtype=jnp.int32)[None]
    structure = Structure(jnp.ones_like(at), at, at)
    jax.block_until_ready((params, x, structure))

    @jax.jit
    def layer(params: Any, x: jax.Array, structure: Structure) -> jax.Array:
        sight = Sight(
            queries=structure,
            rope=rope(structure.position, SIZE, 10_000.0),
            window=window,
            backend=backend,
        )
        return block(params, x, sizes, sight)[0]

    before = peak_bytes()
    began = time.perf_counter()
    jax.block_until_ready(layer(params, x, structure))
    first_s = time.perf_counter() - began
    runs = []
    for _ in range(2):
        began = time.perf_counter()
        jax.block_until_ready(layer(params, x, structure))
        runs.append(time.perf_counter() - began)
    return {
        "tokens": tokens,
        "window": window,
        "backend": backend,
        "seconds": min(runs),
        "first_s": first_s,
        "peak_bytes": peak_bytes() - before,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        tokens, window, backend = options.one
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(measure(int(tokens), int(window) or None, backend)))
        return
    rows: list[dict[str, Any]] = []
    for backend, window in CASES:
        for tokens in options.tokens:
            if backend == "reference" and tokens > DENSE_TOKENS_MAX:
                continue
            command = [sys.executable, "-m", "benchmarks.decoder_context", "--one"]
            command += [str(tokens), str(window or 0), backend]
            said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            rows.append(json.loads(said))
    Console().print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> Table:
    drawn = Table("attention", "positions", "seconds", "peak, MB", "load")
    for row in rows:
        seen = f"window {row['window']}" if row["window"] else "all before"
        drawn.add_row(
            f"{row['backend']}, {seen}",
            f"{row['tokens']:,}",
            f"{row['seconds']:.2f}",
            f"{row['peak_bytes'] / 1e6:.0f}",
            f"{row['load']:.1f}",
        )
    return drawn


if __name__ == "__main__":
    main()
