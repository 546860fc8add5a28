"""A guarded `get` and `set`, for whatever needs no more: settings, caches, notes, plug-ins.

The value of `name` is the key `kv/<store>/<name>`, in which both are quoted.  A `set` writes what
is not there yet, or over what its caller has read.  What was read is shown by the value itself:
the dict, list or text that `get` returned carries its version, through changes in place and copies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from interlock import AsyncSpace, Conflict, Invalid, Json, Record, Space
from interlock.adapters.home import Closing
from interlock.adapters.observed import Observed, ObservedDict, observed, with_advice
from interlock.adapters.space import one_of, quoted, run, run_async

__all__ = ["KeyValue"]

_NOT_NAMED: Any = object()
_NOTHING: Any = object()
_ADVICE = (
    "Set what get() returned, changed; name it (base=); or use update().  "
    "KeyValue(..., unread='overwrite') writes over what nobody read."
)


class KeyValue(Closing):
    """Values by name, in a space or at a URL, that no `set` destroys unread.

    `place`: a URL, which is opened (`space` and `agent` are those of `interlock.open`) until
    `close` or the end of a `with` block; or an open space.  `store` keeps stores in one space
    apart.  With `unread="overwrite"` a `set` or `delete` by somebody who has read nothing goes
    through.  With `merge=True` a dict is merged, field by field, with what others changed since it
    was read; only where both changed the same field is it refused.

    Each method has a twin for asyncio, `aget` and so on; those of a space from
    `interlock.open_async` are the only ones that it has.
    """

    def __init__(
        self,
        place: str | Space | AsyncSpace,
        store: str = "default",
        *,
        space: str = "default",
        agent: str | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
        merge: bool = False,
    ) -> None:
        one_of("unread", unread, "refuse", "overwrite")
        self._prefix = f"kv/{quoted(store)}/"
        self._overwrites = unread == "overwrite"
        self._open(place, space, agent)
        self._writes = GuardedWrites(self._calls, merge)

    def get(self, name: str, default: Json = None) -> Any:
        """Return the value of `name`, or `default` if there is none."""
        return run(self._space, self._get(name, default))

    async def aget(self, name: str, default: Json = None) -> Any:
        """Return the value of `name`, like `get`."""
        return await run_async(self._space, self._get(name, default))

    def set(
        self, name: str, value: Json, *, base: object = _NOT_NAMED, expires: float | None = None
    ) -> None:
        """Store a JSON value.  `base`: what `get` returned, if `value` doesn't carry its version.

        A number can't carry one: `kv.set("n", n + 1, base=n)`.  A base of None: nothing was there.
        `expires`: seconds after which the value does not exist any more.

        Raises Conflict if others came first, or the caller has not read what is there; Invalid.
        """
        run(self._space, self._set(name, value, base, expires))

    async def aset(
        self, name: str, value: Json, *, base: object = _NOT_NAMED, expires: float | None = None
    ) -> None:
        """Store a JSON value, like `set`."""
        await run_async(self._space, self._set(name, value, base, expires))

    def delete(self, name: str, *, base: object = _NOT_NAMED) -> bool:
        """Delete a value; return whether there was one.  `base`: what `get` returned.

        Raises Conflict if it has changed since, or was not read.
        """
        return run(self._space, self._delete(name, base))

    async def adelete(self, name: str, *, base: object = _NOT_NAMED) -> bool:
        """Delete a value, like `delete`."""
        return await run_async(self._space, self._delete(name, base))

    def update(
        self, name: str, fn: Callable[[Any], Any], default: Json = None, **options: Any
    ) -> Any:
        """Store `fn(value)`, called again if others came first, and return it.

        `fn` gets `default` if there is no value, and may return `interlock.DELETE`.  `options` are
        those of `Space.update`, such as `expires`.  Raises as that does.
        """
        return run(self._space, self._update(name, fn, default, options))

    async def aupdate(
        self, name: str, fn: Callable[[Any], Any], default: Json = None, **options: Any
    ) -> Any:
        """Store `fn(value)`, like `update`."""
        return await run_async(self._space, self._update(name, fn, default, options))

    async def _get(self, name: str, default: Json) -> Any:
        record = await self._calls.read(self._key(name))
        return carrying(record.value, Observed.of(record)) if record.exists else default

    async def _set(self, name: str, value: Json, base: object, expires: float | None) -> None:
        fresh = await self._calls.read(self._key(name))
        if self._overwrites and base is _NOT_NAMED and observed(value, fresh) is None:
            await self._calls.update(fresh.key, lambda _: value, expires=expires)
            return
        try:
            written = await self._writes.write(_basis(fresh, value, base), fresh, value, expires)
        except Conflict as conflict:
            raise with_advice(conflict, _ADVICE) from None
        if base is _NOT_NAMED and observed(value, fresh) is not None:
            value.observed = Observed.of(written)  # it may be changed and set again

    async def _delete(self, name: str, base: object) -> bool:
        fresh = await self._calls.read(self._key(name))
        while fresh.exists:
            blind = self._overwrites and base is _NOT_NAMED
            try:
                await self._calls.delete(fresh if blind else _basis(fresh, None, base))
                return True
            except Conflict as conflict:
                if not blind:
                    raise with_advice(conflict, _ADVICE) from None
                fresh = conflict.record
        return False

    async def _update(
        self, name: str, fn: Callable[[Any], Any], default: Json, options: dict[str, Any]
    ) -> Any:
        record = await self._calls.update(self._key(name), fn, default=default, **options)
        return carrying(record.value, Observed.of(record)) if record.exists else None

    def _key(self, name: str) -> str:
        return f"{self._prefix}{quoted(name)}"


class GuardedWrites:
    """Writes over what was read, of objects merged with what others changed since."""

    def __init__(self, space: AsyncSpace, merges: bool) -> None:
        self._space = space
        self._merges = merges

    async def write(
        self, basis: Record, fresh: Record, value: Json, expires: float | None
    ) -> Record:
        """Write over what was read, `basis`; `fresh` was read just now.

        `basis` of version 0 stands for what nobody read, or was not there; without a body it is
        read from the log.  Raises Conflict.
        """
        while True:
            over, changed, merges = basis, value, self._merges
            if merges and fresh.exists and fresh.version != basis.version:
                try:
                    over, changed = fresh, merged(await self._was(basis), value, fresh.value)
                except Clash:
                    merges = False
            try:
                return await self._space.write(over, changed, expires=expires)
            except Conflict as conflict:
                if not merges or not conflict.record.exists:
                    raise
                fresh = conflict.record  # others came first once more

    async def _was(self, basis: Record) -> Json:
        """Return what was read, {} if nothing was.  Raises Clash if the log has it no more."""
        if basis.body is not None:
            return json.loads(basis.body)
        if basis.version == 0 or not basis.exists:
            return {}
        async for entry in self._space.history(basis.key, newest_first=True):
            if entry.version == basis.version and not entry.erased:
                return entry.value
        raise Clash


def _basis(fresh: Record, value: object, base: object) -> Record:
    """Return the record that a caller has read: as `value`, or what it names as `base`, shows."""
    shown = value if base is _NOT_NAMED else base
    found = observed(shown, fresh)
    if found is not None:
        return found.record(fresh)._replace(body=None, exists=True)
    if base is not _NOT_NAMED and fresh.version == 0 and base is not None:
        raise Invalid("base= is nothing that get() returned for this name: it has no value.")
    if (shown == fresh.value) if base is not _NOT_NAMED else not fresh.exists:
        return fresh
    return unread_record(fresh)


def unread_record(fresh: Record) -> Record:
    """Return what somebody knows who has not read the record: a write over it conflicts."""
    return fresh._replace(value=None, version=0, epoch=0, body=None)


class Clash(Exception):
    """Both sides changed the same field."""


def merged(was: Any, mine: Any, theirs: Any) -> Any:
    """Return `theirs` with what was changed from `was` to `mine`, field by field.

    Raises Clash where both changed a field, to equal values, too: they may be two increments.
    """
    if mine == was:
        return theirs
    if theirs == was:
        return mine
    was = {} if was is _NOTHING else was
    if not all(isinstance(each, dict) for each in (was, mine, theirs)):
        raise Clash
    found = dict(theirs)
    for name in was.keys() | mine.keys():
        field = merged(*(each.get(name, _NOTHING) for each in (was, mine, theirs)))
        if field is _NOTHING:
            found.pop(name, None)
        else:
            found[name] = field
    return found


# Values that carry their version


class _List(list[Json]):
    """A JSON array that carries the version it was read at."""

    observed: Observed

    def copy(self) -> Any:
        """Return a shallow copy, read at the same version."""
        return carrying([*self], self.observed)

    __copy__ = copy

    def __reduce__(self) -> tuple[object, ...]:
        return carrying, ([*self], self.observed)


class _Text(str):
    """A text that carries the version it was read at."""

    observed: Observed

    def __reduce__(self) -> tuple[object, ...]:
        return carrying, (str(self), self.observed)


def carrying(value: Json, version: Observed) -> Any:
    """Return a value with the version that it was read at, if it can carry one."""
    if isinstance(value, dict):
        return ObservedDict(value, version)
    if not isinstance(value, list | str):
        return value
    made = _List(value) if isinstance(value, list) else _Text(value)
    made.observed = version
    return made
