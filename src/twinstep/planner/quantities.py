"""Reads amounts as people write them: 400Gbps, 9.4GB, 3h, 1.5%/day.

Everything inside twinstep is in bytes, seconds and bytes per second. A unit is needed
where leaving it out would be a guess (400 of what?); seconds and bytes are taken from
plain numbers. Letters' case matters in one place: b is a bit and B a byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from twinstep.errors import ConfigError

DAY_S = 86400.0
AMOUNT_MAX = 1e21
"""Of any amount: a zettabyte, 30 million million years."""

DURATIONS: Mapping[str, float] = {
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": DAY_S,
    "day": DAY_S,
    "days": DAY_S,
    "week": 7 * DAY_S,
    "month": 30 * DAY_S,
    "year": 365 * DAY_S,
}
SIZES: Mapping[str, float] = {
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
    "PB": 1e15,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "TiB": 2.0**40,
}
SPEEDS: Mapping[str, float] = {
    **{f"{size}/s": factor for size, factor in SIZES.items()},
    "Kbps": 1e3 / 8,
    "Mbps": 1e6 / 8,
    "Gbps": 1e9 / 8,
    "Tbps": 1e12 / 8,
    "Mbit/s": 1e6 / 8,
    "Gbit/s": 1e9 / 8,
    "Tbit/s": 1e12 / 8,
}
COUNTS: Mapping[str, float] = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
NUMBER = re.compile(
    r"\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+)\s*(.*?)\s*"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often something fails: each machine for itself, or the job as a whole."""

    per_day: float
    of_each: bool
    """Whether it counts for each machine, so that more machines fail more often."""

    def per_machine_day(self, machines: int) -> float:
        return self.per_day if self.of_each else self.per_day / machines


def duration_s(text: str, *, option: str) -> float:
    """Seconds of `62`, `90s`, `8min`, `3h`, `7.5d`."""
    return _amount(text, {"": 1.0, **DURATIONS}, option=option, as_in="62s, 8min, 3h")


def size_bytes(text: str, *, option: str) -> float:
    """Bytes of `75GB`, `1152GiB`, `4096`."""
    return _amount(text, {"": 1.0, **SIZES}, option=option, as_in="75GB, 1152GiB")


def speed_bytes_per_s(text: str, *, option: str) -> float:
    """Bytes per second of `400Gbps`, `2.5GB/s`."""
    return _amount(text, SPEEDS, option=option, as_in="400Gbps, 2.5GB/s")


def count(text: str, *, option: str) -> float:
    """A number of things: `100e9`, `100B` (thousand millions), `70M`."""
    return _amount(text, COUNTS, option=option, as_in="100e9, 100B, 70M")


def failure_rate(text: str, *, option: str) -> Rate:
    """`1.5%/day` and `0.015/machine/day` of each machine; `15/day` and `every 3h` of
    the whole job. A day may be any duration's unit."""
    as_in = "1.5%/day, 0.015/machine/day (of each machine), 15/day, every 3h (of all)"
    if match := re.fullmatch(r"\s*every\s+(.*)", text):
        between_s = duration_s(match[1], option=option)
        if between_s == 0:
            raise _refusal(text, option, as_in)
        return Rate(per_day=DAY_S / between_s, of_each=False)
    each = text.replace("%/machine", "%").replace("/machine", "%100")
    value, unit = _split(each, option=option, as_in=as_in)
    kind, slash, period = unit.rpartition("/")
    if not slash or period not in DURATIONS or kind not in ("", "%", "%100"):
        raise _refusal(text, option, as_in)
    share = value / 100 if kind == "%" else value
    per_day = share * DAY_S / DURATIONS[period]
    return Rate(per_day=per_day, of_each=kind != "")


def _amount(text: str, units: Mapping[str, float], *, option: str, as_in: str) -> float:
    value, unit = _split(text, option=option, as_in=as_in)
    if unit not in units:
        raise _refusal(
            text, option, f"{as_in}; units: {', '.join(filter(None, units))}"
        )
    return value * units[unit]


def _split(text: str, *, option: str, as_in: str) -> tuple[float, str]:
    match = NUMBER.fullmatch(text)
    if match is None:
        raise _refusal(text, option, as_in)
    value = float(match[1].replace("_", ""))
    if not math.isfinite(value) or value > AMOUNT_MAX:
        raise ConfigError(f"{option} is {text!r}; at most {AMOUNT_MAX:g} is allowed")
    return value, match[2]


def _refusal(text: str, option: str, as_in: str) -> ConfigError:
    return ConfigError(
        f"{option} is {text!r}; write a number, not negative, with its unit, as in "
        f"{as_in}"
    )


def in_words_s(seconds: float) -> str:
    """A duration in the unit that people would use."""
    for limit_s, unit_s, unit in (
        (1, 1e-3, "ms"),
        (120, 1, "s"),
        (2 * 3600, 60, "min"),
        (2 * DAY_S, 3600, "h"),
        (math.inf, DAY_S, "days"),
    ):
        if seconds < limit_s:
            return f"{seconds / unit_s:.3g} {unit}"
    return "never"


def in_words_bytes(size: float) -> str:
    """A number of bytes in the unit that people would use."""
    for unit in ("PB", "TB", "GB", "MB", "kB"):
        if size >= SIZES[unit]:
            return f"{size / SIZES[unit]:.3g} {unit}"
    return f"{size:.0f} B"


def in_words_speed(bytes_per_s: float) -> str:
    """A speed of a network, in bits as networks are sold."""
    bits = 8 * bytes_per_s
    for unit, factor in (("Tbit/s", 1e12), ("Gbit/s", 1e9)):
        if bits >= factor:
            return f"{bits / factor:.3g} {unit}"
    return f"{bits / 1e6:.3g} Mbit/s"
