"""Cases for LangGraph: checkpointers, and stores of long-term memory that several agents write."""

from __future__ import annotations

import asyncio
import copy
import operator
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

from interlock.verify.frameworks.agents import (
    ATTEMPTS,
    PATIENCE,
    Connection,
    Gate,
    Report,
    Result,
    connected,
    counted,
    effects,
    refusals,
    together,
    until_told_yes,
)

if TYPE_CHECKING:
    from langgraph.graph.state import StateGraph


if TYPE_CHECKING:
    from langgraph.graph import StateGraph

Make = Callable[[], Any]
Run = Callable[[Any, str], AbstractContextManager[object]]
Node = Callable[[object], list[str]]
_RUNS = 5
T = TypeVar("T")
_FIRST = ["hello", "hello to you"]


class _State(TypedDict):
    messages: Annotated[list[str], operator.add]


class _Died(Exception):
    """The process ends here."""


def check_saver(
    make: Make, run: Run | None = None, take_over: Run | None = None, *, patience: float = PATIENCE
) -> Report:
    """Try what a LangGraph checkpointer keeps when several runs work on one thread.

    `make()` opens the saver as one more process would: it returns a saver, or a context manager
    (`async with`, too) that gives one.  All of them share one store, which is empty at first.
    `run(saver, thread_id)` returns what a run is made in, a context manager that gives the config;
    without it the config only names the thread.  `take_over` is the same for a run that replaces
    another one (default: `run`).  `patience`: seconds that runs are held for others.

    The cases: `runs_on_one_thread`, five at a time; `resume_twice`, an answer that is delivered
    twice must have its effect once; `crash_between_steps`; `zombie_run`, one that stalls, is
    replaced, and goes on.
    """
    kit = _SaverKit(make, run or _plain, take_over or run or _plain, patience)
    cases = (kit.runs_on_one_thread, kit.resume_twice, kit.crash_between_steps, kit.zombie_run)
    return Report("LangGraph checkpointer", tuple(case() for case in cases))


def _plain(saver: object, thread: str) -> AbstractContextManager[object]:
    return nullcontext({"configurable": {"thread_id": thread}})


