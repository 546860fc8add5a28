"""Microsoft Agent Framework: sessions, history and checkpoints that several hosts share."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_framework import (
    AgentSession,
    FunctionalWorkflow,
    Message,
    RunContext,
    WorkflowCheckpoint,
    WorkflowCheckpointException,
)
from agent_framework import HistoryProvider as TheirHistoryProvider
from agent_framework import SessionStore as TheirSessionStore
from agent_framework import workflow as functional
from agent_framework.exceptions import AgentException

import interlock
from interlock.adapters.agent_framework import (
    CheckpointHeld,
    CheckpointResumed,
    CheckpointStorage,
    HistoryProvider,
    RunReplaced,
    SessionConflict,
    SessionStore,
)
from interlock.adapters.space import awaitable
from tests.adapters.agent_framework_runs import Gate, ask, workflow
from tests.adapters.cuts import CUTS, Cut, cut_in_this_task
from tests.adapters.spaces import FACADES, opened
from tests.processes.writers import Place

ONLY_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)

# Sessions


@ONLY_SQLITE
async def test_a_session_is_stored_read_and_deleted(space: Any) -> None:
    store = SessionStore(space)
    assert isinstance(store, TheirSessionStore)
    assert await store.get("a/b ü") is None
    session = AgentSession(session_id="inner", service_session_id="service")
    session.state = {"n": 1, "said": Message("user", ["hi"])}
    await store.set("a/b ü", session)
    found = await store.get("a/b ü")
    assert found is not None
    assert found is not session
    assert (found.session_id, found.service_session_id) == ("inner", "service")
    assert found.state["said"].text == "hi"
    session.state["n"] = 2
    await store.set("a/b ü", session)  # it may go on from what it has stored
    await store.delete("a/b ü")
    await store.delete("a/b ü")
    assert await store.get("a/b ü") is None
    with pytest.raises(ValueError, match="non-empty"):
        await store.get("")


async def test_a_session_that_others_stored_is_not_overwritten(space: Any) -> None:
    store = SessionStore(space)
    await store.set("s", AgentSession(session_id="s"))
    first, second = await store.get("s"), await asyncio.wait_for(store.get("s"), 10)
    assert first is not None
    assert second is not None
    first.state["first"] = True
    await store.set("s", copy.deepcopy(first))
    second.state["second"] = True
    for stale in (second, AgentSession(session_id="s"), AgentSession.from_dict(first.to_dict())):
        with pytest.raises(SessionConflict, match="'s' has moved") as refused:
            await store.set("s", stale)
        assert isinstance(refused.value, interlock.Conflict)
        assert isinstance(refused.value, AgentException)
    await store.delete("s")
    with pytest.raises(SessionConflict):
        await store.set("s", first)
    assert await store.get("s") is None


@ONLY_SQLITE
async def test_five_runs_in_turns_of_one_session_are_kept(space: Any, place: Place) -> None:
    async def run(store: SessionStore, text: str) -> None:
        async with store.turn("s") as session:
            assert await ask(session, text) == f"to {text}"

    async with opened("sync", place, "other") as also:
        stores = [SessionStore(space), SessionStore(also)]
        await asyncio.gather(*(run(stores[n % 2], f"m{n}") for n in range(5)))
        session = await stores[0].get("s")
        assert session is not None
        said = [message.text for message in session.state["in_memory"]["messages"]]
        assert sorted(said[::2]) == ["m0", "m1", "m2", "m3", "m4"]
        assert said[1::2] == [f"to {text}" for text in said[::2]]


@ONLY_SQLITE
async def test_a_turn_that_fails_stores_nothing_and_one_taken_away_is_fenced(space: Any) -> None:
    store = SessionStore(space, wait=0)
    with pytest.raises(ZeroDivisionError):
        async with store.turn("s") as session:
            session.state["n"] = 1 / 0
    assert await store.get("s") is None
    with pytest.raises(interlock.Fenced):
        async with store.turn("s") as session:
            await awaitable(space).reclaim("agent-framework/sessions/s")
    assert await store.get("s") is None


# History


async def test_five_runs_at_once_keep_their_messages_together(space: Any, place: Place) -> None:
    async with opened("sync", place, "other") as also:
        providers = [HistoryProvider(space), HistoryProvider(also)]
        assert isinstance(providers[0], TheirHistoryProvider)

        async def run(n: int) -> None:
            session = AgentSession(session_id="s")
            assert await ask(session, f"m{n}", [providers[n % 2]]) == f"to m{n}"

        await asyncio.gather(*(run(n) for n in range(5)))
        said = [message.text for message in await providers[0].get_messages("s")]
        assert sorted(said[::2]) == ["m0", "m1", "m2", "m3", "m4"]
        assert said[1::2] == [f"to {text}" for text in said[::2]]
        assert await ask(AgentSession(session_id="s"), "next", [providers[1]]) == "to next"
        assert len(await providers[0].get_messages("s")) == 12
        assert await providers[0].get_messages(None) == []
        assert await HistoryProvider(space, "audit").get_messages("s") == []


@ONLY_SQLITE
async def test_messages_that_are_delivered_again_are_stored_once(space: Any) -> None:
    provider = HistoryProvider(space)
    named = [Message("user", ["hi"], message_id="1"), Message("assistant", ["ho"], message_id="2")]
    await asyncio.gather(*(provider.save_messages("s", named) for _ in range(3)))
    await provider.save_messages("s", [])
    assert [each.text for each in await provider.get_messages("s")] == ["hi", "ho"]
    await provider.save_messages("s", [*named, Message("user", ["bye"])])
    assert [each.text for each in await provider.get_messages("s")] == ["hi", "ho", "bye"]


@ONLY_SQLITE
async def test_who_says_the_same_twice_has_said_it_twice(space: Any) -> None:
    provider = HistoryProvider(space)
    for _ in range(2):
        await provider.save_messages("s", [Message("user", ["yes"]), Message("assistant", ["ok"])])
    assert [each.text for each in await provider.get_messages("s")] == ["yes", "ok", "yes", "ok"]


# Checkpoints


async def paused(storage: Any) -> str:
    """Run until the workflow asks; return the checkpoint to resume."""
    await workflow([], storage).run("100")
    latest = await storage.get_latest(workflow_name="payment")
    return str(latest.checkpoint_id)


def resuming(storage: Any, effects: list[str], id: str, gate: Any = None) -> Awaitable[Any]:
    """Answer what a checkpoint asks, in a workflow of one's own."""
    by = workflow(effects, storage, gate)
    running: Awaitable[Any] = by.run(responses={"pay": True}, checkpoint_id=id)
    return running


