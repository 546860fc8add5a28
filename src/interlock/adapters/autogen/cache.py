"""A cache store whose `set` destroys nothing that its caller has not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from autogen_core import CacheStore
from pydantic import BaseModel

from interlock import Conflict, Invalid, Record, Space
from interlock.adapters import seen
from interlock.adapters.naming import quoted

T = TypeVar("T")


class SharedCacheStore(CacheStore[T]):
    """A cache store of AutoGen in a space from `interlock.open`.

    `set` writes over what this task or thread has read with `get`, or to a key that is not there;
    where others came first it raises Conflict, or, with `on_conflict="keep"`, leaves what they
    stored: for caches of answers, where any of them will do.  `update` reads, thinks and writes.

    Values are JSON; a pydantic model is stored as JSON, and `get` returns that.
    """

    def __init__(self, space: Space, name: str = "default", *, on_conflict: str = "raise") -> None:
        if not isinstance(space, Space):
            raise Invalid("a cache store is synchronous: it needs a space from interlock.open")
        if on_conflict not in ("raise", "keep"):
            raise Invalid(f"on_conflict={on_conflict!r} is neither 'raise' nor 'keep'")
        self._space = space
        self._prefix = f"autogen/cache/{quoted(name)}/"
        self._keeps = on_conflict == "keep"

    def get(self, key: str, default: T | None = None) -> T | None:
        """Return the value of `key`, or `default` where there is none."""
        where = self._where(key)
        record = self._space.read(where[1])
        seen.learn(where, record)
        return record.value if record.exists else default

    def set(self, key: str, value: T) -> None:
        """Store `value`.  Raises Conflict where this task has not read what is there, Invalid."""
        where = self._where(key)
        read: Record | None = seen.known(where)
        try:
            if read is None:
                written = self._space.create(where[1], _json(value))
            else:
                written = self._space.write(read, _json(value))
        except Conflict:
            if not self._keeps:
                raise
        else:
            seen.learn(where, written)

    def update(self, key: str, fn: Callable[[T | None], T]) -> T | None:
        """Store `fn(value)`, called again where others came first; None where there is no value.

        Raises as `Space.update` does.
        """
        where = self._where(key)
        record = self._space.update(where[1], lambda value: _json(fn(value)))
        seen.learn(where, record)
        stored: T = record.value
        return stored

    def _where(self, key: str) -> seen.Where:
        return self._space, f"{self._prefix}{quoted(key)}"


def _json(value: Any) -> Any:
    """Return a value with its pydantic models as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return [_json(each) for each in value] if isinstance(value, list) else value
