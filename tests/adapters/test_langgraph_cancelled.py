"""A run on a thread that is cut off leaves the thread to the next one at once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import interlock
from interlock.adapters.langgraph import Saver
from tests.adapters.langgraph_graphs import said, talking
from tests.cancellation import every_await, nothing_left
from tests.processes.writers import Place

FACADES = ["async", "sync"]
Cut = Callable[[Awaitable[Any]], Awaitable[None]]


@asynccontextmanager
async def opened(facade: str, place: Place, agent: str) -> AsyncIterator[Any]:
    """A space as either façade opens it."""
    if facade == "async":
        async with interlock.open_async(place.url, space=place.space, agent=agent) as found:
            yield found
    else:
        with interlock.open(place.url, space=place.space, agent=agent) as found_sync:
            yield found_sync


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """Nothing may wait for the garbage collector."""
    gc.disable()
    yield
    gc.enable()


async def is_free(space: Any, thread: str) -> None:
    """Check that somebody else gets a thread at once."""
    async with Saver(space).run(thread, on_busy="reject"):
        pass


@pytest.mark.parametrize("facade", FACADES)
async def test_a_run_that_is_cancelled_at_any_await_frees_its_thread(
    facade: str, place: Place
) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:
        saver = Saver(space)

        async def run(thread: str) -> None:
            async with saver.run(thread, once="it", ttl=0.3):
                await asyncio.sleep(0)

        async for thread in every_await(run, "thread"):
            await is_free(other, thread)
        await nothing_left()


async def wait_for(running: Awaitable[Any]) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(running, 0.01)


async def timeout(running: Awaitable[Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
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


@pytest.mark.parametrize("facade", FACADES)
@pytest.mark.parametrize("cut", [wait_for, timeout, task_group])
async def test_a_graph_that_is_cut_off_frees_its_thread(
    facade: str, cut: Cut, place: Place
) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:
        thinks = asyncio.Event()

        async def think(_: str) -> None:
            thinks.set()
            await asyncio.Event().wait()

        saver = Saver(space)
        graph = talking(saver, think)

        async def call() -> None:
            async with saver.run("thread") as config:
                await graph.ainvoke(said("hello"), config)

        calling = asyncio.ensure_future(call())
        await thinks.wait()
        await cut(calling)
        await is_free(other, "thread")
        await is_free(space, "thread")
        await nothing_left()
