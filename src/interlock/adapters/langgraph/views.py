"""What searches read: the items under a prefix, held in memory and brought up to date by the log.

A search asks the store where its log ends, and reads what was committed since the last one.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import cached_property

from interlock import AsyncSpace, Entry, Pruned, Record
from interlock.adapters.langgraph.items import Found, found
from interlock.adapters.langgraph.vectors import Index, Table

MOST_TEXT = 64_000_000  # characters of JSON in all views of a store
_NEAR = 100  # positions of the log that are read rather than all items


class View:
    """Items by their keys, the oldest version first, as of a position.  Never changed."""

    def __init__(self, index: Index | None, position: int, items: dict[str, Found]) -> None:
        self._index = index
        self.position = position
        self.items = items
        self.newest = tuple(reversed(items.values()))

    @cached_property
    def size(self) -> int:
        """How much text they are kept as; what expires in the space is too much to keep."""
        if any(each.record.expires_us for each in self.newest):
            return MOST_TEXT + 1
        return sum(len(each.record.body or "") for each in self.newest)

    @cached_property
    def _table(self) -> Table | None:
        return None if self._index is None else self._index.table(self.newest)

    def scores(self, query: Sequence[float]) -> dict[str, float]:
        """Return how near items are to a query, by their keys."""
        return {} if self._table is None else self._table.scores(query)

    def after(self, entries: Iterable[Entry], position: int) -> View:
        """Return the view with what was committed since."""
        items = dict(self.items)
        space = self.newest[0].record.space
        for entry in entries:
            items.pop(entry.key, None)
            position = max(position, entry.position)
            if entry.kind == "put" and not entry.erased:
                items[entry.key] = found(_record(entry, space))
        return View(self._index, position, items)


class Views:
    """The views of a store, those used last.  Safe for threads."""

    def __init__(self, index: Index | None) -> None:
        self._index = index
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    async def view(self, space: AsyncSpace, prefix: str) -> View:
        """Return the items whose keys begin with `prefix`, as of now."""
        with self._lock:
            known = self._views.get(prefix)
        now = await space.position()
        if known is None or known.position != now:
            known = await self._read(space, prefix, known, now)
        self._keep(prefix, known)
        return known

    async def _read(self, space: AsyncSpace, prefix: str, known: View | None, now: int) -> View:
        if known and known.items and 0 < now - known.position <= max(_NEAR, len(known.items)):
            try:
                entries = [each async for each in space.log(known.position, prefix)]
            except Pruned:
                pass
            else:
                return known.after(entries, now)
        records = (await space.scan(prefix)).values()
        oldest_first = sorted(records, key=lambda record: record.position)
        return View(self._index, now, {record.key: found(record) for record in oldest_first})

    def _keep(self, prefix: str, view: View) -> None:
        """Keep a view, unless there is a newer one; of all, as many as there is room for."""
        if view.size > MOST_TEXT:
            return
        with self._lock:
            other = self._views.get(prefix)
            if other is None or other.position <= view.position:
                self._views[prefix] = view
            self._views.move_to_end(prefix)
            while sum(each.size for each in self._views.values()) > MOST_TEXT:
                self._views.popitem(last=False)


def _record(entry: Entry, space: str) -> Record:
    """Return the record that an entry has made."""
    return Record(
        entry.key,
        entry.value,
        entry.version,
        entry.epoch,
        entry.agent,
        entry.time_us,
        entry.position,
        exists=True,
        space=space,
        body=json.dumps(entry.value),
        expires_us=entry.expires_us,
    )
