"""A lease that asyncio code takes, whichever kind of space it was given."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable
from typing import TypeVar

from interlock import AsyncLease, AsyncSpace, Held, Json, Lease, Record, Space
from interlock.cancellation import finish, obtain

T = TypeVar("T")
_SHORTEST, _LONGEST = 0.005, 0.25  # seconds between two questions
_MOMENT = 0.1  # seconds in the store's queue


async def take(
    space: Space | AsyncSpace, key: str, ttl: float, wait: float | None
) -> Lease | AsyncLease:
    """Take the lease of `key`, waiting at most `wait` seconds for it (None: without limit).

    Raises Held, Fenced, Invalid.
    """
    if not isinstance(space, Space):
        return await space.lease(key, ttl, wait=wait).acquire()

    def acquire(moment: float) -> Lease:
        return space.lease(key, ttl, wait=moment).acquire()

    return await taken(space, acquire, Lease.release, wait)


async def taken(
    space: Space, take: Callable[[float], T], give_up: Callable[[T], object], wait: float | None
) -> T:
    """Return what `take(0)` does in a thread, asked again if it raises Held.

    Nobody waits in a worker thread: whoever has what is waited for needs those to go on.  Only who
    holds something waits there, for a moment each time: in the store's queue a cycle of waits, or
    a wait for oneself, is found.  What was taken after this was cancelled is given up.

    Raises Held once `wait` seconds have passed, Deadlock, and what `take` does.
    """

    async def give_back(got: T) -> None:
        await asyncio.to_thread(give_up, got)

    until = None if wait is None else time.monotonic() + wait
    pause = _SHORTEST
    while True:
        moment = _MOMENT if wait != 0 and space.session.holds() else 0
        try:
            context = contextvars.copy_context()
            running = asyncio.get_running_loop().run_in_executor(None, context.run, take, moment)
            found = await obtain(_awaited(running), give_back)
            _adopt(context)
            return found
        except Held:
            if until is not None and time.monotonic() >= until:
                raise
        if moment:
            continue
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)


async def _awaited(future: asyncio.Future[T]) -> T:
    return await future


def _adopt(context: contextvars.Context) -> None:
    """Make this task hold what a thread took for it: waiting for that is then refused."""
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)


async def write(lease: Lease | AsyncLease, value: Json) -> Record:
    """Write the key of a lease.  Raises Fenced if it was taken away, Invalid."""
    if isinstance(lease, Lease):
        return await finish(asyncio.to_thread(lease.write, value))
    return await lease.write(value)


async def give_up(lease: Lease | AsyncLease) -> None:
    """Give up a lease; one that was lost is none of ours."""
    if isinstance(lease, Lease):
        # To its end: cancelled before a thread is free, it would never be given up.
        await finish(asyncio.to_thread(lease.release))
    else:
        await lease.release()
