"""Refuses calls to the space from inside the function that decides a write, on the same key.

Such a call could only see, or make, a state that the surrounding commit then refuses; where that
has its turn, the call would wait for a turn that only its own return gives up.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from interlock.backends import holding
from interlock.core.transaction import Transaction
from interlock.errors import Invalid


class Thought:
    """A function that decides a write: of the key of an update, or in a transaction."""

    def __init__(self, space: str, key: str = "") -> None:
        self.space = space
        self.key = key
        self.state: Transaction | None = None

    def decides(self, key: object) -> bool:
        """Whether its commit will be computed from `key`, or write it."""
        return key == self.key if self.state is None else self.state.touches(key)

    def begin(self, state: Transaction, tx: Any) -> Any:
        """Go by a transaction that begins, and return what the function is given of it."""
        self.state = state
        return tx

    def marked(self, fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `fn` so that calls from inside it are known as such."""

        async def finish(result: Any) -> Any:
            with _inside(self):
                return await result

        async def think_async(value: Any) -> Any:
            with _inside(self):
                return await fn(value)

        def think(value: Any) -> Any:
            with _inside(self):
                result = fn(value)
            return finish(result) if inspect.isawaitable(result) else result

        return think_async if inspect.iscoroutinefunction(fn) else think


class _Mark:
    """One call of a function.  A task that it began and left behind is not inside it any more."""

    def __init__(self, thought: Thought) -> None:
        self.thought = thought
        self.over = False


_marks: ContextVar[tuple[_Mark, ...]] = ContextVar("interlock_thinking", default=())


@contextmanager
def _inside(thought: Thought) -> Iterator[None]:
    mark = _Mark(thought)
    token = _marks.set((*_marks.get(), mark))
    try:
        yield
    finally:
        mark.over = True
        _marks.reset(token)


def check(space: str, keys: Iterable[object]) -> None:
    """Raise Invalid where one of `keys` is being updated in this context."""
    for thought in _thoughts(space):
        if thought.state is None:
            _refuse(thought, keys, "updated", "use the value it was given and return the new one")


def check_write(space: str, keys: Iterable[object], own: Transaction | None = None) -> None:
    """The same for calls that write or wait, and for keys that a transaction around them (other
    than `own`) has touched."""
    keys = tuple(keys)
    check(space, keys)
    for thought in _thoughts(space):
        around = thought.state
        if around is None or around is own:
            continue
        if own is None or not own.recorded or not around.recorded or around.turns & {*keys}:
            _refuse(thought, keys, "decided in a transaction", "write it through that transaction")


def holds(space: str) -> bool:
    """Whether this context holds a lease or a turn, so that others may wait for it."""
    return holding.holds(space)


def _thoughts(space: str) -> list[Thought]:
    marks = _marks.get()
    return [mark.thought for mark in marks if not mark.over and mark.thought.space == space]


def _refuse(thought: Thought, keys: Iterable[object], doing: str, advice: str) -> None:
    for key in keys:
        if thought.decides(key):
            raise Invalid(
                f"{key!r} is being {doing} by the function that makes this call; {advice}"
            )
