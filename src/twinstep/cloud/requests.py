"""How a root asks for machines through the key-value store, wherever they come from.

```
operator/requests/NAME   put by who asks, under its own name; never changed
operator/answers/NAME    put by the operator: the machine, or why there is none
operator/returns/MACHINE put by who gives a machine back; deleted when it was killed
operator/machines/NAME   put by the operator: what lives, with its group, and what not
```

Whoever started the job serves these (serving.py); roots are in other processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import msgspec

from twinstep.agent.kv import Compare, KeyValueStore, Put, absent
from twinstep.cloud.operator import Answer, Machine
from twinstep.errors import ConfigError

ROOT = "operator/"
REQUESTS = f"{ROOT}requests/"
ANSWERS = f"{ROOT}answers/"
RETURNS = f"{ROOT}returns/"
MACHINES = f"{ROOT}machines/"
_answers = msgspec.msgpack.Decoder(Answer)
_machines = msgspec.msgpack.Decoder(Machine)


@final
class KeyValueOperator:
    """An operator in another process, spoken to through the key-value store."""

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self.fence: Sequence[Compare] = ()
        """What must hold, too, whenever a root asks for something: that it is root."""

    def ask(self, request: str, *, reason: str) -> None:
        key = REQUESTS + _name(request)
        put = Put(key=key, value=reason.encode())
        self._store.transact([put], when=[absent(key), *self.fence])

    def answer(self, request: str) -> Answer | None:
        key = ANSWERS + _name(request)
        item = self._store.get(key)[1].get(key)
        return _answers.decode(item.value) if item else None

    def give_back(self, machine: str, *, reason: str) -> None:
        key = RETURNS + _name(machine)
        self._store.transact([Put(key=key, value=reason.encode())], when=self.fence)

    def machines(self) -> list[Machine]:
        _, items = self._store.get(MACHINES)
        return [_machines.decode(item.value) for item in items.values()]


def _name(text: str) -> str:
    if not text or "/" in text:
        raise ConfigError(f"a name of a request or machine is {text!r}; no slash")
    return text