@ONLY_SQLITE
async def test_checkpoints_are_stored_listed_and_deleted(space: Any) -> None:
    storage = CheckpointStorage(space)
    made = [WorkflowCheckpoint("w/1", "hash", timestamp=f"2026-01-0{day}") for day in (1, 3, 2)]
    made[0].state = {"set": {1, 2}, "$": [(1,)]}
    for checkpoint in made:
        assert await storage.save(checkpoint) == checkpoint.checkpoint_id
    await storage.save(WorkflowCheckpoint("w", "hash"))
    assert await storage.list_checkpoints(workflow_name="w/1") == made
    ids = [checkpoint.checkpoint_id for checkpoint in made]
    assert await storage.list_checkpoint_ids(workflow_name="w/1") == ids
    assert await storage.get_latest(workflow_name="w/1") == made[1]
    assert await storage.load(ids[0]) == made[0]
    assert await storage.delete(ids[1]) is True
    assert await storage.delete(ids[1]) is False
    assert await storage.get_latest(workflow_name="w/1") == made[2]
    assert await storage.get_latest(workflow_name="none") is None
    for id in (ids[1], "none"):
        with pytest.raises(WorkflowCheckpointException, match="No checkpoint has the ID"):
            await storage.load(id)


async def test_a_checkpoint_resumed_twice_acts_once(space: Any, place: Place) -> None:
    async with opened("sync", place, "other") as also:
        storages = [CheckpointStorage(space), CheckpointStorage(also)]
        effects: list[str] = []
        id = await paused(storages[0])
        deliveries = [asyncio.ensure_future(resuming(each, effects, id)) for each in storages]
        done = await asyncio.gather(*deliveries, return_exceptions=True)
        assert effects == ["pay"]
        (refused,) = [each for each in done if isinstance(each, BaseException)]
        assert isinstance(refused, CheckpointHeld | CheckpointResumed)
        assert isinstance(refused, WorkflowCheckpointException)
        with pytest.raises(CheckpointResumed, match=r"follows\. Resume that one") as again:
            await resuming(storages[1], effects, id)
        assert not again.value.retryable
        assert effects == ["pay"]
        await storages[0].reopen(id)
        await resuming(storages[1], effects, id)
        assert effects == ["pay", "pay"]