class _SaverKit:
    def __init__(self, make: Make, run: Run, take_over: Run, patience: float) -> None:
        self.make = make
        self.enter = run
        self.take_over = take_over
        self.patience = patience

    def runs_on_one_thread(self) -> Result:
        thread, gate = "runs-on-one-thread", Gate(_RUNS, self.patience)
        self._run(thread, "hello", lambda _: ["hello to you"])

        def agent(number: int) -> object:
            return self._run(
                thread,
                f"question {number}",
                lambda _: [f"answer {number}"],
                held=lambda saver: _held(saver, gate, number),
            )

        answers = together([partial(agent, n) for n in range(_RUNS)], gate)
        expected = list(_FIRST)
        for number, answer in enumerate(answers):
            if not isinstance(answer, Exception):
                expected += [f"question {number}", f"answer {number}"]
        if len(refusals(answers)) == _RUNS:
            expected = []
        return counted("runs_on_one_thread", expected, self._messages(thread), refusals(answers))

    def resume_twice(self) -> Result:
        thread, gate, ran = "resume-twice", Gate(2, self.patience), list[str]()

        def pay(_: object) -> list[str]:
            from langgraph.types import interrupt

            answer = str(interrupt("pay?"))
            ran.append(answer)
            return [f"paid: {answer}"]

        self._run(thread, "order", pay)

        def deliver(number: int) -> object:
            from langgraph.types import Command

            async def body(opened: Connection) -> None:
                graph = _graph(pay).compile(checkpointer=opened.subject)
                async with opened.entered(self.enter(opened.subject, thread)) as config:
                    state = await opened.call(graph, "get_state", config)
                    await opened.hold(gate, number)
                    if state.next:
                        await opened.call(graph, "invoke", Command(resume="yes"), config)

            return connected(self.make, "get_tuple", body)

        together([lambda: deliver(0), lambda: deliver(1)], gate)
        return effects("resume_twice", 1, len(ran), "the effect behind the answer")

    def crash_between_steps(self) -> Result:
        thread, ran = "crash-between-steps", list[str]()

        def first(_: object) -> list[str]:
            ran.append("first")
            return ["first"]

        def second(_: object) -> list[str]:
            ran.append("second")
            if ran.count("second") == 1:
                raise _Died
            return ["second"]

        together([lambda: self._run(thread, "go", first, second)])

        async def recover(opened: Connection) -> None:
            graph = _graph(first, second).compile(checkpointer=opened.subject)
            async with opened.entered(self.enter(opened.subject, thread)) as config:
                state = await opened.call(graph, "get_state", config)
                given = None if state.next else {"messages": ["go"]}
                await opened.call(graph, "invoke", given, config)

        connected(self.make, "get_tuple", recover)
        again = ["first, a second time"] * (ran.count("first") - 1)
        expected = ["go", "first", "second"]
        return counted("crash_between_steps", expected, [*self._messages(thread), *again], [])

    def zombie_run(self) -> Result:
        thread, stalls, goes_on = "zombie-run", threading.Event(), threading.Event()
        self._run(thread, "hello", lambda _: ["hello to you"])

        def stalled(_: object) -> list[str]:
            stalls.set()
            goes_on.wait(self.patience)
            return ["answer of the zombie"]

        def zombie() -> object:
            try:
                return self._run(thread, "question to the zombie", stalled)
            finally:
                stalls.set()

        def replacement() -> object:
            stalls.wait()
            try:
                return self._run(thread, "question", lambda _: ["answer"], enter=self.take_over)
            finally:
                goes_on.set()

        answers = together([zombie, replacement])
        expected = list(_FIRST)
        if not isinstance(answers[0], Exception):
            expected += ["question to the zombie", "answer of the zombie"]
        if not isinstance(answers[1], Exception):
            expected += ["question", "answer"]
        told = refusals(answers)
        return counted(
            "zombie_run", expected if len(told) < 2 else [], self._messages(thread), told
        )

    def _run(
        self,
        thread: str,
        question: str,
        *nodes: Node,
        enter: Run | None = None,
        held: Callable[[Any], Any] = lambda saver: saver,
    ) -> object:
        """Make one run on a thread with a connection of its own."""

        async def body(opened: Connection) -> object:
            graph = _graph(*nodes).compile(checkpointer=held(opened.subject))
            async with opened.entered((enter or self.enter)(opened.subject, thread)) as config:
                return await opened.call(graph, "invoke", {"messages": [question]}, config)

        return connected(self.make, "get_tuple", body)

    def _messages(self, thread: str) -> list[str]:
        """Return what a reader finds on a thread."""

        async def body(opened: Connection) -> list[str]:
            graph = _graph(lambda _: []).compile(checkpointer=opened.subject)
            state = await opened.call(graph, "get_state", {"configurable": {"thread_id": thread}})
            return list(state.values["messages"])

        return connected(self.make, "get_tuple", body)


def _graph(*nodes: Node) -> StateGraph[_State]:
    """Return a graph whose nodes come one after the other; each returns messages."""
    from langgraph.graph import START, StateGraph

    builder: StateGraph[_State] = StateGraph(_State)
    before = START
    for number, node in enumerate(nodes):
        name = f"node {number}"
        builder.add_node(name, lambda state, node=node: {"messages": node(state)})
        builder.add_edge(before, name)
        before = name
    return builder


def _held(saver: T, gate: Gate, agent: int) -> T:
    """Return the saver, held at a gate after it has read the newest checkpoint."""
    kind = type(saver)

    class Held(kind):  # type: ignore[misc,valid-type]  # the kind of saver under test
        def get_tuple(self, config: object) -> object:
            found = super().get_tuple(config)
            gate.wait(agent)
            return found

        async def aget_tuple(self, config: object) -> object:
            found = await super().aget_tuple(config)
            await gate.wait_in_loop(agent)
            return found

    held = copy.copy(saver)  # with the same connection: only the class differs
    held.__class__ = Held
    return held


_WRITERS = 8
_NAMESPACE = ("team",)


class _Done(TypedDict):
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
    kit = _StoreKit(make, patience)
    cases = (kit.parallel_writers, kit.parallel_nodes, kit.tasks_of_one_loop, kit.zombie_writer)
    found = [result for case in cases if (result := case()) is not None]
    return Report("LangGraph store", tuple(found))


class _StoreKit:
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


def _fan_out(opened: Connection, key: str, gate: Gate) -> StateGraph[_Done]:
    """Return a graph of parallel nodes that each add their name."""
    from langgraph.graph import START, StateGraph
    from langgraph.types import RetryPolicy

    builder: StateGraph[_Done] = StateGraph(_Done)
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
