"""Cases for LangGraph stores: long-term memory that several agents write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from interlock.verify.frameworks.agents import (
    ATTEMPTS,
    PATIENCE,
    Connection,
    Gate,
    Report,
    Result,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

Make = Callable[[], Any]
_WRITERS = 8
_NAMESPACE = ("team",)


class _State(TypedDict):
    done: bool


def check_store(make: Make, *, patience: float = PATIENCE) -> Report:
    """Try what a LangGraph store keeps when several writers read an item, think, and put it.

    `make()` opens the store as one more process would: it returns a store, or a context manager
    (`async with`, too) that gives one.  All of them share one database, which is empty at first.
    A writer whose `put` raises anything reads again and thinks again.  `patience`: seconds that
    writers are held for others.

    The cases: `parallel_writers`, eight connections; `parallel_nodes`, eight nodes of one graph
    with a retry policy; `tasks_of_one_loop`, asyncio tasks that put in the same tick;
    `zombie_writer`, one that stalls after its read and puts without looking.
    """
    kit = _Kit(make, patience)
    cases = (kit.parallel_writers, kit.parallel_nodes, kit.tasks_of_one_loop, kit.zombie_writer)
    found = [result for case in cases if (result := case()) is not None]
    return Report("LangGraph store", tuple(found))


class _Kit:
    def __init__(self, make: Make, patience: float) -> None:
        self.make = make
        self.patience = patience

    def parallel_writers(self) -> Result:
        key, gate = "parallel-writers", Gate(_WRITERS, self.patience)
        self._begin(key)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await until_told_yes(lambda: _add(opened, key, f"{number}", gate, number))

            return connected(self.make, "batch", body)

        answers = together([partial(agent, n) for n in range(_WRITERS)], gate)
        return self._found(key, answers)

    def parallel_nodes(self) -> Result:
        key, gate = "parallel-nodes", Gate(_WRITERS, self.patience)
        self._begin(key)

        async def body(opened: Connection) -> None:
            graph = _fan_out(opened, key, gate).compile(store=opened.subject)
            config = {"max_concurrency": _WRITERS, "recursion_limit": ATTEMPTS}
            await opened.call(graph, "invoke", {"done": False}, config)

        (answer,) = together([lambda: connected(self.make, "batch", body)])
        refused = isinstance(answer, Exception)
        return self._found(key, [answer] if refused else [None] * _WRITERS, "parallel_nodes")

    def tasks_of_one_loop(self) -> Result | None:
        key, gate = "tasks-of-one-loop", Gate(_WRITERS, self.patience)
        self._begin(key)

        async def body(opened: Connection) -> list[BaseException | None]:
            adding = [partial(_add, opened, key, f"{n}", gate, n) for n in range(_WRITERS)]
            tasks = [asyncio.ensure_future(until_told_yes(each)) for each in adding]
            return await asyncio.gather(*tasks, return_exceptions=True)

        answers = connected(self.make, "batch", body, in_loop=True)
        if any(isinstance(answer, NotImplementedError) for answer in answers):
            return None  # a store without asynchronous methods
        return self._found(key, answers, "tasks_of_one_loop")

    def zombie_writer(self) -> Result:
        key, stalls, goes_on = "zombie-writer", threading.Event(), threading.Event()
        self._begin(key)

        async def stalled(opened: Connection) -> None:
            item = await opened.call(opened.subject, "get", _NAMESPACE, key)
            stalls.set()
            goes_on.wait(self.patience)
            value = item.value.copy()  # what was read, changed: a store may tell by it
            value["by"] = [*value["by"], "0"]
            await opened.call(opened.subject, "put", _NAMESPACE, key, value)

        async def replacing(opened: Connection) -> None:
            stalls.wait()
            await _add(opened, key, "1")

        def zombie() -> None:
            try:
                connected(self.make, "batch", stalled)
            finally:
                stalls.set()

        def replacement() -> None:
            try:
                connected(self.make, "batch", replacing)
            finally:
                goes_on.set()

        return self._found(key, together([zombie, replacement]), "zombie_writer")

    def _begin(self, key: str) -> None:
        async def body(opened: Connection) -> None:
            await opened.call(opened.subject, "put", _NAMESPACE, key, {"by": ["first"]})

        connected(self.make, "batch", body)

    def _found(self, key: str, answers: Sequence[object], case: str = "parallel_writers") -> Result:
        """Return what a reader finds of what was acknowledged."""

        async def body(opened: Connection) -> list[str]:
            item = await opened.call(opened.subject, "get", _NAMESPACE, key)
            return list(item.value["by"])

        expected = [f"{n}" for n, each in enumerate(answers) if not isinstance(each, Exception)]
        found = connected(self.make, "batch", body)
        return counted(case, expected, found, refusals(answers))


async def _add(
    opened: Connection, key: str, name: str, gate: Gate | None = None, agent: int = 0
) -> None:
    """Read, think, write: the name is added to those that are there."""
    item = await opened.call(opened.subject, "get", _NAMESPACE, key)
    if gate is not None:
        await opened.hold(gate, agent)
    value = item.value.copy()  # what was read, changed: a store may tell by it
    value["by"] = [*value["by"], name]
    await opened.call(opened.subject, "put", _NAMESPACE, key, value)


def _fan_out(opened: Connection, key: str, gate: Gate) -> StateGraph[_State]:
    """Return a graph of parallel nodes that each add their name."""
    from langgraph.graph import START, StateGraph
    from langgraph.types import RetryPolicy

    builder: StateGraph[_State] = StateGraph(_State)
    again = RetryPolicy(
        initial_interval=0.01, max_interval=0.05, max_attempts=ATTEMPTS, retry_on=Exception
    )
    for number in range(_WRITERS):
        builder.add_node(f"node {number}", _node(opened, key, gate, number), retry_policy=again)
        builder.add_edge(START, f"node {number}")
    return builder


def _node(opened: Connection, key: str, gate: Gate, number: int) -> Any:
    from langgraph.config import get_store

    async def in_loop(_: object) -> dict[str, bool]:
        await _add(Connection(get_store(), True), key, f"{number}", gate, number)
        return {}

    def plain(_: object) -> dict[str, bool]:
        store = get_store()
        item = store.get(_NAMESPACE, key)
        assert item is not None  # it was put before
        gate.wait(number)
        store.put(_NAMESPACE, key, {"by": [*item.value["by"], f"{number}"]})
        return {}

    return in_loop if opened.in_loop else plain
