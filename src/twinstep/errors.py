"""The exceptions of twinstep.

    TwinstepError
    ├── UsageError            what the user asked cannot be done (exit status 2)
    │   ├── ConfigError       a setting, or a relation between settings
    │   ├── StateError        an object or value that cannot be captured by name
    │   ├── OrderError        a second Session, after_step out of order
    │   └── DoesNotFit        a reservation larger than the memory there is
    ├── ProtocolError         bytes from a peer that make no sense; the peer is dropped
    │   └── PeerClosed        (transfer/channel.py) a connection ended inside a frame
    ├── Corrupt               bytes whose checksum is not the one captured
    │   └── CopyIsBad         (transfer/exchange.py) its holder says so itself
    ├── NoCopyLeft            no holder has a good copy of a shard
    ├── Refused               a peer said no, with its reason (stale round, no slot)
    │   ├── NoMachine         (cloud/serving.py) no machine is to be had, and why
    │   ├── Compacted         (agent/kv.py) history that a watch asked for is gone
    │   └── LeaseGone         (agent/kv.py) a lease has lapsed
    └── DeadlinePassed        a wait that ended, and whom it waited for

Each message says what was passed, what is allowed and the way out.
"""

from __future__ import annotations


class TwinstepError(Exception):
    """Any error that twinstep raises on purpose."""


class UsageError(TwinstepError):
    """What the user asked cannot be done; the command exits with status 2."""


class ConfigError(UsageError):
    """A setting, or a relation between settings, that is not allowed."""


class StateError(UsageError):
    """An object or a value, named by its path, that cannot be captured."""


class OrderError(UsageError):
    """A call that came out of order: a second Session, a repeated step."""


class DoesNotFit(UsageError):
    """A reservation that is larger than the memory there is, with the sum."""


class ProtocolError(TwinstepError):
    """Bytes from a peer that make no sense; the connection is dropped."""


class Corrupt(TwinstepError):
    """Bytes whose checksum is not the one that was captured."""


class NoCopyLeft(TwinstepError):
    """No holder has a good copy of a shard at a step."""


class Refused(TwinstepError):
    """A peer said no, and why."""


class DeadlinePassed(TwinstepError):
    """A wait ended at its deadline; the message names whom it waited for."""
