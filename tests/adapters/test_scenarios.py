"""Scenarios of the page on frameworks that the tests of an adapter do not have."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_framework import AgentSession
from pydantic_ai import Agent
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict
from pydantic_ai.models.test import TestModel
from strands.types.session import SessionAgent, SessionMessage

import interlock
from interlock.adapters.agent_framework import SessionConflict as FrameworkConflict
from interlock.adapters.agent_framework import SessionStore
from interlock.adapters.claude import AsyncMemoryTool
from interlock.adapters.langgraph import Store
from interlock.adapters.llama_index import WorkflowStore
from interlock.adapters.pydantic_ai import ConversationStore
from interlock.adapters.strands import SessionConflict, SessionManager, turn

WAIT = 30.0  # seconds after which something has no end
Hold = Callable[[interlock.Space], AbstractAsyncContextManager[Any]]


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="app") as found:
        yield found


# Cancelled by wait_for


@asynccontextmanager
async def strands_turn(space: interlock.Space) -> AsyncIterator[None]:
    with turn(space, "s", wait=0):
        yield


HOLDS: dict[str, Hold] = {
    "agent-framework": lambda space: SessionStore(space, wait=0).turn("s"),
    "llama-index": lambda space: WorkflowStore(space).create_state_store("run").edit_state(),
    "pydantic-ai": lambda space: ConversationStore(space).turn("c", wait=0),
    "strands": strands_turn,
}


async def cut_off(hang: Callable[[asyncio.Event], Any]) -> None:
    """Run something until it has begun, and have wait_for cancel it."""
    begun = asyncio.Event()
    hanging = asyncio.create_task(hang(begun))
    await begun.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hanging, 0)


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
async def test_what_wait_for_cuts_off_is_free_at_once(space: interlock.Space, hold: Hold) -> None:
    async def hang(begun: asyncio.Event) -> None:
        async with hold(space):
            begun.set()
            await asyncio.Event().wait()

    await cut_off(hang)
    async with asyncio.timeout(WAIT), hold(space):  # wait=0: it is refused unless it is free
        pass


async def test_an_update_of_a_store_that_wait_for_cuts_off_lets_the_next_one_in(
    space: interlock.Space,
) -> None:
    store = Store(space)

    async def hang(begun: asyncio.Event) -> None:
        async def think(_: Any) -> dict[str, Any]:
            begun.set()
            await asyncio.Event().wait()
            return {}

        await store.aupdate(("m",), "k", think, default={})

    await cut_off(hang)
    async with asyncio.timeout(WAIT):
        await store.aupdate(("m",), "k", lambda _: {"n": 1}, default={})
    assert [each.value for each in await store.asearch(("m",))] == [{"n": 1}]


# Read in a child task


def helper() -> Agent[None, str]:
    return Agent(TestModel(custom_output_text="hello"))


async def test_a_conversation_read_in_a_child_task_is_compared(space: interlock.Space) -> None:
    store = ConversationStore(space)
    await store.save(await helper().run("hi", conversation=Conversation(conversation_id="c")))
    mine = await asyncio.create_task(store.load("c"))
    await store.save(await helper().run("theirs", conversation=await store.load("c")))
    with pytest.raises(ConversationConflict):
        await store.save(await helper().run("mine", conversation=mine))
    mine = await asyncio.create_task(store.load("c"))
    await store.save(await helper().run("mine", conversation=mine))
    found = await store.load("c")
    assert found is not None
    assert len(found.messages) == 6


async def test_what_the_memory_tool_showed_in_a_child_task_counts(space: interlock.Space) -> None:
    mine, other = AsyncMemoryTool(space), AsyncMemoryTool(space)
    file = "/memories/notes.md"
    await other.call({"command": "create", "path": file, "file_text": "a\nb\n"})
    await asyncio.create_task(mine.call({"command": "view", "path": file}))
    insert = {"command": "insert", "path": file}
    await other.call({**insert, "insert_line": 0, "insert_text": "title"})
    await mine.call({**insert, "insert_line": 1, "insert_text": "after a"})
    assert space.read("files/memories/notes.md").value["text"] == "title\na\nafter a\nb\n"


async def test_a_session_read_in_a_child_task_is_compared(space: interlock.Space) -> None:
    store = SessionStore(space)
    await store.set("s", AgentSession(session_id="s"))
    mine, theirs = [await asyncio.create_task(store.get("s")) for _ in range(2)]
    assert mine is not None
    assert theirs is not None
    mine.state["n"], theirs.state["n"] = 1, 2
    await store.set("s", theirs)
    with pytest.raises(FrameworkConflict):
        await store.set("s", mine)


# Delivered twice


async def test_an_answer_that_is_saved_twice_is_stored_once(space: interlock.Space) -> None:
    store = ConversationStore(space)
    answered = await helper().run("hi", conversation=Conversation(conversation_id="c"))
    for _ in range(2):
        await store.save(answered)
    found = await store.load("c")
    assert found is not None
    assert len(found.messages) == 2


def test_a_message_of_strands_that_is_delivered_twice_is_stored_once(
    space: interlock.Space,
) -> None:
    manager = SessionManager("s", space)
    manager.create_agent("s", SessionAgent("helper", {}, {}))
    message = SessionMessage({"role": "user", "content": [{"text": "pay"}]}, 0)
    manager.create_message("s", "helper", message)
    with pytest.raises(SessionConflict):
        manager.create_message("s", "helper", message)
    assert len(manager.list_messages("s", "helper")) == 1


# A process dies


def dies(work: Callable[[], object]) -> None:
    """Do something in a process of its own, which dies in it."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_process_that_dies_in_a_turn_of_strands_leaves_what_it_stored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    def say(manager: SessionManager, text: str, number: int) -> None:
        message = SessionMessage({"role": "user", "content": [{"text": text}]}, number)
        manager.create_message("s", "helper", message)

    def first() -> None:
        with interlock.open(url, agent="dies") as space, turn(space, "s", ttl=0.2) as manager:
            manager.create_agent("s", SessionAgent("helper", {}, {}))
            say(manager, "before", 0)
            os._exit(7)

    dies(first)
    with interlock.open(url, agent="next") as space, turn(space, "s") as manager:
        say(manager, "after", 1)
        found = [each.message["content"] for each in manager.list_messages("s", "helper")]
    assert found == [[{"text": "before"}], [{"text": "after"}]]


def test_a_process_that_dies_in_an_edit_leaves_the_state_before_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def first() -> None:
        async with interlock.open_async(url, agent="dies") as space:
            state: Any = WorkflowStore(space).create_state_store("run")
            await state.set("n", 1)
            async with state.edit_state() as editing:
                editing["n"] = 2
                os._exit(7)

    async def second() -> list[int]:
        async with interlock.open_async(url, agent="next") as space:
            state: Any = WorkflowStore(space).create_state_store("run")
            before = await state.get("n")
            async with state.edit_state() as editing:
                editing["n"] += 10
            return [before, await state.get("n")]

    dies(lambda: asyncio.run(first()))
    assert asyncio.run(second()) == [1, 11]
