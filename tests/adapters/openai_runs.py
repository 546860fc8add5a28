"""Agents with a model of ours that needs no network, and runs of them in other processes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from agents import Agent, RunConfig, Runner, TResponseInputItem
from agents.exceptions import AgentsException
from agents.testing import ModelStep, ScriptedModel, assistant_message

import interlock
from interlock.adapters.openai_agents import Session

QUIET = RunConfig(tracing_disabled=True)


class GatedModel(ScriptedModel):
    """A scripted model that says when it is asked, and answers when it may."""

    def __init__(self, steps: Sequence[Any]) -> None:
        super().__init__(steps)
        self.asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def get_response(self, *args: Any, **named: Any) -> Any:
        self.asked.set()
        await self.may_answer.wait()
        return await super().get_response(*args, **named)


def agent(text: str = "answer", error: Exception | None = None, tools: Any = ()) -> Agent[Any]:
    """An agent that answers once, or whose model fails."""
    step = ModelStep(output=[assistant_message(text)], error=error)
    return Agent(name="assistant", model=ScriptedModel([step]), tools=list(tools))


async def ask(session: Any, question: str, by: Agent[Any] | None = None) -> str:
    """Have one question answered."""
    result = await Runner.run(
        by or agent(f"to {question}"), question, session=session, run_config=QUIET
    )
    return str(result.final_output)


def user(text: str) -> TResponseInputItem:
    """A message of the user."""
    return {"role": "user", "content": text}


def texts(items: Sequence[Any]) -> list[str]:
    """Return what the messages of a history say."""
    return [
        each["content"] if isinstance(each["content"], str) else each["content"][0]["text"]
        for each in items
    ]


def run_once(url: str, space: str, wait: float | None, index: int, gate: Any, answers: Any) -> None:
    """In a process: run on the session `shared`, and answer how that ended."""

    async def main() -> str:
        async with interlock.open_async(url, space=space, agent=f"host-{index}") as opened:
            gate.wait()
            try:
                return await ask(Session(opened, "shared", wait=wait), f"question {index}")
            except AgentsException as problem:
                return type(problem).__name__

    answers.put(asyncio.run(main()))


def die_in_a_run(url: str, space: str, index: int, gate: Any, answers: Any) -> None:
    """In a process: run on the session `shared`, and die while the model is asked."""

    class Dying(ScriptedModel):
        async def get_response(self, *args: Any, **named: Any) -> Any:
            answers.put("died")
            os._exit(0)

    async def main() -> None:
        async with interlock.open_async(url, space=space, agent="dies") as opened:
            by: Agent[Any] = Agent(name="dies", model=Dying([]))
            await ask(Session(opened, "shared", ttl=0.2), "lost", by)

    asyncio.run(main())
