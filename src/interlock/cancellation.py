"""What a cancellation (asyncio) must not stop half way: requests, and giving back what is held.

`await finish(work)` where giving up in the middle would leave a lease, a turn or half an answer
behind.  Nothing here relies on the garbage collector: when a call returns, what it began has ended,
unless the store stays away for longer than a cancelled caller can wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

PATIENCE = 1.0  # seconds that a cancelled caller waits; what takes longer ends in the background

T = TypeVar("T")
_late: set[object] = set()  # futures: the event loop holds its tasks weakly


async def finish(work: Awaitable[T]) -> T:
    """Await `work` to its end.  Where the caller is cancelled meanwhile, once or more often, it is
    carried out all the same, and CancelledError is raised after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await outlast(task)
        raise


async def obtain(work: Awaitable[T], give_back: Callable[[T], Awaitable[object]]) -> T:
    """Await something that has to be given back.  Where the caller is cancelled meanwhile, it is
    given back as soon as it is there."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await outlast(asyncio.ensure_future(_given_back(task, give_back)))
        raise


async def stop(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end, whatever that is."""
    task.cancel()
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await outlast(task)
        raise
    _retrieve(task)


async def outlast(task: asyncio.Future[T]) -> None:
    """Wait for the end of a task in a caller that is cancelled, and may be cancelled again.

    What takes longer than `PATIENCE` goes on in the background.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE
    while not task.done() and (left := until - loop.time()) > 0:
        try:
            await asyncio.wait([task], timeout=left)
        except asyncio.CancelledError:
            continue  # the caller raises the one that it has
    if task.done():
        _retrieve(task)
    else:
        _late.add(task)
        task.add_done_callback(_retrieve)


async def _given_back(task: asyncio.Future[T], give_back: Callable[[T], Awaitable[object]]) -> None:
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        await give_back(task.result())


def _retrieve(task: asyncio.Future[T]) -> None:
    """Take note of how a task ended, so that asyncio does not complain that nobody did."""
    _late.discard(task)
    if not task.cancelled():
        task.exception()
