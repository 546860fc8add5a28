"""The agents of an exploration: real functions on the real API, run again from their answers.

An agent's local state is the answers that it was given.  To go on from there the function runs
from its beginning, is given the same answers, and is unwound at its first request without one.
What the store answers, and who moves next, is not decided here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, NoReturn

from interlock import Space
from interlock.backends.contract import Backend
from interlock.core.records import Committed, Snapshot
from interlock.core.requests import Commit, Pause, Request, Steps, TakeTurn, Think
from interlock.core.writer import Writer
from interlock.errors import InterlockError, Invalid, Refused
from interlock.verify.explorer.store import (
    SPACE,
    Raised,
    StillDriver,
    Stores,
    contents,
)

NOBODY = -1  # in place of a number: no request, no state
_MOST_REQUESTS = 300


class EndlessWait(Exception):
    """An agent has done nothing for very long but renew its place in a queue, and wait."""


History = tuple[tuple[int, int], ...]  # numbers of (request, answer)


class NotDeterministic(InterlockError):
    """An agent asked for something else although it had been given the same answers."""


class Unwound(BaseException):
    """Unwinds an agent at its first request without an answer, past every `except Exception`."""


@dataclass(frozen=True, slots=True)
class ProtocolAgent:
    """An agent made of a protocol: `steps(writer)` returns the generator of its requests."""

    steps: Callable[[Writer], Steps[object]]


def protocol_agent(steps: Callable[[Writer], Steps[object]]) -> ProtocolAgent:
    """Make an agent of a function that takes a Writer and returns a protocol's generator.

    Such as `lambda writer: update.update(writer, "k", fn, 0, limits, "op-1", False)`.
    """
    return ProtocolAgent(steps)


@dataclass(frozen=True, slots=True)
class Seen:
    """What invariants see of an agent: acknowledged commits, and how it ended if it has."""

    acknowledged: tuple[Committed, ...] = ()
    ended: bool = False
    result: object = None
    crashed: bool = False


@dataclass(slots=True)
class Local:
    """An agent's local state.  `request` NOBODY: it ended or crashed.

    `asleep`: it waits, and goes on in state `wakes_to` as soon as anything has changed.
    """

    agent: int
    history: History
    request: int
    seen: int
    asleep: bool = False
    wakes_to: int = NOBODY
    failed: BaseException | None = None
    before: int = NOBODY
    after: dict[int, int] = field(default_factory=dict)


class ReplayingDriver(StillDriver):
    """Answers from a history; unwinds the agent where the history ends."""

    def __init__(
        self, backend: Backend, agent: str, history: list[tuple[Request[object], object]]
    ) -> None:
        super().__init__(backend)
        self.pending: Request[object] | None = None
        self.problem: NotDeterministic | None = None
        self.unused = len(history)
        self._agent = agent
        self._history = history

    def answer(self, request: Request[object]) -> Any:
        """Answer one request, or unwind the agent."""
        if self.pending is not None or self.problem is not None:
            raise Unwound  # cleaning up on the way out asks for more: a process that died does not
        if isinstance(request, Think):
            return self.think(request)
        if not self.unused:
            self.pending = request
            raise Unwound
        recorded, answer = self._history[-self.unused]
        if type(recorded) is not type(request) or recorded != request:
            self.problem = _not_deterministic(self._agent, f"{request}", f"{recorded}")
            raise Unwound
        self.unused -= 1
        if isinstance(answer, Raised):
            raise answer.problem
        return answer


class _Elsewhere:
    """Stands in for the backend: an explored agent reaches the store through its driver only."""

    name = SPACE

    def __init__(self, uid: str) -> None:
        self.uid = uid

    def perform(self, request: object) -> NoReturn:
        raise NotImplementedError("an explored agent uses the space it was given, and no other")

    async def perform_async(self, request: object) -> NoReturn:
        raise NotImplementedError("explored agents are plain functions, not coroutines")

    def close(self) -> None:
        """Nothing: an agent that closes its space ends its own use of it."""

    async def close_async(self) -> None:
        """The same."""


class Agents:
    """Local states of all agents, by number."""

    def __init__(self, agents: Mapping[str, object], stores: Stores) -> None:
        self.names = tuple(agents)
        self.states: list[Local] = []
        self.seen: list[Seen] = []
        self._stores = stores
        self._seen_numbers: dict[str, int] = {}
        self._ends: dict[tuple[int, int], int] = {}
        self._nothing = stores.answers.number(None)
        self._elsewhere = _Elsewhere(stores.backend.uid)
        for name in agents:
            stores.writer(name)  # refuses what is not a name
        self._programs = [_program(name, agent) for name, agent in agents.items()]

    def start(self, agent: int) -> int:
        """Return the state of an agent that has asked for nothing yet."""
        return self._new(agent, (), NOBODY)

    def go_on(self, state: int, answer: int) -> int:
        """Return the state that follows when the pending request is answered."""
        local = self.states[state]
        found = local.after.get(answer)
        if found is None:
            history = (*local.history, (local.request, answer))
            found = local.after[answer] = self._new(local.agent, history, state)
        return found

    def wake(self, state: int) -> int:
        """Return the state of an agent that waited, once anything has changed.

        Where it then asks again what it asked before it waited, the fruitless question and the wait
        are forgotten: it is where it was before them.  So waiting long is no longer than waiting.
        """
        local = self.states[state]
        if local.wakes_to == NOBODY:
            woken = self.go_on(state, self._nothing)
            local.wakes_to = local.before if self._asks_again(local, woken) else woken
        return local.wakes_to

    def _asks_again(self, local: Local, woken: int) -> bool:
        asked = local.history[-1][0] if local.history else NOBODY
        if asked == NOBODY or isinstance(self._stores.requests[asked], Commit):
            return False  # what a commit was answered is never forgotten
        return self.states[woken].request == asked

    def crash(self, state: int) -> int:
        """Return the state of an agent that died: only what it was acknowledged remains."""
        local = self.states[state]
        seen = self._seen_number(Seen(self.seen[local.seen].acknowledged, crashed=True))
        return self._end(local.agent, seen, None)

    def _new(self, agent: int, history: History, before: int) -> int:
        requests, answers = self._stores.requests, self._stores.answers
        if len(history) > _MOST_REQUESTS:
            lately = [requests[request] for request, _ in history[_MOST_REQUESTS // 3 :]]
            if all(isinstance(each, Pause | TakeTurn) for each in lately):
                raise EndlessWait
            raise Invalid(
                f"agent {self.names[agent]!r} made {_MOST_REQUESTS} requests without an end; "
                "explored agents must end, and must not ask in a loop until something changes"
            )
        given = [(requests[request], answers[answer]) for request, answer in history]
        told = (a.applied if isinstance(a, Snapshot) else a for _, a in given)
        acknowledged = tuple(each for each in told if isinstance(each, Committed))
        pending, result, failed = self._run(agent, given)
        if pending is None:
            seen = self._seen_number(Seen(acknowledged, ended=True, result=result))
            return self._end(agent, seen, failed)
        number = self._stores.request_number(pending)
        seen = self._seen_number(Seen(acknowledged))
        asleep = isinstance(pending, Pause)
        self.states.append(Local(agent, history, number, seen, asleep=asleep, before=before))
        return len(self.states) - 1

    def _run(
        self, agent: int, answers: list[tuple[Request[object], object]]
    ) -> tuple[Request[object] | None, object, BaseException | None]:
        """Run an agent on its answers; return its next request, or its result and its failure."""
        name, result, failed = self.names[agent], None, None
        driver = ReplayingDriver(self._elsewhere, name, answers)
        try:
            given = self._stores.given(driver, name)
            result = Context().run(self._programs[agent], given)  # it holds nothing of another's
        except Unwound:
            return _pending(driver), None, None
        except Refused as refusal:
            result = refusal
        except Exception as problem:
            result = failed = problem
        if driver.pending is not None:
            raise Invalid(
                f"agent {name!r} caught a BaseException that was not its own and went on; "
                "catch Exception, or what you expect"
            )
        if driver.problem is not None:
            raise driver.problem
        if driver.unused:
            recorded = answers[-driver.unused][0]
            raise _not_deterministic(name, "nothing and ended", f"{recorded}")
        return None, result, failed

    def _end(self, agent: int, seen: int, failed: BaseException | None) -> int:
        """Return the state of an agent that does nothing more; how it got there is forgotten."""
        found = self._ends.get((agent, seen))
        if found is None:
            found = self._ends[agent, seen] = len(self.states)
            self.states.append(Local(agent, (), NOBODY, seen, failed=failed))
        return found

    def _seen_number(self, seen: Seen) -> int:
        text = contents((seen.acknowledged, seen.ended, seen.result, seen.crashed))
        number = self._seen_numbers.get(text)
        if number is None:
            number = self._seen_numbers[text] = len(self.seen)
            self.seen.append(seen)
        return number


def _pending(driver: ReplayingDriver) -> Request[object]:
    if driver.problem is not None:
        raise driver.problem
    assert driver.pending is not None
    return driver.pending


def _not_deterministic(agent: str, asked: str, recorded: str) -> NotDeterministic:
    return NotDeterministic(
        f"agent {agent!r} asked {asked}\nwhere it had asked {recorded}\nwith the same answers "
        "before; explored agents run many times and must not depend on time, randomness, or on "
        "variables that outlive one run"
    )


def _program(name: str, agent: Any) -> Callable[[Space], object]:
    """Return an agent as a function of a space.  Raises Invalid where it is not one."""
    if inspect.isgeneratorfunction(agent):
        agent = ProtocolAgent(agent)
    if isinstance(agent, ProtocolAgent):
        steps = agent.steps
        return lambda space: space.session.driver.run(steps(space.session.writer))
    if inspect.iscoroutinefunction(agent):
        raise Invalid(f"agent {name!r} is a coroutine function; explore plain functions")
    if not callable(agent):
        raise Invalid(f"agent {name!r} is {agent!r}, not a function that takes a Space")
    program: Callable[[Space], object] = agent
    return program
