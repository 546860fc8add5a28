"""A person's approval reaches two hosts, which resume one checkpoint of a workflow that pays.

    python examples/agent_framework_payment.py [sqlite:///checkpoints.db]

First with the storage of Microsoft Agent Framework: both resume, and the money is paid twice.  Then
with one line changed.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import Any

from agent_framework import (
    Executor,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowCheckpointException,
    WorkflowContext,
    handler,
    response_handler,
)

from interlock.adapters.agent_framework import CheckpointStorage


class Payment(Executor):
    """Asks whether to pay, and pays."""

    def __init__(self, ledger: list[str]) -> None:
        super().__init__(id="payment")
        self.ledger = ledger

    @handler
    async def ask(self, amount: str, context: WorkflowContext[str, str]) -> None:
        """Ask a person, and wait, maybe for days: the workflow stops here, in a checkpoint."""
        await context.request_info(request_data=amount, response_type=bool, request_id="approval")

    @response_handler
    async def answered(
        self, amount: str, approved: bool, context: WorkflowContext[str, str]
    ) -> None:
        """Pay, which cannot be taken back."""
        if approved:
            self.ledger.append(amount)
        await context.yield_output("paid" if approved else "refused")


def workflow(ledger: list[str], storage: Any) -> Workflow:
    """Build the workflow, as each host does."""
    payment = Payment(ledger)
    return WorkflowBuilder(
        name="refund",
        start_executor=payment,
        checkpoint_storage=storage,
        output_from=[payment],
    ).build()


async def story(storage: Any) -> dict[str, Any]:
    """Tell it with one storage; return what was paid, and how the second host was refused."""
    ledger: list[str] = []
    await workflow(ledger, storage).run("42 EUR")
    paused = await storage.get_latest(workflow_name="refund")

    async def deliver() -> str:
        try:
            await workflow(ledger, storage).run(
                responses={"approval": True}, checkpoint_id=paused.checkpoint_id
            )
        except WorkflowCheckpointException as refused:
            return type(refused).__name__
        return ""

    refusals = await asyncio.gather(deliver(), deliver())
    return {"paid": ledger, "refused": sum(map(bool, refusals))}


async def compare(url: str) -> dict[str, Any]:
    """Tell it with the framework's storage, and with ours."""
    theirs = await story(InMemoryCheckpointStorage())
    async with CheckpointStorage(url, space=uuid.uuid4().hex) as storage:  # the line that changes
        ours = await story(storage)
    return {"theirs": theirs, "ours": ours}


def main(url: str) -> dict[str, Any]:
    """Compare, print and return what was paid."""
    found = asyncio.run(compare(url))
    for name, told in found.items():
        print(f"{name}: paid {len(told['paid'])} times, {told['refused']} delivery refused")
    return found


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sqlite:///checkpoints.db")
