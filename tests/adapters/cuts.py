"""Ways in which asyncio cuts off a call of a framework."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

Cut = Callable[[Awaitable[Any]], Awaitable[None]]


async def wait_for(running: Awaitable[Any]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(running, 0)


async def timeout(running: Awaitable[Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await running


async def task_group(running: Awaitable[Any]) -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        await running

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(run())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()


CUTS = [wait_for, timeout, task_group]


async def cut_in_this_task(running: Awaitable[Any], begun: asyncio.Event) -> None:
    """Await something here, and let a timeout strike once it has begun: the task goes on, as
    `asyncio.wait_for` leaves it from Python 3.12 on."""
    expire = asyncio.timeout(None)

    async def strike() -> None:
        await begun.wait()
        expire.reschedule(0)

    striking = asyncio.create_task(strike())
    with pytest.raises(TimeoutError):
        async with expire:
            await running
    await striking
