"""Calls of a space written once, and made with or without asyncio.

A framework asks for the same thing twice, as `put` and as `aput`.  An adapter writes it once, as a
generator that yields calls, and `run` or `run_async` makes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from interlock import AsyncSpace, Invalid, Space
from interlock.cancellation import finish


@dataclass(frozen=True)
class Call:
    """One method of the space, with its arguments; answers what the method returns."""

    name: str
    args: tuple[Any, ...]
    named: dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """Writes of one transaction, each the name of a method of `Tx` and its arguments."""

    writes: tuple[tuple[Any, ...], ...]
    op_id: str | None = None


Steps = Generator[Call | Commit, Any, Any]


def checked(space: object, adapter: str) -> Space | AsyncSpace:
    """Return the space that an adapter was given.  Raises Invalid where it is none.

    What was given is not shown: it may be a URL with a password.
    """
    if isinstance(space, Space | AsyncSpace):
        return space
    if hasattr(space, "__await__"):
        raise Invalid(
            f"{adapter} was given interlock.open_async(...) without await: await it first"
        )
    raise Invalid(
        f"{adapter} needs an open space, not {type(space).__name__}: "
        f"{adapter}(interlock.open(url)), or interlock.open_async(url) in an `async with` block"
    )


def call(name: str, *args: Any, **named: Any) -> Call:
    """Return the call of `space.name(*args, **named)`, to be yielded.

    Methods that return an iterator, such as `log` and `history`, answer a list.
    """
    return Call(name, args, named)


def commit(writes: Iterable[tuple[Any, ...]], op_id: str | None = None) -> Commit:
    """Return the commit of several writes, such as `("write", record, value)`, to be yielded."""
    return Commit(tuple(writes), op_id)


def run(space: Space | AsyncSpace, steps: Steps) -> Any:
    """Make the calls that `steps` yields, and return what it returns.

    Raises Invalid where `space` was opened with `interlock.open_async`.
    """
    if not isinstance(space, Space):
        raise Invalid(
            "a synchronous call needs a space opened with interlock.open; "
            "this one is from interlock.open_async: use the asynchronous methods"
        )
    return _drive(space, steps)


async def run_async(space: Space | AsyncSpace, steps: Steps) -> Any:
    """Make the calls that `steps` yields, and return what it returns.

    The calls of a space that was opened with `interlock.open` are made in a thread, which a
    cancelled caller waits for: what it writes is written when this returns.
    """
    if isinstance(space, Space):
        return await finish(asyncio.to_thread(_drive, space, steps))
    answer: Any = None
    send: Callable[[Any], Any] = steps.send
    while True:
        try:
            request = send(answer)
        except StopIteration as ended:
            return ended.value
        try:
            answer, send = await _made(space, request), steps.send
        except Exception as problem:
            answer, send = problem, steps.throw


def _drive(space: Space, steps: Steps) -> Any:
    answer: Any = None
    send: Callable[[Any], Any] = steps.send
    while True:
        try:
            request = send(answer)
        except StopIteration as ended:
            return ended.value
        try:
            answer, send = _make(space, request), steps.send
        except Exception as problem:
            answer, send = problem, steps.throw


def _make(space: Space, request: Call | Commit) -> Any:
    if isinstance(request, Call):
        answer = getattr(space, request.name)(*request.args, **request.named)
        return list(answer) if isinstance(answer, Iterator) else answer
    with space.transaction(op_id=request.op_id) as tx:
        for name, *args in request.writes:
            getattr(tx, name)(*args)
    return tx.committed


async def _made(space: AsyncSpace, request: Call | Commit) -> Any:
    if isinstance(request, Call):
        answer = getattr(space, request.name)(*request.args, **request.named)
        if hasattr(answer, "__aiter__"):
            return [item async for item in answer]
        return await answer
    async with space.transaction(op_id=request.op_id) as tx:
        for name, *args in request.writes:
            await getattr(tx, name)(*args)
    return tx.committed
