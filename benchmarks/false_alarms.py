"""How often a healthy machine is declared dead because its link loses packets.

    python -m benchmarks.false_alarms [--minutes 60] [--loss 20] [--json FILE]

On hosts (network namespaces; needs root): one host's cable drops that share of all
packets, in each direction, at random; another's drops none; the key-value store has a
host of its own. On both, machines keep their leases at default settings, each as its
agent does (agent/seat.py) over a connection of its own. Nothing trains: what declares a
machine dead is its lease alone, and losses of one packet do not depend on another's,
so many seats at the same time count as many minutes. `--minutes` are machine-minutes
on the link that loses, for each kind of store. A machine is declared dead when the
store deletes its key: what every agent goes by.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from twinstep.agent.kv import Compacted, KeyValueStore
from twinstep.agent.lifeline import tied
from twinstep.agent.seat import MACHINES
from twinstep.agent.stores import open_store
from twinstep.clock import monotonic_s
from twinstep.config import Trust
from twinstep.demo.hosts import members
from twinstep.demo.hosts.links import Links
from twinstep.demo.hosts.network import Network, missing
from twinstep.errors import TwinstepError
from twinstep.trust.credentials import load

LOSSY, CALM, FIRST_STORE = 1, 2, 3
PORT = 4711
START_S_MAX = 60.0
STORES = {"embedded": 0, "etcd": 1, "etcd3": 3}
"""Kinds of store, and how many members of etcd each has."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.false_alarms")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--loss", type=float, default=20.0, help="in percent")
    parser.add_argument("--seats", type=int, default=20, help="at the same time")
    parser.add_argument("--stores", default="embedded,etcd")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    why_not = missing()
    if why_not:
        print(why_not, file=sys.stderr)
        return 2
    results = {
        kind: measure(
            kind,
            minutes=options.minutes,
            loss=options.loss / 100,
            seats=options.seats,
        )
        for kind in options.stores.split(",")
    }
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1))
    return int(any(found["declared_dead"] for found in results.values()))


def measure(kind: str, *, minutes: float, loss: float, seats: int) -> dict[str, Any]:
    """Returns who was declared dead, and the longest times without a renewal."""
    members_count = STORES[kind]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        network = stack.enter_context(Network(2 + max(1, members_count)))
        stack.enter_context(network.entered())
        address = start_store(stack, network, folder, members_count, token)
        store = open_store(address, credentials=load(Trust(token_file=str(token))))
        stack.enter_context(closing(store))
        runs = {
            name: start_seats(stack, network, host, [address, str(token), name, count])
            for name, host, count in (
                ("lossy", LOSSY, str(seats)),
                ("calm", CALM, str(max(1, seats // 4))),
            )
        }
        await_seats(store, seats + max(1, seats // 4))
        if loss:
            network.set(Links().but_lossy(LOSSY, loss))
        began_s = monotonic_s()
        lasts_s = math.ceil(minutes * 60 / seats)
        dead = declared_dead(store, until_s=began_s + lasts_s)
        found = {name: ask(process) for name, process in runs.items()}
    record = {
        "store": kind,
        "loss": loss,
        "machine_minutes_lossy": round(lasts_s * seats / 60, 1),
        "machine_minutes_calm": round(lasts_s * max(1, seats // 4) / 60, 1),
        "declared_dead": dead,
        "load_average": os.getloadavg()[0],
        **found,
    }
    tell(record)
    return record


def start_store(
    stack: ExitStack, network: Network, folder: Path, count: int, token: Path
) -> str:
    """Returns the address of a store that answers."""
    if count:
        places = [
            members.Place(
                host=network.address(FIRST_STORE + number),
                where=lambda command, host=FIRST_STORE + number: network.at(
                    host, command
                ),
            )
            for number in range(count)
        ]
        etcd = stack.enter_context(closing(members.Members(places, folder)))
        etcd.ready()
        return f"etcd://{etcd.endpoints}/alarms"
    address = network.address(FIRST_STORE)
    config = folder / "config.toml"
    config.write_text(f'[trust]\ntoken_file = "{token}"\n')
    command = [sys.executable, "-m", "twinstep", "store", "--host", address]
    command += ["--port", str(PORT), "--config", str(config)]
    process = subprocess.Popen(
        tied(network.at(FIRST_STORE, command), parent=os.getpid()),
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    print(process.stdout.readline().strip())
    return f"{address}:{PORT}"


def start_seats(
    stack: ExitStack, network: Network, host: int, words: list[str]
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.lessees", *words]
    process = subprocess.Popen(
        tied(network.machine(host, command), parent=os.getpid()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def await_seats(store: KeyValueStore, count: int) -> None:
    until_s = monotonic_s() + START_S_MAX
    while len(here := store.get(MACHINES)[1]) < count:
        if monotonic_s() > until_s:
            raise TimeoutError(f"{len(here)} of {count} seats after {START_S_MAX} s")
        time.sleep(0.1)


def declared_dead(store: KeyValueStore, *, until_s: float) -> list[str]:
    """Returns the machines whose keys the store has deleted until then."""
    dead: list[str] = []
    revision, items = store.get(MACHINES)
    known = set(items)
    watch = store.watch(MACHINES, after=revision)
    while monotonic_s() < until_s:
        try:
            for event in watch.next(0.5):
                if event.item is None:
                    dead.append(event.key.removeprefix(MACHINES))
                    known.discard(event.key)
                else:
                    known.add(event.key)
        except Compacted:
            watch.close()
            revision, items = store.get(MACHINES)
            dead += [key.removeprefix(MACHINES) for key in known - set(items)]
            known = set(items)
            watch = store.watch(MACHINES, after=revision)
        except TwinstepError as error:
            print(f"watch: {error}", file=sys.stderr)
    watch.close()
    return dead


def ask(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Ends the seats of a host; returns what they saw."""
    out, _ = process.communicate("", timeout=60)
    return dict(json.loads(out))


def tell(record: dict[str, Any]) -> None:
    lossy, calm = record["lossy"], record["calm"]
    print(
        f"{record['store']}, {record['loss']:.0%} lost in each direction: "
        f"{len(record['declared_dead'])} declared dead in "
        f"{record['machine_minutes_lossy']} machine-minutes on the link that loses and "
        f"{record['machine_minutes_calm']} on one that does not; {lossy['renewals']} "
        f"renewals, {lossy['failed']} failed; longest times between two: "
        f"{lossy['gaps_s'][-3:]} s (without loss {calm['gaps_s'][-1:]} s); load "
        f"{record['load_average']:.1f}"
    )
    for name in record["declared_dead"][:10]:
        print(f"  declared dead: {name}")
    for text in lossy["notes"][:10]:
        print(f"  {text}")


if __name__ == "__main__":
    sys.exit(main())
