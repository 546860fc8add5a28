"""Refuses calls to the space from inside the function that decides a write, on the same key.

Such a call could only see, or make, a state that the surrounding commit then refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from interlock.errors import Invalid

_thinking: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("interlock_thinking", default=())


@contextmanager
def thinking_about(space: str, key: str) -> Iterator[None]:
    """Mark `key` as being decided in this context."""
    token = _thinking.set((*_thinking.get(), (space, key)))
    try:
        yield
    finally:
        _thinking.reset(token)


def marked(space: str, key: str, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return `fn` so that it runs with `key` marked."""

    def think(value: Any) -> Any:
        with thinking_about(space, key):
            return fn(value)

    return think


def marked_async(space: str, key: str, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same for a coroutine function."""

    async def think(value: Any) -> Any:
        with thinking_about(space, key):
            return await fn(value)

    return think


def check(space: str, keys: Iterable[object]) -> None:
    """Raise Invalid where one of `keys` is being decided in this context."""
    busy = _thinking.get()
    for key in keys if busy else ():
        if (space, key) in busy:
            raise Invalid(
                f"{key!r} is being updated by the function that makes this call; "
                "use the value it was given and return the new one"
            )
