"""The checkpointer and the store of one space together: runs on several threads, one memory."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

import interlock
from interlock.adapters.langgraph import Saver, Store, append, check_state
from tests.adapters.langgraph_places import Place, place

__all__ = ["place"]  # a fixture

TEAM = ("team", "memory")
RETRY = RetryPolicy(max_attempts=100, initial_interval=0.001, max_interval=0.02)
THREADS, RUNS = 3, 3


class Talk(TypedDict):
    """A conversation."""

    messages: Annotated[list[str], append]


def talking(saver: Saver, store: Store) -> Any:
    """Two parallel nodes that note each message in the shared memory, each in its own way."""

    async def put(state: Talk, *, store: BaseStore) -> dict[str, str]:
        item = await store.aget(TEAM, "put")
        notes = item.value["notes"] if item else []
        await store.aput(TEAM, "put", {"notes": [*notes, state["messages"][-1]]})
        return {"messages": "noted"}

    async def update(state: Talk, *, store: BaseStore) -> dict[str, str]:
        assert isinstance(store, Store)

        def more(memory: Any) -> dict[str, list[str]]:
            return {"notes": [*memory["notes"], state["messages"][-1]]}

        await store.aupdate(TEAM, "update", more, default={"notes": []})
        return {"messages": "updated"}

    builder: Any = StateGraph(Talk)
    builder.add_node("put", put, retry_policy=RETRY)
    builder.add_node("update", update, retry_policy=RETRY)
    builder.add_edge(START, "put")
    builder.add_edge(START, "update")
    assert check_state(builder).ok
    return builder.compile(checkpointer=saver, store=store)


@pytest.mark.parametrize("asynchronous", [True, False], ids=["async space", "sync space"])
async def test_runs_on_several_threads_lose_neither_messages_nor_memories(
    place: Place, asynchronous: bool
) -> None:
    space: Any = await place.open_async() if asynchronous else place.open()
    try:
        await _many_runs(space)
    finally:
        closed = space.close()
        if asynchronous:
            await closed


async def _many_runs(space: interlock.Space | interlock.AsyncSpace) -> None:
    saver, store = Saver(space), Store(space)
    graph = talking(saver, store)

    async def one(thread: int, number: int) -> None:
        async with saver.run(f"thread-{thread}") as config:
            await graph.ainvoke({"messages": f"{thread}/{number}"}, config)

    async with asyncio.timeout(120):
        await asyncio.gather(*(one(t, n) for t in range(THREADS) for n in range(RUNS)))
    said = sorted(f"{t}/{n}" for t in range(THREADS) for n in range(RUNS))
    for key in ("put", "update"):
        item = await store.aget(TEAM, key)
        assert item is not None
        assert sorted(item.value["notes"]) == said
    for thread in range(THREADS):
        state = await graph.aget_state({"configurable": {"thread_id": f"thread-{thread}"}})
        mine = [text for text in state.values["messages"] if text.startswith(f"{thread}/")]
        assert sorted(mine) == [f"{thread}/{n}" for n in range(RUNS)]
        assert len(state.values["messages"]) == 3 * RUNS
