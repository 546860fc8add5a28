"""A run of OpenAI Agents that is cut off leaves the session to the next one at once."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from agents import Agent, Runner
from agents.run import AgentRunner

import interlock
from interlock.adapters.openai_agents import Session
from tests.adapters.cuts import CUTS, Cut
from tests.adapters.openai_runs import QUIET, GatedModel, agent, ask
from tests.adapters.spaces import FACADES, opened
from tests.cancellation import every_await, nothing_left
from tests.processes.writers import Place


async def is_free(space: Any, id: str) -> None:
    """Check that a run of somebody else gets a session at once."""
    assert await asyncio.create_task(ask(Session(space, id, wait=0), "next")) == "to next"


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("facade", FACADES)
@pytest.mark.parametrize("cut", CUTS)
async def test_a_run_that_is_cut_off_frees_the_session(facade: str, cut: Cut, place: Place) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:
        model = GatedModel([])
        running = asyncio.ensure_future(
            ask(Session(space, "s"), "hangs", Agent(name="a", model=model))
        )
        await model.asked.wait()
        await cut(running)
        await is_free(other, "s")
        await is_free(space, "s")


@pytest.mark.usefixtures("no_collector")
async def test_a_timeout_in_a_task_that_goes_on_frees_the_session(place: Place) -> None:
    async with opened("async", place, "us") as space, opened("async", place, "other") as other:
        model = GatedModel([])
        expire = asyncio.timeout(None)

        async def strike() -> None:
            await model.asked.wait()
            expire.reschedule(0)

        striking = asyncio.create_task(strike())
        problem = None
        try:
            async with expire:
                await ask(Session(space, "s"), "hangs", Agent(name="a", model=model))
        except TimeoutError as raised:
            problem = raised  # with the frames of the run
        await striking
        await is_free(other, "s")
        assert problem is not None


# A cancellation leaves a coroutine of the framework's own that it never awaits.
@pytest.mark.filterwarnings(
    "ignore:coroutine 'run_single_turn' was never awaited",
    "ignore:.*run_single_turn:pytest.PytestUnraisableExceptionWarning",
)
@pytest.mark.parametrize(
    ("kind", "place", "facade"),
    [
        *((kind, "sqlite", "async") for kind in ("run", "streamed", "turn")),
        *(("run", "sqlite", "sync"), ("streamed", "postgres", "async"), ("run", "redis", "async")),
    ],
    indirect=["place"],
)
async def test_a_run_cancelled_at_any_await_frees_the_session(
    kind: str, facade: str, place: Place
) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:

        async def run(id: str) -> None:
            session = Session(space, id)
            if kind == "run":
                await ask(session, "q")
            elif kind == "streamed":
                result = Runner.run_streamed(agent(), "q", session=session, run_config=QUIET)
                async for _ in result.stream_events():
                    pass
            else:
                async with session.turn():
                    await session.add_items(await session.get_items())

        async for id in every_await(run, kind):
            await is_free(space, id)
            await is_free(other, id)
        await nothing_left()
    gc.collect()  # here, and not in a later test


async def test_a_run_of_another_runner_keeps_the_session_only_while_it_calls(place: Place) -> None:
    async with opened("async", place, "us") as space, opened("async", place, "other") as other:
        model = GatedModel([])
        running = asyncio.create_task(
            AgentRunner().run(
                Agent(name="a", model=model),
                "hangs",
                session=Session(space, "s", ttl=0.2),
                run_config=QUIET,
            )
        )
        await model.asked.wait()
        with pytest.raises(interlock.Held):
            await asyncio.create_task(ask(Session(other, "s"), "too early"))
        assert await asyncio.create_task(ask(Session(other, "s", wait=9), "q")) == "to q"
        running.cancel()
        await asyncio.wait([running])
