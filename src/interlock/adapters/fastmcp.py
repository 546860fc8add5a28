"""FastMCP: session state that requests, servers and hosts may share, as an `AsyncKeyValue`.

`FastMCP("tools", session_state_store=KeyValueStore(url))` is all that changes.  The store is for
anything else that takes an `AsyncKeyValue` of py-key-value, too.  A value is the key
`fastmcp/<collection>/<key>`, both quoted, and hashed if they are long.

FastMCP stores a whole session as one value: `session.set` reads it, changes one entry and puts it
back.  So a put is merged, field by field, with what others changed since it was read.  Where both
changed the same field it is refused.  What counts as read is described at `_Reads`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, SupportsFloat
from weakref import WeakKeyDictionary

from interlock import AsyncSpace, Conflict, Invalid, Record, Space
from interlock.adapters.home import AsyncClosing
from interlock.adapters.kv import Clash, GuardedWrites, merged, unread_record
from interlock.adapters.observed import Observed, ObservedDict, observed, with_advice
from interlock.adapters.space import (
    as_written,
    commit,
    one_of,
    quoted,
    run_async,
)
from interlock.extras import needs

with needs("py-key-value", "fastmcp"):
    from key_value.aio.errors import InvalidTTLError, KeyValueOperationError, SerializationError

__all__ = ["KeyValueConflict", "KeyValueInvalid", "KeyValueStore"]

_SHORTEST = 0.001  # seconds that a value may last
_MOST_READS = 1000  # keys of one task that are remembered
_ADVICE = (
    "Get it, and put what you computed from that. "
    "KeyValueStore(..., unread='overwrite') writes over what nobody read."
)


class KeyValueConflict(Conflict, KeyValueOperationError):
    """Others changed what this was computed from, or its caller has not read it.  Read again."""


class KeyValueInvalid(Invalid, SerializationError):
    """A value that is not JSON."""


class KeyValueStore(AsyncClosing):
    """An `AsyncKeyValue` in a space, or at a URL: `FastMCP(..., session_state_store=...)`.

    `place`: a URL, which is opened (`space` and `agent` are those of `interlock.open`) until
    `close` or the end of an `async with` block; or an open space.  A `put` or `delete` must come
    from what its caller has read, or it raises KeyValueConflict; `unread="overwrite"` lets those
    through that have read nothing, as for caches and for py-key-value's own tests.  `ttl` is in
    seconds, by the store's clock.
    """

    def __init__(
        self,
        place: str | Space | AsyncSpace,
        *,
        space: str = "default",
        agent: str | None = None,
        default_collection: str = "default_collection",
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        one_of("unread", unread, "refuse", "overwrite")
        self._open(place, space, agent)
        self._writes = GuardedWrites(self._calls, merges=True)
        self._collection = default_collection
        self._overwrites = unread == "overwrite"
        self._reads = _Reads()

    async def get(self, key: str, *, collection: str | None = None) -> dict[str, Any] | None:
        """Return a value, None if there is none."""
        return (await self.get_many([key], collection=collection))[0]

    async def get_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[dict[str, Any] | None]:
        """Return the values of several keys, of one moment."""
        return [_value(record) for record in await self._read(keys, collection)]

    async def ttl(
        self, key: str, *, collection: str | None = None
    ) -> tuple[dict[str, Any] | None, float | None]:
        """Return a value and the seconds for which it lasts (None: for good)."""
        return (await self.ttl_many([key], collection=collection))[0]

    async def ttl_many(
        self, keys: Sequence[str], *, collection: str | None = None
    ) -> list[tuple[dict[str, Any] | None, float | None]]:
        """Return the values of several keys, and the seconds for which they last."""
        records = await self._read(keys, collection)
        if not any(record.exists and record.expires_us for record in records):
            return [(_value(record), None) for record in records]
        now = await run_async(self._space, self._calls.time())
        return [
            (_value(each), (each.expires_at - now).total_seconds() if each.expires_at else None)
            if each.exists
            else (None, None)
            for each in records
        ]

    async def put(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Store a value for `ttl` seconds (None: for good), merged with what others changed.

        Raises KeyValueConflict, KeyValueInvalid if it is not JSON, InvalidTTLError.
        """
        await self.put_many([key], [value], collection=collection, ttl=ttl)

    async def put_many(
        self,
        keys: Sequence[str],
        values: Sequence[Mapping[str, Any]],
        *,
        collection: str | None = None,
        ttl: SupportsFloat | None = None,
    ) -> None:
        """Store several values in one commit: all of them, or none.  Several are not merged.

        Raises as `put` does.
        """
        if len(keys) != len(values):
            raise ValueError("put_many needs a value for each key.")
        for key, value in zip(keys, values, strict=True):
            _check_json(key, value)
        places = [self._place(key, collection) for key in keys]
        known = {
            place: self._reads.deciding(place, value)
            for place, value in zip(places, values, strict=True)
        }
        with _translated():
            try:
                written = await run_async(self._space, self._put(known, _seconds(ttl)))
            except Conflict:
                self._reads.forget(places)
                raise
        for record, (seen, mine) in zip(written, known.values(), strict=True):
            self._reads.wrote(seen, record, mine)

    async def delete(self, key: str, *, collection: str | None = None) -> bool:
        """Delete a value; return whether there was one.  Raises KeyValueConflict."""
        return await self.delete_many([key], collection=collection) == 1

    async def delete_many(self, keys: Sequence[str], *, collection: str | None = None) -> int:
        """Delete several values in one commit; return how many there were.

        Raises KeyValueConflict if one of them changed since it was read, or was not read.
        """
        places = [self._place(key, collection) for key in keys]
        known = {place: self._reads.deciding(place, {})[0] for place in places}
        with _translated():
            try:
                return await run_async(self._space, self._delete(known))
            finally:
                self._reads.forget(places)

    async def _read(self, keys: Sequence[str], collection: str | None) -> list[Record]:
        places = [self._place(key, collection) for key in keys]
        found = await run_async(self._space, self._calls.read_many(places))
        for record in found.values():
            self._reads.read(record)
        return [found[place] for place in places]

    async def _put(
        self, known: dict[str, tuple[_Seen | None, dict[str, Any]]], lasts: float | None
    ) -> list[Record]:
        """Write each value over what its caller has read of its key; return the new records."""
        fresh = await self._calls.read_many(known)
        bases, blind = dict[str, Record](), set[str]()
        for place, (seen, value) in known.items():
            now = fresh[place]
            shown = observed(value, now)
            if shown is not None:
                bases[place] = shown.record(now)._replace(body=None, exists=True)
            elif seen is not None:
                bases[place] = seen.first
            elif self._overwrites or not now.exists or now.value == value:
                bases[place] = now
                blind.add(place)
            else:
                bases[place] = unread_record(now)
        if len(known) == 1 and not blind:
            return [await self._writes.write(bases[place], fresh[place], dict(value), lasts)]
        try:
            async with self._calls.transaction() as tx:
                for place, (_, value) in known.items():
                    await tx.write(bases[place], dict(value), expires=lasts)
        except Conflict as conflict:
            if conflict.key not in blind:
                raise
            return await self._put(known, lasts)
        assert tx.committed is not None  # a block that did not raise was committed
        return [
            as_written(bases[place], value, tx.committed) for place, (_, value) in known.items()
        ]

    async def _delete(self, known: dict[str, _Seen | None]) -> int:
        fresh = await self._calls.read_many(known)
        bases = dict[str, Record]()
        for now in fresh.values():
            seen = known[now.key]
            if now.exists:
                blind = now if self._overwrites and seen is None else unread_record(now)
                bases[now.key] = seen.first if seen and seen.first.exists else blind
        try:
            await commit(self._calls, [("delete", base) for base in bases.values()])
        except Conflict as conflict:
            if bases[conflict.key] is not fresh[conflict.key]:
                raise
            return await self._delete(known)
        return len(bases)

    def _place(self, key: str, collection: str | None) -> str:
        return f"fastmcp/{quoted(collection or self._collection, 160)}/{quoted(key)}"


