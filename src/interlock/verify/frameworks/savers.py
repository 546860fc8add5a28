"""Cases for LangGraph checkpointers."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

from interlock.verify.frameworks.agents import (
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
)

if TYPE_CHECKING:
    from langgraph.graph.state import StateGraph

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
    kit = _Kit(make, run or _plain, take_over or run or _plain, patience)
    cases = (kit.runs_on_one_thread, kit.resume_twice, kit.crash_between_steps, kit.zombie_run)
    return Report("LangGraph checkpointer", tuple(case() for case in cases))


def _plain(saver: object, thread: str) -> AbstractContextManager[object]:
    return nullcontext({"configurable": {"thread_id": thread}})


class _Kit:
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
