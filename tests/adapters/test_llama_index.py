"""LlamaIndex workflows: state that replicas share, handlers, events and ticks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from llama_agents.client.protocol.serializable_events import EventEnvelopeWithMetadata
from llama_agents.server import HandlerQuery, MemoryWorkflowStore, PersistentHandler
from llama_agents.server import SqliteWorkflowStore as Sqlite
from pydantic import BaseModel
from workflows.context import JsonSerializer
from workflows.context.state_store import StateStorage
from workflows.events import StopEvent

import interlock
from interlock.adapters import llama_index
from interlock.adapters.llama_index import StateStore, WorkflowStore


@pytest.fixture
async def memory() -> AsyncIterator[interlock.AsyncSpace]:
    async with interlock.open_async("sqlite://", agent="a") as found:
        yield found


async def edits(stores: list[Any]) -> None:
    """Add a note by `edit_state` in each replica at once, and once more after a refusal."""
    gate = asyncio.Barrier(len(stores))

    async def edit(store: Any, n: int) -> None:
        first = True
        while True:
            try:
                async with store.edit_state() as state:
                    if first:
                        await gate.wait()
                    first = False
                    state["notes"] = [*state.get("notes", []), n]
                return
            except interlock.Conflict:
                continue

    await asyncio.gather(*(edit(store, n) for n, store in enumerate(stores)))


async def sets(stores: list[Any], apart: bool = False) -> None:
    """Get, think and set in each replica at once; `apart`: what was got by a task of its own."""
    gate = asyncio.Barrier(len(stores))

    async def add(store: Any, n: int) -> None:
        first = True
        while True:
            got = store.get("notes", [])
            notes = await (asyncio.create_task(got) if apart else got)
            if first:
                await gate.wait()
            first = False
            try:
                await store.set("notes", [*notes, n])
                return
            except interlock.Conflict as refused:
                assert "edit_state" in str(refused)  # noqa: PT017  # each refusal, not the first

    await asyncio.gather(*(add(store, n) for n, store in enumerate(stores)))


async def test_their_stores_lose_4_of_5(tmp_path: Path) -> None:
    one: Any = MemoryWorkflowStore().create_state_store("run")
    await sets([one] * 5)
    assert len(await one.get("notes")) == 1
    replicas = [Sqlite(f"{tmp_path / 'w.db'}") for _ in range(5)]
    for replica in replicas:
        await replica.start()
    stores = [replica.create_state_store("run") for replica in replicas]
    await edits(stores)
    assert len(await stores[0].get("notes")) == 1


async def test_ours_keeps_5_of_5(store_space: interlock.AsyncSpace) -> None:
    replicas = [WorkflowStore(store_space).create_state_store("run") for _ in range(5)]
    await edits(replicas)
    await sets(replicas)
    assert sorted(await replicas[0].get("notes")) == sorted([*range(5), *range(5)])


async def test_what_a_child_or_an_earlier_step_read_counts(memory: interlock.AsyncSpace) -> None:
    one = WorkflowStore(memory).create_state_store("run")
    await sets([one] * 5, apart=True)
    assert sorted(await one.get("notes")) == [0, 1, 2, 3, 4]


async def test_what_nobody_read_is_set_and_other_paths_are_kept(
    memory: interlock.AsyncSpace,
) -> None:
    one, other = (WorkflowStore(memory).create_state_store("run") for _ in range(2))
    assert await one.get("a.b", 0) == 0
    await other.set("c", 1)
    await one.set("a.b", 1)
    await one.set("a.b", 2)  # what one has set one knows
    await other.set("a.b", 3)
    with pytest.raises(interlock.Conflict):
        await one.set("a.b", 4)
    await one.set("a.b", 4)  # refused once: nothing is known of it any more
    assert (await other.get("a.b"), await other.get("c")) == (4, 1)


class Counts(BaseModel):
    n: int = 0
    notes: list[int] = []


async def test_a_typed_state_conflicts_as_a_whole(memory: interlock.AsyncSpace) -> None:
    one, other = (StateStore(memory, "run", state_type=Counts) for _ in range(2))
    mine, theirs = await one.get_state(), await other.get_state()
    theirs.n = 1
    await other.set_state(theirs)
    mine.notes.append(1)
    with pytest.raises(interlock.Conflict):
        await one.set_state(mine)
    async with one.edit_state() as state:
        state.notes.append(2)
    assert await other.get_state() == Counts(n=1, notes=[2])
    await one.clear()
    assert await other.get_state() == Counts()


async def test_a_state_goes_on_in_another_run(memory: interlock.AsyncSpace) -> None:
    store = WorkflowStore(memory)
    first = store.create_state_store("first")
    await first.set("n", 1)
    assert isinstance(llama_index.StateStorage(memory, "first"), StateStorage)
    handle = first.to_dict(JsonSerializer())
    second = store.create_state_store("second", serialized_state=handle)
    assert await second.get("n") == 1
    await second.set("n", 2)
    assert await first.get("n") == 1
    snapshot = await first.snapshot(JsonSerializer())  # type: ignore[attr-defined]  # a facade has it
    third = store.create_state_store("third", serialized_state=snapshot, namespace=("child",))
    assert await third.get("n") == 1


def handler(id: str, **named: Any) -> PersistentHandler:
    """A handler of the run of the same name."""
    return PersistentHandler(
        **{"handler_id": id, "workflow_name": "w", "status": "running", "run_id": id, **named}
    )


async def test_handlers_are_found_changed_and_deleted(memory: interlock.AsyncSpace) -> None:
    store = WorkflowStore(memory)
    for id in ("a", "b/c", "d"):
        await store.update(handler(id, idle_since=datetime.now(UTC) if id == "d" else None))
    await store.update_handler_status("a", status="completed", result=StopEvent(result=7))
    await store.update_handler_status("a", status="running", idle_since=None)  # a late server
    await store.update_handler_status("none", status="failed")

    async def ids(**query: Any) -> list[str]:
        return sorted(each.handler_id for each in await store.query(HandlerQuery(**query)))

    assert await ids() == ["a", "b/c", "d"]
    assert await ids(status_in=["running"], is_idle=False) == ["b/c"]
    assert await ids(is_idle=True) == ["d"]
    assert await ids(handler_id_in=[]) == []
    (done,) = await store.query(HandlerQuery(run_id_in=["a"]))
    assert (done.status, done.result.result if done.result else None) == ("completed", 7)
    assert done.completed_at is not None
    assert await store.delete(HandlerQuery(workflow_name_in=["w"], handler_id_in=["a"])) == 1
    assert await ids() == ["b/c", "d"]


async def test_events_and_ticks_of_two_servers_are_numbered_and_kept(
    store_space: interlock.AsyncSpace,
) -> None:
    servers = [WorkflowStore(store_space) for _ in range(2)]
    event = EventEnvelopeWithMetadata.from_event(StopEvent(result=1))
    await asyncio.gather(
        *(server.append_event("r", event) for server in servers for _ in range(3)),
        *(server.append_tick("r", {"n": n}) for n, server in enumerate(servers)),
    )
    events = await servers[0].query_events("r")
    assert [each.sequence for each in events] == [*range(6)]
    found = await servers[1].query_events("r", after_sequence=2, limit=2)
    assert [each.sequence for each in found] == [3, 4]
    assert sorted(each.tick_data["n"] for each in await servers[0].get_ticks("r")) == [0, 1]
    assert [each.sequence async for each in servers[0].subscribe_events("r")] == [0]
    assert await servers[0].query_events("none") == []


async def test_a_url_is_opened_and_closed(tmp_path: Path) -> None:
    with WorkflowStore(f"sqlite:///{tmp_path / 'w.db'}", agent="a") as store:
        await store.create_state_store("r").set("n", 1)
        assert await store.create_state_store("r").get("n") == 1
    with pytest.raises(interlock.Closed):
        await store.query(HandlerQuery())