@ONLY_SQLITE
async def test_a_checkpoint_is_held_while_its_effects_happen(space: Any, place: Place) -> None:
    storage, gate = CheckpointStorage(space), Gate()
    effects: list[str] = []
    id = await underway(storage)
    running = asyncio.ensure_future(workflow(effects, storage, gate).run(checkpoint_id=id))
    await gate.asked.wait()
    async with opened("async", place, "other") as also:
        again = workflow(effects, CheckpointStorage(also))
        with pytest.raises(CheckpointHeld, match="'app' is resuming"):
            await again.run(checkpoint_id=id)
    gate.may_answer.set()
    await running
    assert effects == ["pay"]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("facade", FACADES)
@pytest.mark.usefixtures("no_collector")
@ONLY_SQLITE
async def test_a_run_that_is_cut_off_frees_its_checkpoint(
    facade: str, cut: Cut, place: Place
) -> None:
    async with opened(facade, place, "us") as space, opened(facade, place, "other") as other:
        storage, gate = CheckpointStorage(space), Gate()
        effects: list[str] = []
        id = await underway(storage)
        running = asyncio.ensure_future(workflow(effects, storage, gate).run(checkpoint_id=id))
        await gate.asked.wait()
        await cut(running)
        await workflow(effects, CheckpointStorage(other)).run(checkpoint_id=id)
        assert effects == ["pay"]


async def underway(storage: CheckpointStorage) -> str:
    """Return a checkpoint whose answer is there, and whose payment is still to be made."""
    id = await paused(storage)

    async def die() -> None:
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        await resuming(storage, [], id, die)
    ids = await storage.list_checkpoint_ids(workflow_name="payment")
    return ids[-1]


@ONLY_SQLITE
async def test_a_timeout_in_a_task_that_goes_on_frees_the_checkpoint(
    space: Any, place: Place
) -> None:
    storage, gate = CheckpointStorage(space), Gate()
    effects: list[str] = []
    id = await underway(storage)
    running = workflow(effects, storage, gate).run(checkpoint_id=id)
    await cut_in_this_task(running, gate.asked)
    async with opened("async", place, "other") as other:
        await workflow(effects, CheckpointStorage(other)).run(checkpoint_id=id)
    stream = workflow([], storage).run(checkpoint_id=id, stream=True)
    with pytest.raises(CheckpointResumed):
        await stream.get_final_response()
    assert effects == ["pay"]


@ONLY_SQLITE
async def test_a_run_whose_checkpoint_others_resumed_is_stopped(space: Any, place: Place) -> None:
    storage, gate = CheckpointStorage(space), Gate()
    effects: list[str] = []
    id = await underway(storage)
    zombie = asyncio.ensure_future(workflow(effects, storage, gate).run(checkpoint_id=id))
    await gate.asked.wait()
    async with opened("async", place, "supervisor") as other:
        await other.reclaim(f"agent-framework/resumes/{id}")
        await workflow(effects, CheckpointStorage(other)).run(checkpoint_id=id)
    ids = await storage.list_checkpoint_ids(workflow_name="payment")
    gate.may_answer.set()
    done = (await asyncio.gather(zombie, return_exceptions=True))[0]
    assert isinstance(done, asyncio.CancelledError)
    assert await storage.list_checkpoint_ids(workflow_name="payment") == ids


@ONLY_SQLITE
async def test_a_streamed_run_resumes_once_and_frees_its_checkpoint(
    space: Any, place: Place
) -> None:
    storage, gate = CheckpointStorage(space), Gate()
    effects: list[str] = []
    id = await underway(storage)
    async with opened("async", place, "other") as other:

        async def stream() -> None:
            by = workflow(effects, storage, gate)
            async for _ in by.run(checkpoint_id=id, stream=True):
                await storage.load(id)  # to look is not to resume

        running = asyncio.create_task(stream())
        await gate.asked.wait()
        with pytest.raises(CheckpointHeld):
            await workflow(effects, CheckpointStorage(other)).run(checkpoint_id=id)
        gate.may_answer.set()
        await running
        with pytest.raises(CheckpointResumed):
            await workflow(effects, storage).run(checkpoint_id=id, stream=True).get_final_response()
        assert effects == ["pay"]