def _value(record: Record) -> dict[str, Any] | None:
    """Return a value, which carries its version; its caller may change it."""
    return ObservedDict(record.value, Observed.of(record)) if record.exists else None


def _seconds(ttl: SupportsFloat | None) -> float | None:
    """Return the seconds of a TTL.  Raises InvalidTTLError."""
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, SupportsFloat) or not float(ttl) > 0:
        raise InvalidTTLError(ttl=ttl)
    return max(float(ttl), _SHORTEST)


def _check_json(key: str, value: Mapping[str, Any]) -> None:
    """Raise KeyValueInvalid for what FastMCP is to call not serializable: no size is that."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise KeyValueInvalid(f"The value of {key!r} is not JSON: {problem}.") from None


@contextmanager
def _translated() -> Iterator[None]:
    """Raise conflicts as exceptions of py-key-value."""
    try:
        yield
    except Conflict as conflict:
        raise KeyValueConflict(with_advice(conflict, _ADVICE).outcome) from None


# What requests have read


@dataclass
class _Seen:
    """What a task knows of a key: the record as it first was, and as it last was.

    `surely`: it has read it twice, or written it.  A single read may be no more than the one that
    FastMCP's `session.set` begins with.
    """

    first: Record
    last: Record
    surely: bool = False


class _Reads:
    """What tasks have read, and not yet written from.

    A put shows by its value what was read, if that is what `get` returned.  FastMCP makes a new
    value of it, so what its task first read decides: `session.get("n")` in a tool comes before the
    `session.set("n", n + 1)` that reads once more.  A task that has read nothing else has been
    given what others of its request have read, as by `asyncio.wait_for`: the oldest of that
    decides.  A put takes no more upon itself than what it changes: of other fields the task still
    knows what it first read.
    """

    def __init__(self) -> None:
        self._tasks: WeakKeyDictionary[Any, dict[str, _Seen]] = WeakKeyDictionary()
        self._requests: dict[int, dict[str, list[_Seen]]] = {}

    def read(self, record: Record) -> None:
        """Note that the current task was given a record."""
        seen = self._own().get(record.key)
        if seen is None or record.expired:  # of what has expired nothing can be destroyed
            self._know(record.key, _Seen(record, record))
        else:
            seen.last, seen.surely = record, True

    def deciding(self, key: str, value: Mapping[str, Any]) -> tuple[_Seen | None, dict[str, Any]]:
        """Return what a put of the current task comes from, None if it has read nothing, and the
        value that it would put if nobody had changed anything since."""
        own, others = self._own().get(key), self._others().get(key)
        seen = others[0] if others and not (own and own.surely) else own
        given = value if isinstance(value, dict) else dict(value)
        if seen is None or isinstance(value, ObservedDict):
            return seen, given
        first, last = _body(seen.first), _body((own or seen).last)
        with suppress(Clash):  # what it changed has changed since it was first read
            if given != last:
                return seen, merged(last, given, first)
        return seen, given  # refused, unless nothing has changed: it may set what others have set

    def wrote(self, seen: _Seen | None, written: Record, mine: dict[str, Any]) -> None:
        """Note what the current task has written, from what decided."""
        first = written
        if seen is None:
            seen = _Seen(written, written)
        elif written.version > seen.first.version + 1:  # merged: with what it has not read
            first = seen.first._replace(body=json.dumps(mine), exists=True)
        seen.first, seen.last, seen.surely = first, written, True
        self._know(written.key, seen)

    def forget(self, keys: Iterable[str]) -> None:
        """Forget what a refused put came from: whoever tries again reads again."""
        for key in keys:
            gone = self.deciding(key, {})[0], self._own().pop(key, None)
            others = self._others().get(key, [])
            others[:] = [each for each in others if all(each is not seen for seen in gone)]

    def _know(self, key: str, seen: _Seen) -> None:
        own, others = self._own(), self._others().setdefault(key, [])
        own[key] = seen
        if all(each is not seen for each in others):
            others.append(seen)
        while len(own) > _MOST_READS:
            del own[next(iter(own))]

    def _own(self) -> dict[str, _Seen]:
        """Return what the current task has read, by key."""
        return self._tasks.setdefault(asyncio.current_task(), {})

    def _others(self) -> dict[str, list[_Seen]]:
        """Return what the tasks of the current request have read, the oldest first."""
        module = sys.modules.get("fastmcp.server.dependencies")
        try:
            request = module.get_context() if module else None
        except RuntimeError:
            request = None
        if request is None:
            return {}
        if id(request) not in self._requests:
            weakref.finalize(request, self._requests.pop, id(request), None)
            self._requests[id(request)] = {}
        return self._requests[id(request)]


def _body(record: Record) -> dict[str, Any]:
    """Return the object that was read, whatever its reader has changed in it since."""
    return json.loads(record.body) if record.exists and record.body else {}
