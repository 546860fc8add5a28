"""Agents, each in a thread of its own, that meet where work gets lost.

An agent is written once, as a coroutine.  Where the subject is opened with `async with`, it runs in
an event loop of its own; otherwise its calls are synchronous, and it never waits for a loop.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar


@dataclass(frozen=True)
class Result:
    """What one case found.

    `expected` counts what was acknowledged, or must have happened, `kept` what is there afterwards
    (of effects: how often they ran).  `explanation` is a sentence for people.
    """

    case: str
    expected: int
    kept: int
    passed: bool
    explanation: str


@dataclass(frozen=True)
class Report:
    """The results of all cases, for one subject; prints as a table.  `report["case"]` is one."""

    subject: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Say whether nothing that was acknowledged is lost, in any case."""
        return all(result.passed for result in self.results)

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the cases that found a loss."""
        return tuple(result.case for result in self.results if not result.passed)

    def __getitem__(self, case: str) -> Result:
        return next(result for result in self.results if result.case == case)

    def __str__(self) -> str:
        rows = [("case", "expected", "kept", "", "")]
        for each in self.results:
            verdict = "ok" if each.passed else "LOST"
            rows.append((each.case, f"{each.expected}", f"{each.kept}", verdict, each.explanation))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{case:<{widths[0]}}  {expected:>{widths[1]}}  {kept:>{widths[2]}}  "
            f"{verdict:<{widths[3]}}  {explanation}".rstrip()
            for case, expected, kept, verdict, explanation in rows
        ]
        return "\n".join([self.subject, *lines])


def counted(
    case: str, expected: Iterable[str], found: Iterable[str], refusals: Collection[object]
) -> Result:
    """Return how much of what was acknowledged is there, each once; refusals were told."""
    wanted, there = list(expected), Counter(found)
    missing = [each for each in wanted if there[each] == 0]
    twice = [each for each in wanted if there[each] > 1]
    kept = len(wanted) - len(missing) - len(twice)
    told = [f"{len(refusals)} refused, and told so"] if refusals else []
    if not wanted:
        told.append("nothing was ever acknowledged")
    if missing:
        told.append(f"acknowledged, and not there: {', '.join(missing)}")
    if twice:
        told.append(f"there more than once: {', '.join(twice)}")
    said = "; ".join(told) or "all that was acknowledged is there"
    return Result(case, len(wanted), kept, kept == len(wanted) > 0, said)


def effects(case: str, expected: int, ran: int, what: str) -> Result:
    """Return how often something ran that must run an exact number of times."""
    passed = ran == expected
    return Result(
        case, expected, ran, passed, f"{what} ran {ran} times, not {expected}" * (not passed)
    )


T = TypeVar("T")
PATIENCE = 3.0  # seconds that an agent waits for others, which a lock may keep from coming
ATTEMPTS = 100  # of an agent that is refused
_MOMENT = 0.005  # seconds between two looks of a task


class Gate:
    """Holds agents until all of them are there: each has read, and none has written.

    It opens for good when all have come or left, or after `patience` seconds: a subject that lets
    one agent work at a time keeps the others away.  Each agent is held once.
    """

    def __init__(self, agents: int, patience: float) -> None:
        self._missing = agents
        self._patience = patience
        self._lock = threading.Lock()
        self._seen: set[object] = set()
        self._open = threading.Event()

    def wait(self, agent: object) -> None:
        """Hold an agent until all are there."""
        if self.leave(agent):
            self._open.wait(self._patience)
            self._open.set()

    async def wait_in_loop(self, agent: object) -> None:
        """Hold a task, and not the others of its loop."""
        if self.leave(agent):
            until = time.monotonic() + self._patience
            while not self._open.is_set() and time.monotonic() < until:
                await asyncio.sleep(_MOMENT)
            self._open.set()

    def leave(self, agent: object) -> bool:
        """Note that an agent is there, or will never come; say whether that is new."""
        with self._lock:
            if agent in self._seen:
                return False
            self._seen.add(agent)
            self._missing -= 1
            if self._missing <= 0:
                self._open.set()
            return True


class Connection:
    """A subject, opened; `call` makes its calls with or without asyncio."""

    def __init__(self, subject: Any, in_loop: bool) -> None:
        self.subject = subject
        self.in_loop = in_loop

    async def call(self, of: object, name: str, *args: object, **named: object) -> Any:
        """Call a method of `of`: `invoke`, or in a loop its twin `ainvoke`."""
        if self.in_loop:
            return await getattr(of, f"a{name}")(*args, **named)
        return getattr(of, name)(*args, **named)

    @asynccontextmanager
    async def entered(self, manager: Any) -> AsyncIterator[Any]:
        """Enter a context manager, with `async with` in a loop where it has that."""
        if self.in_loop and hasattr(manager, "__aenter__"):
            async with manager as value:
                yield value
        else:
            with manager as value:
                yield value

    async def hold(self, gate: Gate, agent: object) -> None:
        """Hold this agent at a gate."""
        if self.in_loop:
            await gate.wait_in_loop(agent)
        else:
            gate.wait(agent)


Body = Callable[[Connection], Coroutine[object, None, T]]


def connected(make: Callable[[], Any], has: str, body: Body[T], in_loop: bool = False) -> T:
    """Open a subject as a process of its own would, run `body` with it, and return its answer.

    `make` returns the subject, which has a method `has`, or a context manager that gives it.
    `in_loop`: where the subject has no other than asynchronous methods.
    """
    made = make()
    bare = hasattr(made, has)
    looping = in_loop or (not bare and not hasattr(made, "__enter__"))

    async def opened() -> T:
        if bare:
            return await body(Connection(made, looping))
        async with Connection(made, looping).entered(made) as subject:
            return await body(Connection(subject, looping))

    return asyncio.run(opened()) if looping else _without_loop(opened())


def together(agents: Sequence[Callable[[], object]], gate: Gate | None = None) -> list[object]:
    """Run agents in threads; return what each returned, or the exception that told it no."""
    answers: list[object] = [None] * len(agents)

    def work(number: int) -> None:
        try:
            answers[number] = agents[number]()
        except Exception as problem:
            answers[number] = problem
        finally:
            if gate is not None:
                gate.leave(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(agents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


async def until_told_yes(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again what is refused, from the read on, as an agent does that is told.

    Raises what the last attempt raised.
    """
    for left in reversed(range(ATTEMPTS)):
        try:
            return await attempt()
        except Exception:
            if not left:
                raise
    raise AssertionError("there is at least one attempt")


def acknowledged(answers: Sequence[object]) -> list[int]:
    """Return the numbers of the agents that ended well."""
    return [n for n, answer in enumerate(answers) if not isinstance(answer, Exception)]


def refusals(answers: Sequence[object]) -> list[Exception]:
    """Return what refused agents were told."""
    return [answer for answer in answers if isinstance(answer, Exception)]


def _without_loop(work: Coroutine[object, None, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    work.close()
    raise RuntimeError("a synchronous subject waited for an event loop")
