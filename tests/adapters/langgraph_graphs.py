"""Graphs with an offline model, and what tests run of them in processes of their own."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

import interlock
from interlock.adapters.langgraph import Saver


class Talk(TypedDict):
    """A conversation."""

    messages: Annotated[list[str], operator.add]


def said(*messages: str) -> Talk:
    """Return the input, or the output, that adds messages."""
    return {"messages": list(messages)}


def talking(saver: Saver | Any, think: Callable[[str], Awaitable[None]]) -> Any:
    """Return an asynchronous graph that answers the last message, once it has thought about it."""

    async def answer(state: Talk) -> Talk:
        await think(state["messages"][-1])
        return said(f"re: {state['messages'][-1]}")

    return _of_one(answer).compile(checkpointer=saver)


def talking_in_threads(saver: Saver | Any, think: Callable[[str], None]) -> Any:
    """Return the same graph for synchronous callers."""

    def answer(state: Talk) -> Talk:
        think(state["messages"][-1])
        return said(f"re: {state['messages'][-1]}")

    return _of_one(answer).compile(checkpointer=saver)


def paying(saver: Saver | Any, charge: Callable[[str], None]) -> Any:
    """Return a graph that asks before it charges."""

    async def pay(state: Talk) -> Talk:
        answer = interrupt("may I?")
        await asyncio.sleep(0)  # others may run here
        charge(answer)
        return said(f"paid: {answer}")

    return _of_one(pay).compile(checkpointer=saver)


def in_two_steps(saver: Saver | Any, first: Any, second: Any) -> Any:
    """Return a graph of two nodes, one after the other."""
    builder = StateGraph(Talk)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile(checkpointer=saver)


def _of_one(node: Any) -> StateGraph[Talk]:
    builder = StateGraph(Talk)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder


async def no_time(_: str) -> None:
    """Think no longer than it takes others to begin."""
    await asyncio.sleep(0)


def hang_in_the_second_step(url: str, space: str, once: str, told: Connection) -> None:
    """Run a graph whose second node says so, and then hangs until this process is killed."""

    def first(_: Talk) -> Talk:
        return said("first")

    def second(_: Talk) -> Talk:
        told.send("in the second step")
        told.recv()  # nothing comes until this process is to go on
        return said("zombie")

    with interlock.open(url, space=space, agent="one") as opened:
        saver = Saver(opened)
        graph = in_two_steps(saver, first, second)
        run = saver.run("thread", once=once, ttl=1.0)
        try:
            with run as config:
                graph.invoke(run.input(said("hello")), config, durability="sync")
            told.send("done")
        except interlock.Fenced as fenced:
            told.send(f"fenced: {type(fenced).__name__}")
