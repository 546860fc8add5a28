"""What searches read: the items under a prefix, held in memory and brought up to date by the log.

A search asks the store where its log ends, and reads what was committed since the last one.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

from interlock import AsyncSpace, Entry, Pruned, Record
from interlock.adapters.langgraph.items import Found, Path, found, scan_prefix
from interlock.adapters.langgraph.vectors import Index, Table

MOST_TEXT = 64_000_000  # characters of JSON in all views of a store
_NEAR = 100  # positions of the log that are read rather than all items


class View:
    """The items of `records` under a namespace, as of a position.  Never changed.

    `before` are items by their keys that are there already, the oldest version first; records that
    do not exist take some of them away.
    """

    def __init__(
        self,
        namespace: Path,
        index: Index | None,
        position: int,
        records: Iterable[Record],
        before: Mapping[str, Found] = MappingProxyType({}),
    ) -> None:
        self._namespace, self._index, self.position = namespace, index, position
        self.items = dict(before)
        for record in records:
            self.items.pop(record.key, None)
            if record.exists:
                item = found(record)
                # The key of a long path does not tell all of it.
                if item.kept.namespace[: len(namespace)] == namespace:
                    self.items[record.key] = item
        self.newest = tuple(reversed(self.items.values()))

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

    def after(self, entries: Sequence[Entry], position: int) -> View:
        """Return the view with what was committed since."""
        space = self.newest[0].record.space
        records = [entry.record(space)._replace(body=json.dumps(entry.value)) for entry in entries]
        position = max(position, *(entry.position for entry in entries), 0)
        return View(self._namespace, self._index, position, records, self.items)


class Views:
    """The views of a store, those used last.  Safe for threads."""

    def __init__(self, index: Index | None) -> None:
        self._index = index
        self._views: OrderedDict[Path, View] = OrderedDict()
        self._lock = threading.Lock()

    async def view(self, space: AsyncSpace, namespace: Path) -> View:
        """Return the items under a namespace, as of now."""
        with self._lock:
            known = self._views.get(namespace)
        now = await space.position()
        if known is None or known.position != now:
            known = await self._read(space, namespace, known, now)
        self._keep(namespace, known)
        return known

    async def _read(self, space: AsyncSpace, namespace: Path, known: View | None, now: int) -> View:
        prefix = scan_prefix(namespace)
        if known and known.items and 0 < now - known.position <= max(_NEAR, len(known.items)):
            try:
                entries = [each async for each in space.log(known.position, prefix)]
            except Pruned:
                pass
            else:
                return known.after(entries, now)
        records = (await space.scan(prefix)).values()
        oldest_first = sorted(records, key=lambda record: record.position)
        return View(namespace, self._index, now, oldest_first)

    def _keep(self, namespace: Path, view: View) -> None:
        """Keep a view, unless there is a newer one; of all, as many as there is room for."""
        if view.size > MOST_TEXT:
            return
        with self._lock:
            other = self._views.get(namespace)
            if other is None or other.position <= view.position:
                self._views[namespace] = view
            self._views.move_to_end(namespace)
            while sum(each.size for each in self._views.values()) > MOST_TEXT:
                self._views.popitem(last=False)
