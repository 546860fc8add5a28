"""What sessions of Google ADK and Microsoft Agent Framework lose, call by call acknowledged.

The same story is told to theirs and to ours, which keep it all.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from agent_framework import AgentSession, InMemoryCheckpointStorage
from agent_framework import SessionStore as TheirSessionStore
from google.adk.errors import StaleSessionError
from google.adk.sessions import InMemorySessionService
from google.adk.sessions.sqlite_session_service import SqliteSessionService

import interlock
from interlock.adapters.adk import SessionService
from interlock.adapters.agent_framework import CheckpointStorage, SessionStore
from tests.adapters.adk_runs import (
    WHERE,
    WHO,
    Gate,
    ask,
    asked_for_confirmation,
    change,
    texts,
)
from tests.adapters.agent_framework_runs import workflow
from tests.processes.writers import Place

MANY = 5
STORES = ("sqlite", "postgres", "redis")


class Told(NamedTuple):
    """How many of the things that were to be kept are there, and how many callers were refused."""

    kept: int
    refused: int


async def adk_state(service: Any, key: str) -> Told:
    """Five add an item to a list of the state, which all of them have read before."""
    ids = ["s"] * MANY if ":" not in key else [f"s{n}" for n in range(MANY)]
    for id in dict.fromkeys(ids):
        await service.create_session(**WHO, session_id=id)
    name = key.replace(":", "_")
    sessions = [await service.get_session(**WHO, session_id=id) for id in ids]
    refused = 0
    for n, session in enumerate(sessions):
        try:
            await service.append_event(session, change(**{name: [n]}))
        except StaleSessionError:  # read again, decide again
            refused += 1
            fresh = await service.get_session(**WHO, session_id=ids[n])
            await service.append_event(fresh, change(**{name: [*fresh.state[key], n]}))
    found = await service.get_session(**WHO, session_id=ids[0])
    return Told(len(found.state[key]), refused)


async def adk_runs(service: Any) -> Told:
    """Five runs of one session are under way at once; count the answers that are kept."""
    await service.create_session(**WHERE)
    gates = [Gate() for _ in range(MANY)]
    runs = []
    for n, gate in enumerate(gates):
        runs.append(asyncio.create_task(ask(service, f"m{n}", gate)))
        if not n or not isinstance(service, SessionService):  # there it is the turn of the first
            await gate.asked.wait()
    for gate in gates:
        gate.may_answer.set()
    done = await asyncio.gather(*runs, return_exceptions=True)
    said = texts(await service.get_session(**WHERE))
    refused = sum(isinstance(each, StaleSessionError) for each in done)
    return Told(sum(text.startswith("to ") for text in said), refused)


async def agent_framework_sessions(store: Any) -> Told:
    """Five add a line to the state of a session, which all of them have read before."""
    first = AgentSession(session_id="s")
    first.state["lines"] = []
    await store.set("s", first)
    refused = 0
    for n, session in enumerate([await store.get("s") for _ in range(MANY)]):
        session.state["lines"].append(n)
        try:
            await store.set("s", session)
        except interlock.Conflict:
            refused += 1
            fresh = await store.get("s")
            fresh.state["lines"].append(n)
            await store.set("s", fresh)
    return Told(len((await store.get("s")).state["lines"]), refused)


async def agent_framework_resumes(storage: Any) -> Told:
    """An answer to a paused workflow is delivered twice; count how often it pays."""
    effects: list[str] = []
    await workflow(effects, storage).run("100")
    paused = await storage.get_latest(workflow_name="payment")
    answer = {"responses": {"pay": True}, "checkpoint_id": paused.checkpoint_id}

    async def deliver() -> None:
        await workflow(effects, storage).run(**answer)

    done = await asyncio.gather(deliver(), deliver(), return_exceptions=True)
    return Told(len(effects), sum(isinstance(each, interlock.Refused) for each in done))


async def test_adk_loses_state_that_others_changed_meanwhile(tmp_path: Path) -> None:
    assert await adk_state(InMemorySessionService(), "list") == Told(1, 0)
    shared = SqliteSessionService(str(tmp_path / "sessions.db"))
    assert await adk_state(shared, "user:list") == Told(1, 0)
    assert await adk_state(InMemorySessionService(), "app:list") == Told(1, 0)


async def test_adk_loses_answers_of_runs_that_others_overtake(tmp_path: Path) -> None:
    # Their models were asked.
    assert await adk_runs(SqliteSessionService(str(tmp_path / "sessions.db"))) == Told(1, 4)


async def test_adk_acts_twice_on_an_answer_that_is_delivered_twice() -> None:
    service, effects = InMemorySessionService(), list[str]()
    await service.create_session(**WHERE)
    deliver = await asked_for_confirmation(service, effects)
    await asyncio.gather(deliver(), deliver())
    assert effects == ["paid", "paid"]


@pytest.mark.parametrize(
    ("place", "key"),
    [("sqlite", "list"), ("sqlite", "app:list"), *((each, "user:list") for each in STORES)],
    indirect=["place"],
)
async def test_our_adk_sessions_keep_the_state(key: str, place: Place) -> None:
    async with interlock.open_async(place.url, space=place.space, agent="worker") as space:
        assert await adk_state(SessionService(space), key) == Told(MANY, MANY - 1)


@pytest.mark.parametrize("place", ["sqlite"], indirect=True)
async def test_our_adk_sessions_keep_the_answers(place: Place) -> None:
    async with interlock.open_async(place.url, space=place.space, agent="worker") as space:
        assert await adk_runs(SessionService(space)) == Told(MANY, 0)


async def test_agent_framework_loses_sessions_and_acts_twice() -> None:
    assert await agent_framework_sessions(TheirSessionStore()) == Told(1, 0)
    assert await agent_framework_resumes(InMemoryCheckpointStorage()) == Told(2, 0)


async def test_our_agent_framework_stores_keep_sessions_and_act_once(place: Place) -> None:
    async with interlock.open_async(place.url, space=place.space, agent="worker") as space:
        assert await agent_framework_sessions(SessionStore(space)) == Told(MANY, MANY - 1)
        assert await agent_framework_resumes(CheckpointStorage(space)) == Told(1, 1)