@ONLY_SQLITE
async def test_a_stream_that_nobody_reads_on_frees_its_checkpoint_with_its_task(
    space: Any,
) -> None:
    storage = CheckpointStorage(space)
    effects: list[str] = []
    streams: list[Any] = []
    id = await underway(storage)

    async def begin() -> None:
        stream = workflow([], storage).run(checkpoint_id=id, stream=True)
        streams.append(stream)
        async for event in stream:
            if event.type == "superstep_started":
                break

    await asyncio.create_task(begin())
    while not effects:
        try:
            await workflow(effects, storage).run(checkpoint_id=id)
        except CheckpointHeld:
            await asyncio.sleep(0)
    assert effects == ["pay"]


@pytest.mark.filterwarnings("ignore:.*is experimental:FutureWarning")
@ONLY_SQLITE
async def test_a_functional_workflow_resumes_once(space: Any) -> None:
    storage = CheckpointStorage(space)
    effects: list[str] = []

    async def refund(amount: str, run: RunContext) -> str:
        if await run.request_info(amount, bool, request_id="ok"):
            effects.append(amount)
        return "paid"

    def built() -> FunctionalWorkflow:
        return functional(name="refund")(refund).build(checkpoint_storage=storage)

    await built().run("42 EUR")
    latest = await storage.get_latest(workflow_name="refund")
    assert latest is not None
    answer: dict[str, Any] = {"responses": {"ok": True}, "checkpoint_id": latest.checkpoint_id}
    done = await asyncio.gather(
        built().run(**answer), built().run(**answer), return_exceptions=True
    )
    assert effects == ["42 EUR"]
    assert [isinstance(each, WorkflowCheckpointException) for each in done] == [False, True]


@ONLY_SQLITE
async def test_save_says_that_the_run_was_replaced(space: Any, place: Place) -> None:
    storage = CheckpointStorage(space)
    first = WorkflowCheckpoint("w", "hash")
    await storage.save(first)
    following = WorkflowCheckpoint("w", "hash", previous_checkpoint_id=first.checkpoint_id)
    async with opened("async", place, "other") as other:
        async with other.lease(f"agent-framework/resumes/{first.checkpoint_id}"):
            with pytest.raises(RunReplaced, match=first.checkpoint_id):
                await storage.save(following)
        await storage.save(following)
        assert await storage.save(following) == following.checkpoint_id  # delivered again
        with pytest.raises(interlock.Conflict):
            await storage.save(replace(following, workflow_name="other"))
        with pytest.raises(RunReplaced):
            await storage.save(
                WorkflowCheckpoint("w", "hash", previous_checkpoint_id=first.checkpoint_id)
            )
    assert await storage.list_checkpoints(workflow_name="w") == [first, following]


def test_a_checkpoint_is_resumed_where_a_process_died(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def die() -> None:
        os._exit(7)

    async def first() -> None:
        async with CheckpointStorage(url, agent="dies", ttl=0.5) as storage:
            id = await underway(storage)
            await workflow([], storage, die).run(checkpoint_id=id)

    child = os.fork()
    if not child:
        asyncio.run(first())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    async def second() -> list[str]:
        async with CheckpointStorage(url, agent="goes-on") as storage:
            effects: list[str] = []
            latest = await storage.get_latest(workflow_name="payment")
            assert latest is not None
            key = f"agent-framework/resumes/{latest.checkpoint_id}"
            with interlock.open(url, agent="waits") as space, space.lease(key):
                pass  # that of the process that died has expired
            await workflow(effects, storage).run(checkpoint_id=latest.checkpoint_id)
            return effects

    assert asyncio.run(second()) == ["pay"]


def test_what_is_no_place_is_refused() -> None:
    for kind in (SessionStore, HistoryProvider, CheckpointStorage):
        with pytest.raises(
            interlock.Invalid, match=f"{kind.__name__} needs an open space, not int"
        ):
            kind(5)  # type: ignore[arg-type]  # none on purpose
