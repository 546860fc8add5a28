"""What the backends of servers share: one call a request, grouped commits, the last known commit.

A server's own part says how a request becomes a call, and carries calls there and back.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Generic, NamedTuple, TypeVar

import interlock.backends.registry  # noqa: F401  # before ours: a child forgets stores, then borrows
from interlock import cancellation
from interlock.backends import answers
from interlock.backends.group_commit import GroupCommit
from interlock.backends.refusal_log import RefusalLog
from interlock.core.conflict_report import RefusalNote, note
from interlock.core.group import Deliveries
from interlock.core.plan import Plan
from interlock.core.records import Committed, Snapshot
from interlock.core.refusals import Outcome, Refusal
from interlock.core.requests import (
    Commit,
    LoadAt,
    LogPage,
    Noted,
    Pause,
    Place,
    ReadRefusals,
    Request,
    SaveFold,
    SaveProjection,
    T,
    ValuePage,
)
from interlock.errors import AnswerLost, Closed, Corrupt, Fault, Invalid, LostCommits, Unavailable


class Slots:
    """Slots for `most` tasks at a time.  However many wait, each of them keeps its place.

    They have one timer together: thousands may come at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()  # and when it came
        self._finished = 0.0  # when the last one was done, by the loop's clock
        self._looks = False

    @asynccontextmanager
    async def one(self, patience: float) -> AsyncIterator[None]:
        """Have a slot.  Raises TimeoutError where nobody was done for `patience` seconds: who waits
        behind many others has not met a store that is away."""
        if self._free:
            self._free -= 1
        else:
            await self._turn(patience)
        try:
            yield
            self._finished = asyncio.get_running_loop().time()
        finally:
            self._give()

    async def _turn(self, patience: float) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append((turn, loop.time()))
        if not self._looks:
            self._looks = True
            loop.call_later(patience, self._look, loop, patience)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.done():
                turn.cancel()
            elif not turn.cancelled() and turn.exception() is None:
                self._give()  # its turn had come, and it has not heard of it
            raise

    def _look(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """Have those give up who have waited in vain."""
        while self._waiting:
            turn, came = self._waiting[0]
            left = max(came, self._finished) + patience - loop.time()
            if left > 0 and not turn.done():
                loop.call_later(left, self._look, loop, patience)
                return
            self._waiting.popleft()
            if not turn.done():
                turn.set_exception(TimeoutError())
        self._looks = False

    def _give(self) -> None:
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


FLIGHTS = 2  # groups of commits on their way at once
MOST = 128  # plans of a group: a server should not be busy with one for long
_OPENINGS, _OPENING_PAUSE = 5, 0.05  # times, seconds


DURABILITY = ("full", "normal", "off")


class ServerOptions(NamedTuple):
    """Settings of a store on a server.

    `durability`: on PostgreSQL `full` answers when the commit is on the server's disk
    (`synchronous_commit` at least `on`); `normal` and `off` may lose the last commits where the
    server crashes.  On Redis it has no effect: how long a commit lasts is the server's setting.
    `busy_timeout`: seconds to wait for a connection, or for a server that is loading, failing over
    or moving the slot.
    """

    durability: str = "full"
    busy_timeout: float = 20.0


def check_options(options: ServerOptions) -> None:
    """Raise Invalid where an option has no meaning."""
    if options.durability not in DURABILITY:
        raise Invalid(f"durability={options.durability!r} must be one of {', '.join(DURABILITY)}.")
    seconds = options.busy_timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 1e6:
        raise Invalid(f"busy_timeout={options.busy_timeout!r} must be a number of seconds above 0.")


class Known(NamedTuple):
    """The last commit that this process knows of: where it stands in the log, and its operation
    id.  Sent with commits and reads, so that a store that has lost it says so, however far its log
    has come since."""

    position: int = 0
    op_id: str = ""


C = TypeVar("C")  # how a server is called


class RemoteBackend(ABC, Generic[C]):
    """One space on a server."""

    uid: str
    name: str

    def __init__(self, name: str, place: str, options: ServerOptions) -> None:
        self.name = name
        self.place = place
        self._known = Known()  # of our own commits, and of the log that was read
        self._reached = 0  # the furthest position that any answer told of
        self._ahead_us = 0  # the server's clock before ours, about
        self._lost: LostCommits | None = None
        self._closed = False
        self._group = GroupCommit(self._apply, MOST)
        self._groups: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGroupCommit] = (
            weakref.WeakKeyDictionary()
        )
        self._notes = RefusalLog(self._save_notes)
        self._options = options
        self._connect()
        _BACKENDS.add(self)

    # A server's own part

    @abstractmethod
    def _call(self, request: Request[object]) -> C:
        """Return the call of a request."""

    @abstractmethod
    def _commit_call(self, plans: Sequence[Plan], known: Known) -> C:
        """Return the call that judges and applies plans; its answer is a list of outcomes."""

    @abstractmethod
    def _notes_call(self, notes: Sequence[RefusalNote]) -> C:
        """Return the call that keeps refusals."""

    @abstractmethod
    def _send(self, call: C) -> Any:
        """Carry a call to the server and return its answer.  Raises AnswerLost and the faults."""

    @abstractmethod
    async def _send_async(self, call: C) -> Any:
        """The same without blocking the event loop."""

    @abstractmethod
    def _await_news(self, position: int, seconds: float) -> None:
        """Wait until the log ends after `position`, or `seconds` have passed."""

    @abstractmethod
    async def _await_news_async(self, position: int, seconds: float) -> None:
        """The same without blocking the event loop."""

    @abstractmethod
    def _connect(self) -> None:
        """Begin without any connection; they are opened as they are needed."""

    @abstractmethod
    def _connections(self) -> object:
        """Everything that holds connections."""

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connections of threads."""

    @abstractmethod
    async def _disconnect_async(self) -> None:
        """Close the connections of this event loop."""

    def _first(self, call: C) -> Any:
        """Answer a call that opens the space, when no driver stands by to send it again."""
        for _ in range(_OPENINGS):
            try:
                return self._send(call)
            except AnswerLost as problem:
                lost = problem
                time.sleep(_OPENING_PAUSE)
        raise Unavailable(f"Can't reach {self.place} ({lost}).") from lost

    # Requests

    def perform(self, request: Request[object]) -> Any:
        """Answer one request."""
        self._check_open()
        if isinstance(request, Commit):
            return self._noted(request.plan, self._group.commit(request.plan))
        if isinstance(request, Pause):
            if request.position is None:
                return time.sleep(request.seconds)
            return self._await_news(request.position, request.seconds)
        if isinstance(request, Noted):
            return self._keep(request.refusal, request.agent, "")
        if isinstance(request, ReadRefusals):
            self._notes.flush()
        before = self._reached
        try:
            return self._checked(request, before, self._send(self._call(request)))
        except (LostCommits, AnswerLost, Fault, json.JSONDecodeError) as problem:
            return self._failed(request, problem)

    async def perform_async(self, request: Request[object]) -> Any:
        """Answer one request without blocking the event loop."""
        self._check_open()
        if isinstance(request, Commit):
            return self._noted(request.plan, await self._group_of_loop().commit(request.plan))
        if isinstance(request, Pause):
            if request.position is None:
                return await asyncio.sleep(request.seconds)
            return await self._await_news_async(request.position, request.seconds)
        if isinstance(request, Noted):
            return self._keep(request.refusal, request.agent, "")
        if isinstance(request, ReadRefusals):
            await asyncio.to_thread(self._notes.flush)
        before = self._reached
        try:
            # What was sent is carried out.  Whoever is cancelled gives up turns and leases next,
            # and must not overtake the request that takes them.
            answer = await cancellation.finish(self._send_async(self._call(request)))
            return self._checked(request, before, answer)
        except (LostCommits, AnswerLost, Fault, json.JSONDecodeError) as problem:
            return self._failed(request, problem)

    def close(self) -> None:
        """Give back the connections.  Closing twice does nothing."""
        if not self._closed:
            self._notes.close()
            self._closed = True
            self._disconnect()
            _BACKENDS.discard(self)

    async def close_async(self) -> None:
        """The same from an event loop, whose connections are given back too."""
        group = self._groups.pop(asyncio.get_running_loop(), None)
        if group is not None:
            await group.drain()
        await asyncio.to_thread(self.close)
        await self._disconnect_async()

    # Commits

    def _apply(self, plans: Sequence[Plan]) -> Sequence[Outcome]:
        try:
            found = self._send(self._commit_call(plans, self._known))
            return self._acknowledged(plans, found)
        except LostCommits as problem:
            self._lost = problem
            raise

    async def _apply_async(self, plans: Sequence[Plan]) -> Sequence[Outcome]:
        try:
            found = await self._send_async(self._commit_call(plans, self._known))
            return self._acknowledged(plans, found)
        except LostCommits as problem:
            self._lost = problem
            raise

    def _group_of_loop(self) -> AsyncGroupCommit:
        loop = asyncio.get_running_loop()
        group = self._groups.get(loop)
        if group is None:
            group = self._groups[loop] = AsyncGroupCommit(self._apply_async, FLIGHTS, MOST)
        return group

    def _acknowledged(
        self, plans: Sequence[Plan], outcomes: Sequence[Outcome]
    ) -> Sequence[Outcome]:
        """Remember the last commit, so that a store that lost it is noticed."""
        for plan, outcome in zip(plans, outcomes, strict=True):
            if isinstance(outcome, Committed):
                self._remember(Known(outcome.writes[-1].position, plan.op_id))
                if not outcome.replayed:
                    self._ahead_us = outcome.time_us - time.time_ns() // 1000
        return outcomes

    def _remember(self, known: Known) -> None:
        if known.position > self._known.position:
            self._known = known
        self._reached = max(self._reached, known.position)

    # What came of it

    def _checked(self, request: Request[object], before: int, answer: T) -> T:
        """Compare where the log ends with what was known before the request was sent."""
        position = -1
        if isinstance(answer, LogPage | ValuePage | Deliveries):
            position = answer.head
        elif isinstance(answer, Place | Snapshot) and not isinstance(request, LoadAt):
            snapshot = answer.snapshot if isinstance(answer, Place) else answer
            position = snapshot.position
            self._ahead_us = snapshot.time_us - time.time_ns() // 1000
        if 0 <= position < before:
            raise answers.lost_commits(position, before)
        self._reached = max(self._reached, position)
        if isinstance(answer, LogPage) and answer.entries:
            last = answer.entries[-1]
            self._remember(Known(last.position, last.op_id))
        return answer

    def _failed(self, request: Request[object], problem: Exception) -> None:
        """Raise what a request ended with, as the drivers and callers expect it."""
        if isinstance(problem, LostCommits):
            self._lost = problem
        if isinstance(problem, json.JSONDecodeError):
            raise Corrupt(
                f"{self.place} is damaged: a value does not decode ({problem})"
            ) from problem
        if isinstance(request, SaveFold | SaveProjection) and not isinstance(problem, LostCommits):
            return  # a cache: whoever reads next tries again
        raise problem

    def _check_open(self) -> None:
        if self._lost is not None:
            raise LostCommits(*self._lost.args)  # anew: a traceback grows each time it is raised
        if self._closed:
            raise Closed(f"The space in {self.place} is closed. Open it again to use it.")

    # Refusals

    def _noted(self, plan: Plan, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Refusal):
            self._keep(outcome, plan.agent, plan.op_id)
        return outcome

    def _keep(self, refusal: Refusal, agent: str, op_id: str) -> None:
        found = note(refusal, agent, op_id, time.time_ns() // 1000 + self._ahead_us)
        if found is not None:
            self._notes.add(found)

    def _save_notes(self, notes: Sequence[RefusalNote]) -> bool:
        with suppress(AnswerLost):  # dropped, or kept: nobody waits for it
            self._send(self._notes_call(notes))
        return True

    def _start_anew(self) -> None:
        """In a forked child: no thread of the parent is here, and its connections are its own."""
        _LEFT_BEHIND.append(self._connections())
        self._connect()
        self._group.reset()
        self._notes.start_anew()
        self._groups = weakref.WeakKeyDictionary()


_BACKENDS: weakref.WeakSet[RemoteBackend[Any]] = weakref.WeakSet()
_LEFT_BEHIND: list[object] = []  # what belongs to the parent of a forked child: never touched again


def _after_fork_in_child() -> None:
    for backend in list(_BACKENDS):
        backend._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def next_look(waited: float) -> float:
    """Return seconds until the next question for news, where the server does not tell."""
    return min(max(0.002, waited * 0.03), 0.05)


class _Waiting:
    """A plan on its way, and what its task awaits."""

    __slots__ = ("answer", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()


class AsyncGroupCommit:
    """Collects plans and hands them to `apply` in groups; `flights` groups of at most
    `most` plans travel at once."""

    def __init__(
        self,
        apply: Callable[[Sequence[Plan]], Awaitable[Sequence[Outcome]]],
        flights: int,
        most: int,
    ) -> None:
        self._apply = apply
        self._flights = flights
        self._most = most
        self._waiting: list[_Waiting] = []
        self._flying = 0  # a task that has ended counts no more, though it is still in the set
        self._tasks: set[asyncio.Task[None]] = set()

    async def commit(self, plan: Plan) -> Outcome:
        """Commit one plan, together with those of other tasks that wait at the same time.

        A task that is cancelled meanwhile does not hear the answer; the plan is not taken back,
        and the task goes on once it is judged.
        """
        waiting = _Waiting(plan)
        self._waiting.append(waiting)
        if self._flying < self._flights:
            self._flying += 1
            task = asyncio.ensure_future(self._fly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.cancelled():  # the flight may have landed already
                waiting.answer = asyncio.get_running_loop().create_future()
                await cancellation.outlast(waiting.answer)
            raise

    async def drain(self) -> None:
        """Wait for what is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _fly(self) -> None:
        try:
            await asyncio.sleep(0)  # let every task that is ready add its plan
            while self._waiting:
                group = self._waiting[: self._most]
                del self._waiting[: len(group)]
                await self._send(group)
        finally:
            self._flying -= 1

    async def _send(self, group: Sequence[_Waiting]) -> None:
        try:
            found = await self._apply([waiting.plan for waiting in group])
        except Exception as problem:
            _fail(group, problem)
        except BaseException:
            _fail(group, AnswerLost("the event loop was stopped while it committed"))
            raise
        else:
            for waiting, outcome in zip(group, found, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(outcome)


def _fail(group: Sequence[_Waiting], problem: Exception) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(problem)
