"""Cases for sessions of OpenAI Agents: the history of one conversation."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from interlock import Json
from interlock.verify.frameworks.agents import (
    PATIENCE,
    Body,
    Connection,
    Gate,
    Report,
    Result,
    acknowledged,
    connected,
    counted,
    refusals,
    together,
    until_told_yes,
)

Make = Callable[[str], Any]
T = TypeVar("T")
_RUNS, _APPENDERS = 2, 5


def check_session(
    make: Make,
    take_over: Callable[[Any], Awaitable[object]] | None = None,
    *,
    patience: float = PATIENCE,
) -> Report:
    """Try what a session of OpenAI Agents keeps when several agents work on one conversation.

    `make(session_id)` opens a session as one more process would: it returns a session, or a context
    manager (`async with`, too) that gives one.  All of them share one store, which is empty at
    first.  An agent that is refused reads again and thinks again.  `take_over(session)`, awaited,
    takes the conversation away from a run that stalls.  `patience`: seconds that agents are held
    for others.

    The cases: `parallel_appends`, which needs no care; `summary_against_append`, a summary takes
    the place of a history that has grown; `undo_twice`, delivered twice; `two_runs` of a `Runner`,
    whose turns must stay whole and whose model is not asked in vain; `zombie_run`, one that stalls
    while another one goes on.
    """
    kit = _Kit(make, take_over, patience)
    cases = (
        kit.parallel_appends,
        kit.summary_against_append,
        kit.undo_twice,
        kit.two_runs,
        kit.zombie_run,
    )
    return Report("OpenAI Agents session", tuple(case() for case in cases))


class _Kit:
    def __init__(
        self, make: Make, take_over: Callable[[Any], Awaitable[object]] | None, patience: float
    ) -> None:
        self.make = make
        self.take_over = take_over
        self.patience = patience

    def parallel_appends(self) -> Result:
        id, gate = "parallel-appends", Gate(_APPENDERS, self.patience)

        def agent(number: int) -> object:
            async def body(opened: Connection) -> None:
                await opened.hold(gate, number)
                await until_told_yes(lambda: opened.subject.add_items(_turn(number)))

            return self._connected(id, body)

        answers = together([partial(agent, n) for n in range(_APPENDERS)], gate)
        done = acknowledged(answers)
        expected = [text for number in done for text in _texts(_turn(number))]
        return counted("parallel_appends", expected, self._history(id), refusals(answers))

    def summary_against_append(self) -> Result:
        id, thinks, added = "summary-against-append", threading.Event(), threading.Event()
        late = [*_turn(1), *_turn(2)]
        self._begin(id, _turn(0))

        async def summarise(opened: Connection) -> None:
            async def attempt() -> None:
                items = await opened.subject.get_items()
                thinks.set()
                added.wait(self.patience)
                await opened.subject.clear_session()
                told = " | ".join(_texts(items))
                await opened.subject.add_items([{"role": "assistant", "content": told}])

            await until_told_yes(attempt)

        async def append(opened: Connection) -> None:
            thinks.wait(self.patience)
            try:
                await until_told_yes(lambda: opened.subject.add_items(late))
            finally:
                added.set()

        answers = together([partial(self._connected, id, each) for each in (summarise, append)])
        appended = not isinstance(answers[1], Exception)
        found = [part for text in self._history(id) for part in text.split(" | ")]
        return counted(
            "summary_against_append", _texts(late) if appended else [], found, refusals(answers)
        )

    def undo_twice(self) -> Result:
        id, gate = "undo-twice", Gate(2, self.patience)
        self._begin(id, [item for number in range(3) for item in _turn(number)])

        def deliver(number: int) -> object:
            async def body(opened: Connection) -> None:
                async def attempt() -> None:
                    items = await opened.subject.get_items()
                    await opened.hold(gate, number)
                    if _texts(items)[-1] == "answer 2":
                        await opened.subject.pop_item()
                        await opened.subject.pop_item()

                await until_told_yes(attempt)

            return self._connected(id, body)

        answers = together([lambda: deliver(0), lambda: deliver(1)], gate)
        expected = [text for number in range(2) for text in _texts(_turn(number))]
        return counted("undo_twice", expected, self._history(id), refusals(answers))

    def two_runs(self) -> Result:
        id, gate, asked = "two-runs", Gate(_RUNS, self.patience), list[int]()

        def agent(number: int) -> object:
            async def thinks(_: object) -> str:
                asked.append(number)
                await gate.wait_in_loop(number)
                return f"answer {number}"

            async def body(opened: Connection) -> None:
                await _run(opened.subject, number, thinks)

            return self._connected(id, body)

        answers = together([partial(agent, n) for n in range(_RUNS)], gate)
        return self._turns("two_runs", id, answers, asked)

    def zombie_run(self) -> Result:
        id, stalls, goes_on = "zombie-run", threading.Event(), threading.Event()
        asked: list[int] = []

        async def stalled(_: object) -> str:
            asked.append(0)
            stalls.set()
            goes_on.wait(self.patience)
            return "answer 0"

        async def zombie(opened: Connection) -> None:
            try:
                await _run(opened.subject, 0, stalled)
            finally:
                stalls.set()

        async def answers_at_once(_: object) -> str:
            asked.append(1)
            return "answer 1"

        async def replacement(opened: Connection) -> None:
            stalls.wait()
            try:
                if self.take_over is not None:
                    await self.take_over(opened.subject)
                await _run(opened.subject, 1, answers_at_once)
            finally:
                goes_on.set()

        bodies = (zombie, replacement)
        answers = together([partial(self._connected, id, body) for body in bodies])
        return self._turns("zombie_run", id, answers, [])

    def _turns(self, case: str, id: str, answers: list[object], asked: list[int]) -> Result:
        """Return how many acknowledged turns are whole: the question, and its answer right after.

        `asked`: the runs whose model was asked, which costs; a refused one is none of them.
        """
        texts = self._history(id)
        pairs = [*pairwise(texts)]
        done = acknowledged(answers)
        whole = [
            f"whole turn {n}" for n in range(_RUNS) if (f"question {n}", f"answer {n}") in pairs
        ]
        found = counted(case, [f"whole turn {n}" for n in done], whole, refusals(answers))
        in_vain = [n for n in asked if n not in done]
        if not in_vain:
            return found
        told = f"{found.explanation}; the model was asked in vain by runs {in_vain}"
        return Result(case, found.expected, found.kept, False, told)

    def _begin(self, id: str, items: list[Json]) -> None:
        async def body(opened: Connection) -> None:
            await opened.subject.add_items(items)

        self._connected(id, body)

    def _history(self, id: str) -> list[str]:
        """Return what a reader finds, as texts."""

        async def body(opened: Connection) -> list[str]:
            return _texts(await opened.subject.get_items())

        return self._connected(id, body)

    def _connected(self, id: str, body: Body[T]) -> T:
        return connected(lambda: self.make(id), "get_items", body, in_loop=True)


def _turn(number: int) -> list[Json]:
    return [
        {"role": "user", "content": f"question {number}"},
        {"role": "assistant", "content": f"answer {number}"},
    ]


def _texts(items: list[Json]) -> list[str]:
    """Return the texts of items, whichever form their content has."""
    found = []
    for item in items:
        content = item["content"]
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        found.append("".join(parts))
    return found


async def _run(session: Any, number: int, answer: Callable[[object], Awaitable[str]]) -> None:
    """Make one run of an agent whose model says what `answer` returns."""
    from agents import Agent, RunConfig, Runner
    from agents.testing import ModelStep, ScriptedModel, assistant_message

    async def respond(call: object) -> list[Any]:
        return [assistant_message(await answer(call))]

    agent = Agent(name="assistant", model=ScriptedModel([ModelStep.respond(respond)]))
    config = RunConfig(tracing_disabled=True)
    await Runner.run(agent, f"question {number}", session=session, run_config=config)
