"""pydantic-ai: conversations in a space, and calls that a crash does not repeat."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, FunctionToolset, ModelRetry, UserError
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import ConversationConflict, InMemoryConversationStore
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

import interlock
from interlock.adapters.pydantic_ai import (
    ConversationStore,
    DurableModel,
    DurableToolset,
)


def agent(gate: asyncio.Barrier | None = None) -> Agent[None, str]:
    """An agent that answers how many messages of users it was shown; `gate`: when it may."""

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if gate is not None:
            await gate.wait()
        asked = sum(isinstance(each, ModelRequest) for each in messages)
        return ModelResponse(parts=[TextPart(f"seen {asked}")])

    return Agent(FunctionModel(answer))


def texts(conversation: Conversation | None) -> list[str]:
    """Return the texts of a conversation."""
    assert conversation is not None
    return [str(part.content) for each in conversation.messages for part in each.parts]  # type: ignore[union-attr]  # all of them have one


@pytest.fixture
async def memory() -> AsyncIterator[interlock.AsyncSpace]:
    async with interlock.open_async("sqlite://", agent="a") as found:
        yield found


async def test_a_history_that_its_caller_holds_loses_8_of_12() -> None:
    history: list[ModelMessage] = list((await agent().run("hello")).all_messages())
    gate = asyncio.Barrier(5)

    async def request(number: int) -> None:
        nonlocal history
        result = await agent(gate).run(f"question {number}", message_history=history)
        history = result.all_messages()

    await asyncio.gather(*(request(n) for n in range(5)))
    assert len(history) == 4


async def test_runs_of_one_conversation_keep_12_of_12(store_space: interlock.AsyncSpace) -> None:
    store = ConversationStore(store_space)
    await store.run(agent(), "hello", "c")
    results = await asyncio.gather(*(store.run(agent(), f"{n}", "c") for n in range(5)))
    assert sorted(each.output for each in results) == [f"seen {n}" for n in range(2, 7)]
    assert len(texts(await store.load("c"))) == 12
    async with store.turn("c"):
        with pytest.raises(interlock.Held):
            await store.run(agent(), "now", "c", wait=0)


async def test_what_was_saved_meanwhile_is_not_overwritten(memory: interlock.AsyncSpace) -> None:
    store = ConversationStore(memory)
    await store.save(await agent().run("hello", conversation=Conversation(conversation_id="c")))
    one, other = await store.load("c"), await store.load("c")
    await store.save(await agent().run("one", conversation=one))
    with pytest.raises(ConversationConflict):
        await store.save(await agent().run("other", conversation=other))
    assert texts(await store.load("c")) == ["hello", "seen 1", "one", "seen 2"]
    with pytest.raises(ConversationConflict):
        await store.save(Conversation(conversation_id="c"))  # made anew
    with pytest.raises(ConversationConflict):
        await store.delete_record("c", expected_revision="old")


async def test_a_run_that_was_replaced_is_fenced(memory: interlock.AsyncSpace) -> None:
    store = ConversationStore(memory)
    async with store.turn("c") as (held, conversation):
        await memory.reclaim("pydantic-ai/turns/c")
        with pytest.raises(interlock.Fenced):
            await held.save(await agent().run("late", conversation=conversation))
    assert await store.load("c") is None


async def test_it_does_what_their_store_does(memory: interlock.AsyncSpace) -> None:
    found = []
    for store in (InMemoryConversationStore(), ConversationStore(memory)):
        result = await agent().run("hello", conversation=Conversation(conversation_id="c/1"))
        entries = await store.save(result, scope="ada")
        await store.save(await agent().run("again", conversation=await store.load("c/1")))
        await store.fork("c/1", new_conversation_id="d", from_entry=entries[-1].id)
        now = await store.load("c/1")
        assert now is not None
        await store.branch("c/1", from_entry=entries[0].id, expected_revision=now.revision)
        told: list[Any] = [texts(await store.load("c/1")), texts(await store.load("d", limit=1))]
        told.append(sorted(each.conversation_id for each in await store.read_records(scope="ada")))
        await store.delete("c/1", scope="somebody else")
        assert await store.load("c/1", scope="ada") is not None
        await store.delete("c/1")
        told += [await store.load("c/1"), texts(await store.load("d"))]
        with pytest.raises(LookupError):
            await store.read_entry("none")
        found.append(told)
    assert found[0] == found[1]
    assert found[0][1] == ["seen 1"]


async def test_a_long_history_is_read_in_few_round_trips(memory: interlock.AsyncSpace) -> None:
    store = ConversationStore(memory)
    conversation = Conversation(conversation_id="c")
    for part in range(3):
        conversation.messages += [
            ModelRequest(parts=[UserPromptPart(f"{part}/{n}")]) for n in range(90)
        ]
        await store.save(conversation)
    assert texts(await store.load("c")) == texts(conversation)
    assert texts(await store.load("c", limit=120)) == texts(conversation)[-120:]


# Durable calls


class Payments:
    """An agent whose model has a tool called once, and what was asked and done."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.paid: list[int] = []
        self.fails = False

    async def run(self, run: interlock.AsyncRun) -> str:
        async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            self.asked.append(len(messages))
            if len(messages) == 1:
                call = ToolCallPart("pay", {"amount": 7}, tool_call_id="call-1")
                return ModelResponse(parts=[call])
            if self.fails:
                raise ConnectionError("the host went down")
            return ModelResponse(parts=[TextPart(f"done: {messages[-1].parts[0].content}")])  # type: ignore[union-attr]  # a tool's return

        async def pay(amount: int) -> str:
            self.paid.append(amount)
            return f"paid {amount}"

        model = DurableModel(FunctionModel(answer), run)
        tools = DurableToolset(FunctionToolset([pay]), run)
        return (await Agent(model, toolsets=[tools]).run("pay")).output


async def test_after_a_crash_nothing_is_asked_or_paid_twice(memory: interlock.AsyncSpace) -> None:
    payments = Payments()
    payments.fails = True
    with pytest.raises(interlock.InDoubt):
        async with memory.run("order-7") as run:
            await payments.run(run)
    payments.fails = False
    async with memory.run("order-7") as run:
        run.result = await payments.run(run)
    assert run.result == "done: paid 7"
    assert payments.paid == [7]
    assert payments.asked == [1, 3, 3]  # the one that failed, again


async def test_a_tool_that_asks_the_model_to_try_again_is_no_doubt(
    memory: interlock.AsyncSpace,
) -> None:
    async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) < 4:
            call = ToolCallPart("pay", {"amount": len(messages)}, tool_call_id=f"{len(messages)}")
            return ModelResponse(parts=[call])
        return ModelResponse(parts=[TextPart("done")])

    async def pay(amount: int) -> str:
        if amount == 1:
            raise ModelRetry("more")
        return "paid"

    async with memory.run("r") as run:
        tools = DurableToolset(FunctionToolset([pay]), run)
        agent = Agent(DurableModel(FunctionModel(answer), run), toolsets=[tools])
        assert (await agent.run("pay")).output == "done"
        with pytest.raises(UserError, match="not a stream"):
            async with agent.run_stream("pay"):
                pass


async def test_a_url_is_opened_and_closed(tmp_path: Path) -> None:
    with ConversationStore(f"sqlite:///{tmp_path / 'c.db'}", agent="a") as store:
        await store.run(agent(), "hello", "c")
        assert texts(await store.load("c")) == ["hello", "seen 1"]
    with pytest.raises(interlock.Closed):
        await store.load("c")
