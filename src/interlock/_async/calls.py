"""Sees that what an `async with` block began was awaited before the block ended.

A call without `await` does nothing, and Python only warns of it.  An object that is used in a block
marks the methods that matter with `@awaited`, and asks `unawaited` at the end of the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import cached_property, wraps
from typing import Any, TypeVar

from interlock.core.refusals import Invalid
from interlock.errors import raise_refused

T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Coroutine[object, None, object]])
_MOST = 16  # calls that are kept before those that were awaited are let go


class Calls:
    """What was called in a block, and may not have been awaited yet."""

    def __init__(self) -> None:
        self._begun: list[tuple[str, Coroutine[object, None, object]]] = []
        self._most = _MOST

    def add(self, name: str, call: Coroutine[object, None, T]) -> Coroutine[object, None, T]:
        """Take note of a call that is to be awaited, and return it."""
        self._begun.append((name, call))
        if len(self._begun) > self._most:
            self._begun = [each for each in self._begun if _is_untouched(each[1])]
            self._most = 2 * len(self._begun) + _MOST
        return call

    def unawaited(self) -> Invalid | None:
        """Return the refusal of the first call that was not awaited, None if all were.

        Such calls cannot be awaited any more.
        """
        names = []
        for name, call in self._begun:
            if _is_untouched(call):
                call.close()
                names.append(name)
        self._begun.clear()
        if not names:
            return None
        return Invalid(f"{names[0]}() was not awaited, so it did nothing. Write `await` before it.")


class AwaitsCalls:
    """An object whose block ends only after what was begun on it was awaited."""

    @cached_property
    def _calls(self) -> Calls:
        return Calls()


def awaited(method: M) -> M:
    """Mark a method whose calls are to be awaited before the block of its object (which has
    `_calls`) ends."""

    @wraps(method)
    def call(self: Any, /, *args: Any, **kwargs: Any) -> Coroutine[object, None, object]:
        begun: Coroutine[object, None, object] = self._calls.add(
            method.__name__, method(self, *args, **kwargs)
        )
        return begun

    return call  # type: ignore[return-value]  # it takes and returns what the method does


def unawaited_calls(*targets: AwaitsCalls) -> Invalid | None:
    """Return the refusal of the first call on any of them that was not awaited."""
    found = [target._calls.unawaited() for target in targets]
    return next(filter(None, found), None)


def raise_unawaited(kind: type[BaseException] | None, problem: BaseException | None) -> None:
    """Raise a problem if the block has raised nothing itself."""
    if kind is None and problem is not None:
        raise problem


def all_awaited(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a coroutine function that is given such an object so that it must await all, too."""
    if not inspect.iscoroutinefunction(fn):
        return fn

    @wraps(fn)
    async def call(target: Any) -> Any:
        answer = await fn(target)
        raise_refused(target._calls.unawaited())
        return answer

    return call


def _is_untouched(call: Coroutine[object, None, object]) -> bool:
    return inspect.getcoroutinestate(call) == inspect.CORO_CREATED
