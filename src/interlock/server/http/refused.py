"""Writes that came through this service and were refused with a conflict, so that an operator can
look at what would have been written.  They are kept in memory only, the last ones and for an hour.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple

import msgspec

from interlock import Json

_KEPT = 100  # of a space
_LONGEST = 64 << 10  # bytes of a value
_SECONDS = 3600.0


class RefusedWrite(NamedTuple):
    """A value that `agent` would have put at `key`, computed from `version`."""

    id: int
    time: float
    agent: str
    key: str
    body: bytes
    version: int

    @property
    def at(self) -> datetime:
        """When it was refused (clock of the service, UTC)."""
        return datetime.fromtimestamp(self.time, UTC)

    @property
    def value(self) -> Json:
        """The value."""
        return msgspec.json.decode(self.body)

    def to_dict(self) -> dict[str, Json]:
        """Return it as JSON."""
        told = {name: getattr(self, name) for name in ("id", "agent", "key", "version", "value")}
        return {**told, "at": self.at.isoformat()}


class RefusedWrites:
    """The refused writes of every space, by its unique id."""

    def __init__(self) -> None:
        self._spaces: dict[str, OrderedDict[int, RefusedWrite]] = {}
        self._ids = count(1)

    def keep(self, space: str, agent: str, key: str, body: bytes, version: int) -> None:
        """Keep a refused write, unless its value is long."""
        if len(body) > _LONGEST:
            return
        kept = self._spaces.setdefault(space, OrderedDict())
        found = RefusedWrite(next(self._ids), time.time(), agent, key, body, version)
        kept[found.id] = found
        if len(kept) > _KEPT:
            kept.popitem(last=False)

    def of(self, space: str) -> list[RefusedWrite]:
        """Return those of a space, the last first."""
        kept = self._spaces.get(space) or OrderedDict()
        for each in [e for e in kept.values() if time.time() - e.time > _SECONDS]:
            del kept[each.id]
        return [*reversed(kept.values())]

    def forget(self, space: str, key: str | None = None, prefix: str | None = None) -> None:
        """Forget those of a key, or of keys under a prefix, whose values were erased."""
        for each in self.of(space):
            if each.key == key or (prefix is not None and each.key.startswith(prefix)):
                self.drop(space, each.id)

    def drop(self, space: str, id: int) -> None:
        """Forget one that was written after all."""
        if space in self._spaces:
            self._spaces[space].pop(id, None)
