"""What a saver remembers of the threads that it worked on last, so that it asks the store for less.

Nothing is decided by it.  A put that was made from what is remembered is refused if it is not so
any more, and made again from what is read; a checkpoint is answered from here only if the log of
the space has not moved since.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from interlock import Record
from interlock.adapters.langgraph.keys import Place

MOST = 256  # namespaces of threads
_LARGEST = 100_000  # characters of the values of one


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


Checkpoint = TypeVar("Checkpoint", bound=_Sized)


class Newest(NamedTuple, Generic[Checkpoint]):
    """The newest checkpoint of a namespace, when the log was at `position`."""

    position: int
    stored: Checkpoint


class _Known(Generic[Checkpoint]):
    def __init__(self) -> None:
        self.records: Mapping[str, Record] = {}
        self.newest: Newest[Checkpoint] | None = None


class Recent(Generic[Checkpoint]):
    """Records, and the newest checkpoint, by the namespace that they are of.  Safe for threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[Place, _Known[Checkpoint]] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, place: Place) -> bool:
        return place in self._known

    def records(self, place: Place, keys: Iterable[str], new: str) -> dict[str, Record] | None:
        """Return the records of `keys`, if all are known; `new` was never written, if it is not."""
        known = self._known.get(place)
        if known is None or not known.records:
            return None
        some = next(iter(known.records.values()))
        absent = Record(new, None, 0, 0, None, 0, 0, exists=False, space=some.space)
        found = {new: absent, **known.records}
        return {key: found[key] for key in keys} if all(key in found for key in keys) else None

    def add(self, place: Place, records: Mapping[str, Record]) -> None:
        """Remember records, too, of a namespace that is known."""
        with self._lock:
            if known := self._known.get(place):
                known.records = {**known.records, **records}

    def newest(self, place: Place) -> Newest[Checkpoint] | None:
        """Return the newest checkpoint, as it was at its position."""
        known = self._known.get(place)
        return None if known is None else known.newest

    def remember(
        self, place: Place, records: Mapping[str, Record], newest: Newest[Checkpoint] | None = None
    ) -> None:
        """Remember records that were read or made, and the newest checkpoint if it is not large."""
        with self._lock:
            known = self._known.setdefault(place, _Known())
            self._known.move_to_end(place)
            known.records = dict(records)
            known.newest = newest if newest and newest.stored.size <= _LARGEST else None
            if len(self._known) > MOST:
                self._known.popitem(last=False)
