"""Cancels a coroutine at its first await, at its second, and so on, until it comes to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

from tests.repository import PACKAGE

# When a coroutine that waits is cancelled:
EARLY = "early"  # as soon as it waits
LATE = "late"  # when what it waited for is there, and it has not heard of it
AGAIN = "again"  # early, and again and again while it cleans up
TIMEOUT = "timeout"  # by asyncio.timeout
GROUP = "group"  # by asyncio.TaskGroup, because a sibling failed
WAYS = (EARLY, LATE, AGAIN, TIMEOUT, GROUP)

_STRIKES = 3  # of AGAIN
_LONGEST = 10.0  # seconds, after which a task that has not ended counts as left behind


class _Cut(Awaitable[Any]):
    """Awaits `work`; at its await number `at` something happens."""

    def __init__(self, work: Awaitable[Any], at: int, way: str, strike: Callable[[], object]):
        self._work = work
        self._at = at
        self._way = way
        self._strike = strike
        self.struck = False

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        problem: BaseException | None = None
        count = 0
        while True:
            try:
                waits_for = next(inner) if problem is None else inner.throw(problem)
            except StopIteration as end:
                return end.value
            problem = None
            now = self._at <= count < self._at + (_STRIKES if self._way == AGAIN else 1)
            self.struck = self.struck or now
            if now and self._way != LATE:
                self._strike()
            try:
                yield waits_for
            except BaseException as raised:
                problem = raised
            else:
                if now and self._way == LATE:
                    problem = asyncio.CancelledError()
            count += 1


async def cancelled_at(make: Callable[[], Awaitable[Any]], at: int, way: str) -> bool:
    """Run `make()` and cancel it at its await number `at`; return whether it came to that.

    It has to end with the cancellation, or well, where it was over before.
    """
    loop = asyncio.get_running_loop()
    tripped = loop.create_future()

    def strike() -> None:
        if way == TIMEOUT:
            limit.reschedule(loop.time())
        elif way == GROUP:
            if not tripped.done():
                tripped.set_result(None)
        else:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()

    cut = _Cut(make(), at, way, strike)

    async def run() -> None:
        await cut

    async def trip() -> None:
        await tripped
        if cut.struck:
            raise _SiblingError

    if way == TIMEOUT:
        try:
            async with asyncio.timeout(None) as limit:
                await cut
        except TimeoutError:
            assert limit.expired()
    elif way == GROUP:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(trip())
                await cut
                if not tripped.done():
                    tripped.set_result(None)
        except* _SiblingError:
            pass
    else:
        task = asyncio.create_task(run())
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        assert ended is None or isinstance(ended, asyncio.CancelledError), repr(ended)
    return cut.struck


async def every_await(
    make: Callable[[str], Awaitable[Any]], name: str, ways: tuple[str, ...] = WAYS
) -> AsyncIterator[str]:
    """Run `make(key)` once for each of its awaits and each way, cancelled there; yield the key.

    The coroutine of the last run of a way is not cancelled any more.
    """
    for way in ways:
        at = 0
        while True:
            key = f"{name}-{way}-{at}"
            struck = await cancelled_at(lambda key=key: make(key), at, way)  # type: ignore[misc]  # a lambda with a default
            yield key
            if not struck:
                break
            at += 1
        assert at > 0


async def nothing_left() -> None:
    """Check that no task of the library goes on."""
    left = {task for task in asyncio.all_tasks() if _is_ours(task)}
    if left:
        _, going_on = await asyncio.wait(left, timeout=_LONGEST)
        assert not going_on, going_on


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None) or getattr(task.get_coro(), "ag_code", None)
    return code is not None and Path(code.co_filename).is_relative_to(PACKAGE)


class _SiblingError(Exception):
    pass
