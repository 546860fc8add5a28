"""A run on a thread that is cut off leaves the thread to the next one at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interlock.adapters.langgraph import Saver
from tests.adapters.cuts import CUTS, Cut
from tests.adapters.langgraph_graphs import said, talking
from tests.adapters.spaces import FACADES, opened
from tests.cancellation import every_await, nothing_left
from tests.processes.writers import Place

pytestmark = pytest.mark.usefixtures("no_collector")


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


@pytest.mark.parametrize("facade", FACADES)
@pytest.mark.parametrize("cut", CUTS)
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
