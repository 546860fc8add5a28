"""An event loop that thousands of tasks hold up for seconds: the server is not to blame."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import interlock

HELD_UP = 3600.0  # seconds, by the loop's clock


async def test_a_connect_outlasts_an_event_loop_that_is_held_up(redis_url: str) -> None:
    async with interlock.open_async(redis_url, space="held-up", agent="a") as space:
        assert not (await space.read("k")).exists  # the server has its scripts
        backend: Any = space.session.driver.backend
        await backend._loops_wire().close()
        with _held_up_while_it_connects() as connects:
            assert not (await space.read("k")).exists
        assert connects == [HELD_UP]


@contextmanager
def _held_up_while_it_connects() -> Iterator[list[float]]:
    """Let the loop's clock jump whenever a connection is being opened, as one long pass does."""
    loop: Any = asyncio.get_running_loop()
    time, connect = loop.time, loop.create_connection
    jumps: list[float] = []

    async def create_connection(*args: Any, **options: Any) -> Any:
        found = await connect(*args, **options)
        jumps.append(HELD_UP)
        for _ in range(4):
            await asyncio.sleep(0)  # timers that are due have their say
        return found

    loop.time, loop.create_connection = lambda: time() + sum(jumps), create_connection
    try:
        yield jumps
    finally:
        del loop.create_connection  # its clock goes on from here
