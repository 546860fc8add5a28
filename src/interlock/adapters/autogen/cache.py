"""A cache store whose `set` destroys nothing that its caller has not read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Self, TypeVar

from autogen_core import CacheStore
from pydantic import BaseModel

from interlock import Conflict, Invalid, Json, Record, Space
from interlock.adapters.names import quoted
from interlock.adapters.observed import Observed, ObservedDict, observed
from interlock.adapters.space import one_of, synchronous

T = TypeVar("T")
_NOT_NAMED = object()


class SharedCacheStore(CacheStore[T]):
    """A cache store of AutoGen in a space from `interlock.open`.

    `set` writes if nothing is there, or over what its caller has read: the dict, list or text that
    `get` returned carries its version, so pass that back, changed or not, or name it:
    `set(key, value, base=found)`.  `update` reads, thinks and writes.  Otherwise `set` raises
    Conflict.  With `on_conflict="keep"` it leaves what others stored: for caches of answers, when
    any of them will do.  With `unread="overwrite"` what nobody read is written over.

    Values are JSON; a pydantic model is stored as JSON, and `get` returns that.
    """

    def __init__(
        self,
        space: Space,
        name: str = "default",
        *,
        on_conflict: Literal["raise", "keep"] = "raise",
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        one_of("on_conflict", on_conflict, "raise", "keep")
        one_of("unread", unread, "refuse", "overwrite")
        self._space = synchronous(space, "SharedCacheStore")
        self._prefix = f"autogen/cache/{quoted(name)}/"
        self._keeps = on_conflict == "keep"
        self._overwrites = unread == "overwrite"

    def get(self, key: str, default: T | None = None) -> T | None:
        """Return the value of `key`, or `default` if there is none."""
        record = self._space.read(self._key(key))
        return _carrying(record) if record.exists else default

    def set(self, key: str, value: T, *, base: object = _NOT_NAMED) -> None:
        """Store `value`.  `base` is what `get` returned, if `value` does not carry its version;
        None: nothing was there.

        Raises Conflict if others came first or the caller has not read what is there, Invalid.
        """
        try:
            self._set(self._space.read(self._key(key)), value, base)
        except Conflict:
            if not self._keeps:
                raise

    def update(self, key: str, fn: Callable[[T | None], T]) -> T | None:
        """Store `fn(value)`, called again if others came first; None if there is no value.

        Raises as `Space.update` does.
        """
        stored: T = _carrying(self._space.update(self._key(key), lambda value: _json(fn(value))))
        return stored

    def _set(self, fresh: Record, value: Any, base: object) -> None:
        basis = observed(value if base is _NOT_NAMED else base, fresh)
        if basis is not None:
            written = self._space.write(basis.record(fresh), _json(value))
            if base is _NOT_NAMED:
                value.observed = Observed.of(written)  # it may be changed and set again
        elif base not in (_NOT_NAMED, None):
            raise Invalid("base= is not a dict, list or text that get() returned for this key")
        elif self._overwrites and base is _NOT_NAMED:
            self._space.update(fresh.key, lambda _: _json(value))
        else:
            self._space.create(fresh.key, _json(value))

    def _key(self, key: str) -> str:
        return f"{self._prefix}{quoted(key)}"


class _List(list[Json]):
    """A JSON array that carries the version it was read at."""

    def __init__(self, items: Iterable[Json], observed: Observed) -> None:
        super().__init__(items)
        self.observed = observed

    def copy(self) -> Self:
        """Return a shallow copy, read at the same version."""
        return type(self)(self, self.observed)

    __copy__ = copy

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ([*self], self.observed)


class _Text(str):
    """A text that carries the version it was read at."""

    observed: Observed

    def __reduce__(self) -> tuple[object, ...]:
        return _text, (str(self), self.observed)


def _text(text: str, observed: Observed) -> _Text:
    made = _Text(text)
    made.observed = observed
    return made


def _carrying(record: Record) -> Json:
    """Return the value of a record, with its version if it can carry one."""
    value, version = record.value, Observed.of(record)
    if isinstance(value, dict):
        return ObservedDict(value, version)
    if isinstance(value, list):
        return _List(value, version)
    return _text(value, version) if isinstance(value, str) else value


def _json(value: object) -> Json:
    """Return a value with its pydantic models as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_json(each) for each in value] if isinstance(value, list) else value
