"""Five messages at once on one LangGraph thread, and one approval that is delivered twice.

    python examples/langgraph_thread.py [sqlite:///threads.db]

First with LangGraph's own checkpointer, which loses messages and pays twice, and then with
Interlock's.  The model is a function: nothing is called outside this file.
"""

from __future__ import annotations

import asyncio
import operator
import sys
import uuid
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

import interlock
from interlock.adapters.langgraph import AlreadyDone, Saver

USERS = 5


class State(TypedDict):
    """A conversation."""

    messages: Annotated[list[str], operator.add]


async def model(state: State) -> State:
    """Answer the last message, after a thought."""
    await asyncio.sleep(0.01)
    return {"messages": [f"re: {state['messages'][-1]}"]}


def graph_of(node: Any, saver: Any) -> Any:
    """Return a graph of one node."""
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(checkpointer=saver)


def on(saver: Any, thread: str) -> AbstractAsyncContextManager[Any]:
    """Return how to work on a thread: with Interlock, as a run that has it to itself."""
    if isinstance(saver, Saver):
        return saver.run(thread)
    return nullcontext({"configurable": {"thread_id": thread}})


async def talk(saver: Any) -> int:
    """Send messages at once; return how many messages and answers the thread holds."""
    graph = graph_of(model, saver)

    async def send(text: str) -> None:
        async with on(saver, "talk") as config:
            await graph.ainvoke({"messages": [text]}, config)

    await send("hello")
    await asyncio.gather(*(send(f"message {number}") for number in range(USERS)))
    state = await graph.aget_state({"configurable": {"thread_id": "talk"}})
    return len(state.values["messages"])


async def approve(saver: Any) -> int:
    """Deliver one approval twice; return how often was paid."""
    payments = []

    async def pay(state: State) -> State:
        answer = interrupt("Pay 40?")
        await asyncio.sleep(0.01)
        payments.append(answer)
        return {"messages": [f"paid: {answer}"]}

    graph = graph_of(pay, saver)
    async with on(saver, "order-7") as config:
        await graph.ainvoke({"messages": ["order 7"]}, config)

    async def deliver() -> None:
        if not isinstance(saver, Saver):
            config: Any = {"configurable": {"thread_id": "order-7"}}
            await graph.ainvoke(Command(resume="yes"), config)
            return
        run = saver.run("order-7", once="approval of order 7")
        try:
            async with run as config:
                await graph.ainvoke(run.input(Command(resume="yes")), config)
        except AlreadyDone:
            print("  the second delivery was recognised")

    await asyncio.gather(deliver(), deliver())
    return len(payments)


async def both(url: str) -> dict[str, dict[str, int]]:
    """Run the story with either checkpointer."""
    found = {}
    async with interlock.open_async(url, space=uuid.uuid4().hex, agent="api") as space:
        for name, saver in (("LangGraph", InMemorySaver()), ("Interlock", Saver(space))):
            print(f"with the checkpointer of {name}:")
            found[name] = {"messages": await talk(saver), "payments": await approve(saver)}
            print("  {messages} of 12 messages kept, paid {payments} times".format(**found[name]))
    return found


def main(url: str) -> dict[str, dict[str, int]]:
    """Run the story; return what was kept."""
    return asyncio.run(both(url))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["sqlite:///threads.db"])
