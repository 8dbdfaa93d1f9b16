"""Fuzzes for as long as it is told: `python -m tests.fuzz.run --seconds 60`.

With atheris (pip install 'twinstep[fuzz]') inputs follow the branches that they reach;
without it, or with --no-atheris, they are changed at random from the kept ones. Each
target has a process of its own and an equal share of the time. An input that breaks a
promise is left in tests/fuzz/corpus/TARGET/, from where the normal suite repeats it.

With --live a whole job trains for about so long while attackers work on its agents
(attack.py).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INPUT_BYTES_MAX = 1 << 16
ATHERIS = "atheris"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="all targets together")
    parser.add_argument("--target", default="", help="one only; else all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-atheris", action="store_true")
    parser.add_argument("--live", action="store_true", help="attack a whole job")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.live:
        from tests.fuzz.attack import trial_of

        return trial_of(seconds=asked.seconds, seed=asked.seed)
    if asked.here:
        return fuzz(asked)
    from tests.fuzz.targets import TARGETS

    names = [asked.target] if asked.target else list(TARGETS)
    share = max(1, asked.seconds // len(names))
    failed: list[str] = []
    for name in names:
        words = ["--here", "--target", name, "--seconds", str(share)]
        words += ["--seed", str(asked.seed)] + ["--no-atheris"] * asked.no_atheris
        done = subprocess.run([sys.executable, "-m", "tests.fuzz.run", *words])
        failed += [name] * bool(done.returncode)
    broken = ", ".join(failed) or "none"
    print(f"{len(names)} targets, {share} s each; broken: {broken}")
    return 1 if failed else 0


def fuzz(asked: argparse.Namespace) -> int:
    """One target, in this process."""
    if not asked.no_atheris and importlib.util.find_spec(ATHERIS) is not None:
        return follow_branches(asked)
    from tests.fuzz.mutate import mutated
    from tests.fuzz.targets import TARGETS, kept

    target, rng = TARGETS[asked.target], random.Random(asked.seed)
    inputs = [*target.seeds(), *kept(asked.target)]
    until_s, count = time.monotonic() + asked.seconds, 0
    while time.monotonic() < until_s:
        data = mutated(rng.choice(inputs), rng, packed=target.packed)
        count += 1
        try:
            target.feed(data)
        except Exception as error:
            keep(asked.target, data, error)
            return 1
    print(f"{asked.target}: {count} inputs", flush=True)
    return 0


def follow_branches(asked: argparse.Namespace) -> int:
    import atheris  # pyright: ignore

    with atheris.instrument_imports(include=["twinstep"]):
        from tests.fuzz.mutate import mutated
        from tests.fuzz.targets import TARGETS, kept
    target = TARGETS[asked.target]

    def feed(data: bytes) -> None:
        try:
            target.feed(data)
        except Exception as error:
            keep(asked.target, data, error)
            raise

    def change(data: bytes, size_max: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.3:
            return bytes(atheris.Mutate(data, size_max))
        return mutated(bytes(data), rng, packed=target.packed)[:size_max]

    with tempfile.TemporaryDirectory(prefix="twinstep-fuzz-") as folder:
        for index, data in enumerate([*target.seeds(), *kept(asked.target)]):
            (Path(folder) / str(index)).write_bytes(data)
        words = [sys.argv[0], folder, f"-max_total_time={asked.seconds}"]
        words += [f"-max_len={INPUT_BYTES_MAX}", f"-seed={asked.seed or 1}"]
        words += ["-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={folder}/"]
        atheris.Setup(words, feed, custom_mutator=change)
        atheris.Fuzz()  # does not return: it says how much it did, and ends the process
    return 0


def keep(name: str, data: bytes, error: Exception) -> None:
    """The input stays in the corpus; whoever repairs the cause gives it a name."""
    from tests.fuzz.targets import CORPUS

    path = CORPUS / name / f"broken-{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    print(f"{name}: {error!r}; the input is in {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
