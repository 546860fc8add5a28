"""Agents of Google ADK with a model of ours that needs no network, and runs of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from google.adk.agents import LlmAgent
from google.adk.events import Event, EventActions
from google.adk.models import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.tools.function_tool import FunctionTool
from google.genai import types

WHO: dict[str, Any] = {"app_name": "app", "user_id": "u"}
WHERE: dict[str, Any] = {**WHO, "session_id": "s"}
COUNTED = types.GenerateContentResponseUsageMetadata(total_token_count=1)


class EchoModel(BaseLlm):
    """A model that answers with what it was asked last, or calls a tool first.

    `gate` is a function that is awaited before each answer.
    """

    model: str = "echo"
    gate: Any = None
    tool: str = ""

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        if self.gate is not None:
            await self.gate()
        last = llm_request.contents[-1].parts or []
        if self.tool and last[0].text:
            part = types.Part.from_function_call(name=self.tool, args={})
        else:
            part = types.Part(text=f"to {last[0].text}")
        yield LlmResponse(content=types.Content(role="model", parts=[part]), usage_metadata=COUNTED)


class Gate:
    """Says when a model is asked, and holds its answer back until it may come."""

    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.asked.set()
        await self.may_answer.wait()


def runner(service: Any, gate: Any = None, tools: Sequence[Any] = ()) -> Runner:
    """Return a runner of an agent that echoes, or calls its tool."""
    tool = getattr(tools[0], "name", "") if tools else ""
    agent = LlmAgent(name="assistant", model=EchoModel(gate=gate, tool=tool), tools=list(tools))
    return Runner(app_name="app", agent=agent, session_service=service)


def message(text: str) -> types.Content:
    """Return what a user says."""
    return types.Content(role="user", parts=[types.Part(text=text)])


async def ask(service: Any, text: str, gate: Any = None, session: str = "s") -> list[Event]:
    """Have one message answered; return the events."""
    by = runner(service, gate)
    found = by.run_async(user_id="u", session_id=session, new_message=message(text))
    return [event async for event in found]


async def asked_for_confirmation(service: Any, effects: list[str]) -> Any:
    """Let an agent ask whether it may pay; return what delivers the answer, in a run of its own."""

    def pay() -> str:
        effects.append("paid")
        return "done"

    async def run(content: types.Content) -> list[Event]:
        by = runner(service, tools=[FunctionTool(pay, require_confirmation=True)])
        found = by.run_async(user_id="u", session_id="s", new_message=content)
        return [event async for event in found]

    asked = await run(message("pay"))
    calls = [call for event in asked for call in event.get_function_calls()]
    (call,) = [each for each in calls if each.name == "adk_request_confirmation"]
    answer = types.FunctionResponse(id=call.id, name=call.name, response={"confirmed": True})
    content = types.Content(role="user", parts=[types.Part(function_response=answer)])
    return lambda: run(content)


def texts(session: Any) -> list[str]:
    """Return what the events of a session say."""
    return [event.content.parts[0].text for event in session.events]


def change(**state: Any) -> Event:
    """Return an event that changes state; `user_x` stands for `user:x`."""
    delta = {
        name.replace("_", ":") if name.partition("_")[0] in ("app", "user", "temp") else name: value
        for name, value in state.items()
    }
    return Event(author="agent", actions=EventActions(state_delta=delta))
