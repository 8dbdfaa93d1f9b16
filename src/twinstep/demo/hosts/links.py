"""What is wrong with the links between hosts, and the kernel's rules that make it so.

Plain values. All rules are at the switch, where no host can see or change them: a
frame is dropped as it comes from a host's cable, between two cables, or as it goes
onto one. Nobody is told: what is cut is silent, as behind a dead switch, and no
connection is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

TABLE = "twinstep"
_PARTS = 10_000  # one in so many frames is the finest loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """The links of a network; hosts are numbered from 1.

    Nobody hears a host that is `mute`, and one that is `shut` hears nobody; one that
    is cut off is both. `deaf` are pairs of which the second does not hear the first.
    `loss` of a host is the share of frames, in each direction, that its cable drops at
    random."""

    mute: frozenset[int] = frozenset()
    shut: frozenset[int] = frozenset()
    deaf: frozenset[tuple[int, int]] = frozenset()
    loss: Mapping[int, float] = field(default_factory=dict[int, float])

    def but_cut(self, host: int) -> Links:
        return self.but_mute(host).but_shut(host)

    def but_mute(self, host: int) -> Links:
        return replace(self, mute=self.mute | {host})

    def but_shut(self, host: int) -> Links:
        return replace(self, shut=self.shut | {host})

    def but_deaf(self, source: int, target: int) -> Links:
        """`target` does not hear `source`; the other way is as it was."""
        return replace(self, deaf=self.deaf | {(source, target)})

    def but_split(self, left: int, right: int) -> Links:
        """The two hear each other no more; everybody else hears both."""
        return self.but_deaf(left, right).but_deaf(right, left)

    def but_lossy(self, host: int, ratio: float) -> Links:
        assert 0 < ratio < 1, ratio
        return replace(self, loss={**self.loss, host: ratio})

    def healed(self, host: int) -> Links:
        """Nothing is wrong any more with what touches `host`."""
        return Links(
            mute=self.mute - {host},
            shut=self.shut - {host},
            deaf=frozenset(pair for pair in self.deaf if host not in pair),
            loss={other: ratio for other, ratio in self.loss.items() if other != host},
        )

    def rules(self) -> str:
        """Returns the nftables rules for the switch; they replace former ones."""
        came = [f"iifname {ports(host)} drop" for host in sorted(self.mute)]
        goes = [f"oifname {ports(host)} drop" for host in sorted(self.shut)]
        for host, ratio in sorted(self.loss.items()):
            chance = f"numgen random mod {_PARTS} < {round(ratio * _PARTS)} drop"
            came.append(f"iifname {ports(host)} {chance}")
            goes.append(f"oifname {ports(host)} {chance}")
        between = [
            f"iifname {ports(source)} oifname {ports(target)} drop"
            for source, target in sorted(self.deaf)
        ]
        chains = (("prerouting", came), ("forward", between), ("postrouting", goes))
        parts = [f"table bridge {TABLE}", f"delete table bridge {TABLE}"]
        parts.append(f"table bridge {TABLE} {{")
        for hook, lines in chains:
            parts.append(f"chain {hook} {{ type filter hook {hook} priority 0;")
            parts += lines
            parts.append("}")
        return "\n".join([*parts, "}", ""])


def port(host: int) -> str:
    """The switch's end of a host's cable."""
    return f"h{host}"


def relayed(host: int) -> str:
    """The port that stands in for a host's while a relay delays what passes."""
    return f"d{host}"


def ports(host: int) -> str:
    return f'{{ "{port(host)}", "{relayed(host)}" }}'
