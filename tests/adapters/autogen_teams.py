"""Teams whose model answers how many messages it was shown, and needs no network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import CancellationToken
from autogen_core.memory import Memory
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    UserMessage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel

import interlock
from interlock.adapters.autogen import team_state


class CountingModel(ChatCompletionClient):
    """Says how many messages of users it was shown, when it may; keeps what it was shown."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.asked = asyncio.Event()
        self.gate = gate
        self.shown: list[LLMMessage] = []

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """Answer."""
        self.asked.set()
        self.shown = list(messages)
        if self.gate is not None:
            await self.gate.wait()
        seen = sum(isinstance(each, UserMessage) for each in messages)
        return CreateResult(
            finish_reason="stop",
            content=f"seen {seen}",
            usage=RequestUsage(prompt_tokens=0, completion_tokens=0),
            cached=False,
        )

    def create_stream(
        self, messages: Sequence[LLMMessage], **_: Any
    ) -> AsyncGenerator[str | CreateResult, None]:
        """Not used here."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""

    def actual_usage(self) -> RequestUsage:
        """Nothing is counted."""
        return RequestUsage(prompt_tokens=0, completion_tokens=0)

    total_usage = actual_usage

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Nothing is counted."""
        return 0

    remaining_tokens = count_tokens

    @property
    def model_info(self) -> ModelInfo:
        """A plain model."""
        return ModelInfo(
            vision=False,
            function_calling=False,
            json_output=False,
            family=ModelFamily.UNKNOWN,
            structured_output=False,
        )

    capabilities = model_info


def team(model: CountingModel | None = None, memory: Sequence[Memory] = ()) -> RoundRobinGroupChat:
    """A team of one assistant, which answers once for each task."""
    assistant = AssistantAgent("assistant", model or CountingModel(), memory=list(memory) or None)
    return RoundRobinGroupChat([assistant], termination_condition=MaxMessageTermination(2))


def history(state: Mapping[str, Any]) -> list[str]:
    """Return the texts of a team's thread."""
    (manager,) = (each for each in state["agent_states"].values() if "message_thread" in each)
    return [each["content"] for each in manager["message_thread"]]


def run_team(url: str, space: str, index: int, gate: Any, answers: Any) -> None:
    """In a process: give a team of one's own three tasks in the conversation `shared`."""

    async def main() -> str:
        async with interlock.open_async(url, space=space, agent=f"host-{index}") as opened:
            gate.wait()
            for n in range(3):
                mine = team()
                async with team_state(opened, "shared", mine):
                    await mine.run(task=f"{index}/{n}")
        return "done"

    answers.put(asyncio.run(main()))


def die_in_a_run(url: str, space: str, index: int, gate: Any, answers: Any) -> None:
    """In a process: run a team in the conversation `c`, and die before its state is saved."""

    async def main() -> None:
        async with interlock.open_async(url, space=space, agent="dies") as opened:
            mine = team()
            async with team_state(opened, "c", mine, ttl=0.2):
                await mine.run(task="lost")
                answers.put("died")
                os._exit(0)

    asyncio.run(main())
