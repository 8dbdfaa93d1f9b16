"""How fast a cable is: what `tc` is told, so that hosts share a link as real ones do.

Both ends of a cable are limited: the host's own, where what it sends waits as before
a network card, and the switch's, where what several hosts send to one of them meets.

    host's eth0    htb, one class at the rate ── queue of the kernel ── cable
    switch's port  htb, one class at the rate ── plain queue ────────── cable

What one connection has in the host's queue is bounded by the kernel itself (TCP small
queues: about a millisecond of its rate), so the queues here are long enough that
hosts drop nothing, as network cards do not; the rest waits in the socket. A bucket of
BURST_BYTES is eleven frames: a smaller one costs processor time, a larger one lets an
idle link run ahead.
"""

from __future__ import annotations

QUEUE_BYTES = 1 << 20
"""42 ms at 200 Mbit/s; seen in use: 0.2 MB."""
BURST_BYTES = 16 * 1024
BITS_PER_S_MIN = 1_000_000


def shaping(device: str, bits_per_s: int, *, bands: bool, anew: bool) -> list[str]:
    """Returns lines for `tc -batch`: no more than `bits_per_s` leave by `device`.

    Args:
      bands: as the kernel's default queue (pfifo_fast) has it, frames of sockets with
        a low SO_PRIORITY (1, 2) wait until no others do. Without, all are alike.
      anew: the device was limited before."""
    assert bits_per_s >= BITS_PER_S_MIN, bits_per_s
    queue = "pfifo_fast" if bands else f"bfifo limit {QUEUE_BYTES}"
    size = f"burst {BURST_BYTES} cburst {BURST_BYTES} quantum {BURST_BYTES}"
    return [
        *([f"qdisc del dev {device} root"] if anew else []),
        f"qdisc add dev {device} root handle 1: htb default 1",
        f"class add dev {device} parent 1: classid 1:1 htb rate {bits_per_s}bit {size}",
        f"qdisc add dev {device} parent 1:1 handle 2: {queue}",
    ]
