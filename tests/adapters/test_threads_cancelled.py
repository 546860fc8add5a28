"""Adapters with a space of `interlock.open` for asyncio code: their threads, cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import interlock
from interlock.adapters.space import awaitable, give_up, run_async


@pytest.fixture
def space(tmp_path: Path) -> Generator[interlock.Space, None, None]:
    with interlock.open(f"sqlite:///{tmp_path}/store.db") as opened:
        yield opened


async def test_a_lease_is_given_up_though_no_thread_was_free(space: interlock.Space) -> None:
    loop, busy = asyncio.get_running_loop(), threading.Event()
    lease = space.lease("k", wait=0).acquire()
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        waits = loop.run_in_executor(None, busy.wait)
        giving_up = asyncio.create_task(give_up(lease))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        giving_up.cancel()
        loop.call_later(0.05, busy.set)
        with pytest.raises(asyncio.CancelledError):
            await giving_up
        busy.set()
        await waits
    space.lease("k", wait=0).acquire().release()


async def test_what_a_thread_writes_is_written_when_its_cancelled_caller_returns(
    space: interlock.Space,
) -> None:
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    async def work(opened: interlock.AsyncSpace) -> None:
        await opened.read("k")
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(20)
        await opened.create("k", 1)

    writing = asyncio.create_task(run_async(space, work(awaitable(space))))
    await begun.wait()
    writing.cancel()
    later = loop.call_later(0.05, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await writing
    written = space.read("k").exists
    later.cancel()
    go_on.set()
    assert written
