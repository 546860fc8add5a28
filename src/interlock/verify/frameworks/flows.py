"""Cases for CrewAI's flow persistence: the saved state of one flow id."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any

from interlock.verify.frameworks.agents import (
    PATIENCE,
    Connection,
    Gate,
    Report,
    Result,
    acknowledged,
    connected,
    counted,
    effects,
    refusals,
    together,
)

Make = Callable[[], Any]
Run = Callable[[Any, str], AbstractContextManager[object]]
Thought = Callable[[], object]
_KICKOFFS = 5


def check_flow_persistence(
    make: Make, run: Run | None = None, take_over: Run | None = None, *, patience: float = PATIENCE
) -> Report:
    """Try what a CrewAI `FlowPersistence` keeps when several kickoffs work on one flow id.

    `make()` opens the persistence as one more process would: it returns a persistence, or a context
    manager that gives one.  All of them share one store, which is empty at first.
    `run(persistence, flow_id)` returns what a kickoff is made in, a context manager (default:
    nothing).  `take_over` is the same for a kickoff that replaces another one (default: `run`).
    `patience`: seconds that kickoffs are held for others.

    The cases: `parallel_kickoffs`, five at a time; `answer_twice`, a person's answer that is
    delivered twice must have its effect once; `zombie_kickoff`, one that stalls, is replaced, and
    goes on.
    """
    kit = _Kit(make, run or _plain, take_over or run or _plain, patience)
    cases = (kit.parallel_kickoffs, kit.answer_twice, kit.zombie_kickoff)
    return Report("CrewAI flow persistence", tuple(case() for case in cases))


def _plain(persistence: object, flow_id: str) -> AbstractContextManager[object]:
    return nullcontext()


class _Kit:
    def __init__(self, make: Make, run: Run, take_over: Run, patience: float) -> None:
        self.make = make
        self.enter = run
        self.take_over = take_over
        self.patience = patience

    def parallel_kickoffs(self) -> Result:
        id, gate = "parallel-kickoffs", Gate(_KICKOFFS, self.patience)
        self._kickoff(id, "first")

        def agent(number: int) -> None:
            return self._kickoff(id, f"{number}", lambda: gate.wait(number))

        answers = together([partial(agent, n) for n in range(_KICKOFFS)], gate)
        done = [*map(str, acknowledged(answers))]
        return self._found("parallel_kickoffs", id, done, answers)

    def answer_twice(self) -> Result:
        gate, acted, asked = Gate(2, self.patience), list[str](), list[str]()

        async def ask(opened: Connection) -> None:
            flow = _approval(acted)(persistence=opened.subject)
            flow.kickoff()
            asked.append(flow.flow_id)

        connected(self.make, "save_state", ask)

        def deliver(number: int) -> object:
            async def body(opened: Connection) -> None:
                with self.enter(opened.subject, asked[0]):
                    flow = _approval(acted).from_pending(asked[0], opened.subject)
                    gate.wait(number)
                    flow.resume("yes")

            return connected(self.make, "save_state", body)

        together([lambda: deliver(0), lambda: deliver(1)], gate)
        return effects("answer_twice", 1, len(acted), "the effect behind the answer")

    def zombie_kickoff(self) -> Result:
        id, stalls, goes_on = "zombie-kickoff", threading.Event(), threading.Event()
        self._kickoff(id, "first")

        def think() -> None:
            stalls.set()
            goes_on.wait(self.patience)

        def zombie() -> None:
            try:
                self._kickoff(id, "zombie", think)
            finally:
                stalls.set()

        def replacement() -> None:
            stalls.wait()
            try:
                self._kickoff(id, "replacement", enter=self.take_over)
            finally:
                goes_on.set()

        answers = together([zombie, replacement])
        names = zip(("zombie", "replacement"), answers, strict=True)
        done = [name for name, answer in names if not isinstance(answer, Exception)]
        return self._found("zombie_kickoff", id, done, answers)

    def _kickoff(
        self, id: str, name: str, think: Thought = lambda: None, enter: Run | None = None
    ) -> None:
        async def body(opened: Connection) -> None:
            with (enter or self.enter)(opened.subject, id):
                _notes(opened.subject, name, think)().kickoff(inputs={"id": id})

        connected(self.make, "save_state", body)

    def _found(self, case: str, id: str, done: list[str], answers: list[object]) -> Result:
        """Return what a reader finds of the notes that were acknowledged."""

        async def body(opened: Connection) -> list[str]:
            return list(opened.subject.load_state(id)["notes"])

        expected = ["first", *done] if done else []
        return counted(case, expected, connected(self.make, "save_state", body), refusals(answers))


def _notes(persistence: object, name: str, think: Thought) -> Any:
    """Return a flow that reads its notes, thinks, and adds one."""
    crewai, persisting = import_module("crewai.flow.flow"), import_module("crewai.flow.persistence")

    def note(self: Any) -> None:
        before = list(self.state.get("notes", []))
        think()
        self.state["notes"] = [*before, name]

    made = type("Notes", (crewai.Flow,), {"note": crewai.start()(note)})
    return persisting.persist(persistence)(made)


def _approval(acted: list[str]) -> Any:
    """Return a flow that asks a person, and then acts."""
    flow, crewai = import_module("crewai.flow"), import_module("crewai.flow.flow")

    class Ask:
        def request_feedback(self, context: object, flow_: object) -> str:
            raise flow.HumanFeedbackPending(context=context)

    def propose(self: object) -> str:
        return "pay 100"

    def pay(self: object, answer: Any) -> None:
        acted.append(answer.feedback)

    asked = flow.human_feedback(message="Pay?", provider=Ask())(propose)
    methods = {"propose": crewai.start()(asked), "pay": crewai.listen("propose")(pay)}
    return type("Approval", (crewai.Flow,), methods)
