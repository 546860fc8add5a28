"""What `tests.lower_bounds` does with each framework at its oldest version."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def adk(url: str) -> None:
    """Run twice on one session, and refuse a stale one."""
    from google.adk.agents import LlmAgent
    from google.adk.errors import StaleSessionError
    from google.adk.events import Event
    from google.adk.models import BaseLlm
    from google.adk.models.llm_response import LlmResponse
    from google.adk.runners import Runner
    from google.genai import types

    from interlock.adapters.adk import SessionService

    class Echo(BaseLlm):
        async def generate_content_async(self, request: Any, stream: bool = False) -> Any:
            yield LlmResponse(content=types.ModelContent(request.contents[-1].parts[0].text))

    async def talk() -> None:
        where: dict[str, Any] = {"app_name": "a", "user_id": "u", "session_id": "s"}
        async with SessionService(url) as service:
            stale = await service.create_session(**where, state={"user:n": 1})
            agent = LlmAgent(name="a", model=Echo(model="echo"))
            runner = Runner(app_name="a", agent=agent, session_service=service)

            async def ask() -> None:
                said = types.UserContent("hello")
                named: dict[str, Any] = {"user_id": "u", "session_id": "s", "new_message": said}
                assert [event async for event in runner.run_async(**named)]

            await asyncio.gather(ask(), ask())
            found = await service.get_session(**where)
            assert found is not None
            assert len(found.events) == 4
            try:
                await service.append_event(stale, Event(author="a"))
                raise AssertionError("not refused")
            except StaleSessionError:
                pass

    asyncio.run(talk())


def agent_framework(url: str) -> None:
    """Store a session, messages and a checkpoint, which is resumed once."""
    from agent_framework import AgentSession, Message, WorkflowBuilder, WorkflowContext, executor

    from interlock.adapters import agent_framework as adapter

    async def upper(text: Any, context: Any) -> None:
        await context.yield_output(text.upper())

    # The framework looks at annotations, and finds no names that a function has imported.
    upper.__annotations__.update(text=str, context=WorkflowContext[Any, str])
    step = executor(id="upper")(upper)

    async def use() -> None:
        async with adapter.SessionStore(url) as store, store.turn("s") as session:
            assert isinstance(session, AgentSession)
        async with adapter.HistoryProvider(url) as provider:
            await provider.save_messages("s", [Message("user", ["hi"])])
            assert [each.text for each in await provider.get_messages("s")] == ["hi"]
        async with adapter.CheckpointStorage(url) as storage:

            def workflow() -> Any:
                made: dict[str, Any] = {"checkpoint_storage": storage, "output_from": [step]}
                return WorkflowBuilder(name="w", start_executor=step, **made).build()

            assert (await workflow().run("hi")).get_outputs() == ["HI"]
            first, _ = await storage.list_checkpoint_ids(workflow_name="w")
            try:
                await workflow().run(checkpoint_id=first)
                raise AssertionError("not refused")
            except adapter.CheckpointResumed:
                pass

    asyncio.run(use())


def anthropic(url: str) -> None:
    """Use the memory tool."""
    import interlock
    from interlock.adapters.claude import MemoryTool

    with interlock.open(url) as space:
        tool = MemoryTool(space, cache_control={"type": "ephemeral"})
        assert tool.to_dict()["name"] == "memory"
        path = "/memories/a.md"
        tool.call({"command": "create", "path": path, "file_text": "one"})
        tool.call({"command": "str_replace", "path": path, "old_str": "one", "new_str": "two"})
        assert "two" in str(tool.call({"command": "view", "path": path}))
        tool.call({"command": "delete", "path": path})


def autogen(url: str) -> None:
    """Use the cache and the memory."""
    from autogen_core.memory import MemoryContent, MemoryMimeType
    from autogen_core.model_context import ChatCompletionContext
    from autogen_core.models import UserMessage

    import interlock
    from interlock.adapters import autogen as adapter

    async def remember(space: interlock.Space) -> None:
        memory = adapter.SharedMemory(space)
        await memory.add(MemoryContent(content="seen", mime_type=MemoryMimeType.TEXT))
        assert [each.content for each in (await memory.query("seen")).results] == ["seen"]
        shown = adapter.SharedContext(url).dump_component()
        context = ChatCompletionContext.load_component(shown)
        await context.add_message(UserMessage(content="hello", source="user"))
        assert len(await context.get_messages()) == 1

    with interlock.open(url) as space:
        cache = adapter.SharedCacheStore[int](space)
        cache.set("k", 1)
        assert (cache.get("k"), cache.update("k", lambda n: (n or 0) + 1)) == (1, 2)
        asyncio.run(remember(space))


def claude_agent(url: str) -> None:
    """Hold the contracts of a session store."""
    from claude_agent_sdk.testing import run_session_store_conformance

    import interlock
    from interlock.adapters.claude import SessionStore

    async def hold() -> None:
        numbers = iter(range(100))

        async def make() -> SessionStore:
            return SessionStore(interlock.open(url, space=f"s{next(numbers)}"))

        await run_session_store_conformance(make)

    asyncio.run(hold())


def crewai(url: str) -> None:
    """Run the example: five kickoffs of one flow at once."""
    subprocess.run([sys.executable, ROOT / "examples/crewai_flow.py", url], check=True)
    import interlock.adapters.crewai.memory  # noqa: F401


def fastmcp(url: str) -> None:
    """Use every method of an AsyncKeyValue."""
    from interlock.adapters.fastmcp import KeyValueStore

    async def use() -> None:
        async with KeyValueStore(url, agent="a") as store:
            await store.put("k", {"n": 1}, ttl=60)
            await store.put_many(["a", "b"], [{}, {}])
            value, seconds = await store.ttl("k")
            assert (value, bool(seconds)) == ({"n": 1}, True)
            assert await store.delete_many(["a", "b"]) + await store.delete("k") == 3

    asyncio.run(use())


def llama_index(url: str) -> None:
    """Change state, and store an event."""
    from llama_agents.client.protocol.serializable_events import EventEnvelopeWithMetadata
    from workflows.events import StopEvent

    import interlock
    from interlock.adapters.llama_index import WorkflowStore

    async def use() -> None:
        async with interlock.open_async(url, agent="a") as space:
            store = WorkflowStore(space)
            state = store.create_state_store("r")
            async with state.edit_state() as edited:
                edited["n"] = 1
            await state.set("n", await state.get("n") + 1)
            event = EventEnvelopeWithMetadata.from_event(StopEvent(result=1))
            await store.append_event("r", event)
            assert (await state.get("n"), len(await store.query_events("r"))) == (2, 1)

    asyncio.run(use())


def openai_agents(url: str) -> None:
    """Keep the history of a run with an offline model."""
    from agents import Agent, ItemHelpers, Model, ModelResponse, Runner, Usage
    from openai.types.responses import ResponseOutputMessage, ResponseOutputText

    import interlock
    from interlock.adapters.openai_agents import Session

    class Echo(Model):
        async def get_response(self, *args: Any, **named: Any) -> ModelResponse:
            asked = named.get("input", args[1] if len(args) > 1 else "")
            said = f"{len(ItemHelpers.input_to_new_input_list(asked))} items"
            text = ResponseOutputText(text=said, type="output_text", annotations=[])
            message = ResponseOutputMessage(
                id="1", role="assistant", status="completed", type="message", content=[text]
            )
            return ModelResponse(output=[message], usage=Usage(), response_id=None)

        def stream_response(self, *args: Any, **named: Any) -> Any:
            raise NotImplementedError

    async def talk(space: interlock.Space) -> None:
        session: Any = Session(space, "s")
        agent = Agent(name="a", model=Echo())
        for said in ("1 items", "3 items"):
            result = await Runner.run(agent, "hello", session=session)
            assert result.final_output == said
            await session.store_run_usage(result)
        assert len(await session.get_items()) == 4
        await session.pop_item()
        assert len(await session.get_items(2)) == 2
        assert (await session.get_conversation_turns())[1]["content"] == "hello"
        await session.create_branch_from_turn(2)
        assert (await session.get_session_usage())["total_turns"] == 2
        await session.get_items()
        await session.clear_session()
        with Session("s", url) as other:
            assert await other.get_items() == []

    os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"
    with interlock.open(url) as space:
        asyncio.run(talk(space))


def pydantic_ai(url: str) -> None:
    """Have a conversation, and a model that is asked once."""
    from pydantic_ai import Agent
    from pydantic_ai.models.test import TestModel

    import interlock
    from interlock.adapters.pydantic_ai import ConversationStore, DurableModel

    async def talk() -> None:
        async with interlock.open_async(url, agent="a") as space:
            store = ConversationStore(space)
            for _ in range(2):
                await store.run(Agent(TestModel()), "hello", "c")
            found = await store.load("c")
            assert found is not None
            assert len(found.messages) == 4
            async with space.run("r") as run:
                run.result = (await Agent(DurableModel(TestModel(), run)).run("hello")).output

    asyncio.run(talk())


def strands(url: str) -> None:
    """Have an agent whose model is never asked store a message."""
    from strands import Agent

    import interlock
    from interlock.adapters.strands import SessionManager, turn

    with interlock.open(url, agent="a") as space:
        with turn(space, "s") as manager:
            agent = Agent(session_manager=manager, agent_id="a", callback_handler=None)
            manager.append_message({"role": "user", "content": [{"text": "hello"}]}, agent)
        again = Agent(session_manager=SessionManager("s", space), agent_id="a")
        assert len(again.messages) == 1
