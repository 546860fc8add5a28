"""Agents and workflows of Microsoft Agent Framework with a model of ours that needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agent_framework import (
    Agent,
    AgentSession,
    BaseChatClient,
    ChatResponse,
    Executor,
    Message,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    response_handler,
)


class EchoClient(BaseChatClient[Any]):
    """A model that answers with what it was asked last."""

    gate: Any = None

    async def _answer(self, messages: Sequence[Message]) -> ChatResponse[Any]:
        if self.gate is not None:
            await self.gate()
        answer = Message("assistant", [f"to {messages[-1].text}"])
        return ChatResponse(messages=[answer])

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Any, **kwargs: Any
    ) -> Any:
        return self._answer(messages)


def agent(providers: Sequence[Any] = (), gate: Any = None) -> Agent[Any]:
    """Return an agent that echoes."""
    client = EchoClient()
    client.gate = gate
    return Agent(client, name="assistant", context_providers=list(providers))


async def ask(session: AgentSession, text: str, providers: Sequence[Any] = ()) -> str:
    """Have one message answered."""
    return (await agent(providers).run(text, session=session)).text


class Approval(Executor):
    """Asks whether to pay, and pays."""

    def __init__(self, effects: list[str], gate: Any = None) -> None:
        super().__init__(id="approval")
        self.effects, self.gate = effects, gate

    @handler
    async def ask(self, message: str, context: WorkflowContext[str, str]) -> None:
        await context.request_info(request_data=message, response_type=bool, request_id="pay")

    @response_handler
    async def answered(
        self, original: str, response: bool, context: WorkflowContext[str, str]
    ) -> None:
        await context.send_message("pay" if response else "no")


class Payment(Executor):
    """Pays, which must happen once."""

    def __init__(self, effects: list[str], gate: Any = None) -> None:
        super().__init__(id="payment")
        self.effects, self.gate = effects, gate

    @handler
    async def pay(self, message: str, context: WorkflowContext[str, str]) -> None:
        if self.gate is not None:
            await self.gate()
        self.effects.append(message)
        await context.yield_output("paid")


def workflow(effects: list[str], storage: Any, gate: Any = None) -> Workflow:
    """Return a workflow that asks, is answered, and pays, as one host builds it."""
    approval, payment = Approval(effects), Payment(effects, gate)
    builder = WorkflowBuilder(
        name="payment",
        start_executor=approval,
        checkpoint_storage=storage,
        output_from=[payment],
    )
    return builder.add_edge(approval, payment).build()


class Gate:
    """Says when somebody comes, and holds them back until they may go on."""

    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.asked.set()
        await self.may_answer.wait()
