"""Whose turn a session is, from its first call to an end that somebody says.

`Runner.run` calls the session and never says that it is over.  It asks the default runner of the
`agents` package for each run; ours, `TurnRunner`, passes the run on to the one that was there, and
ends the session's turn when that one has returned or raised: after an answer, an exception, a
cancellation or a timeout, in whatever task.  A block `async with session.turn()` ends it, too.  A
turn belongs to the context that it was begun in, and to the tasks that were begun there since.

A run of another runner says nothing: its turn ends with its task, or once it has not called for
`ttl` seconds.  What it stores after that is refused if somebody else has had the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from agents import run
from agents.exceptions import AgentsException, UserError
from agents.result import RunResult, RunResultStreaming
from agents.run import AgentRunner

from interlock import (
    AsyncLease,
    AsyncSpace,
    Conflict,
    Fenced,
    Held,
    InterlockError,
    Invalid,
    Lease,
    Record,
    Space,
)
from interlock.adapters.observed import Observed
from interlock.adapters.space import give_up, raised_as, take
from interlock.cancellation import PATIENCE, finish


class SessionConflict(Conflict, AgentsException):
    """The session has moved since this task read it.  Read again, and decide again."""


class SessionHeld(Held, AgentsException):
    """Another run has the session.  Nothing was stored, and no model was called; try later."""


class SessionFenced(Fenced, AgentsException):
    """The session was taken away from this run.  Nothing was stored; it must stop."""


class SessionInvalid(Invalid, UserError):
    """An item or an argument that cannot be stored: the message names it, and the limit."""


def translated() -> AbstractContextManager[None]:
    """Raise a refusal as the one that users of OpenAI Agents catch, too."""
    return raised_as(SessionConflict, SessionHeld, SessionFenced, SessionInvalid)


@dataclass(frozen=True)
class Where:
    """The key whose lease is a turn; the same one, however often the URL of its space is opened."""

    space: Space | AsyncSpace = field(compare=False)
    key: str
    address: object  # of the space


class TakesTurns:
    """What has a turn that a run takes: a session."""

    def __init__(self, where: Where, ttl: float, wait: float | None) -> None:
        self._where = where
        self._ttl = ttl
        self._wait = wait
        self.reads = Reads()

    def current_turn(self) -> Turn | None:
        """Return the turn that this context is in, or None."""
        found = _turns.get().get(self._where)
        return None if found is None or found.over else found

    @asynccontextmanager
    async def run_turn(self) -> AsyncIterator[Turn]:
        """Have a turn until the block ends, taken when the session is first called.  A turn that
        this context is in already goes on, and the block is part of it."""
        outer = self.current_turn()
        if outer is not None:
            yield outer
            return
        turn = self.new_turn()
        with turn.entered():
            try:
                yield turn
            finally:
                if turn.head is not None:
                    self.reads.read(turn.head)
                await turn.end()

    def new_turn(self) -> Turn:
        """Return a turn that is not taken yet; whoever asks has to end it."""
        turn = Turn(self._where, self._ttl, self._wait)
        turn.owner = self
        return turn

    def run_turn_of_task(self) -> Turn:
        """Begin a turn of a run whose end nobody says."""
        turn = IdleTurn(self._where, self._ttl, self._wait)
        turn.owner = self
        turn.enter()
        return turn


class Turn:
    """The exclusive right of one run to write a session."""

    over = False
    head: Observed | None = None  # what it has read or written last
    owner: object = None  # the session, whose space stays open until the turn is given up
    _lease: Lease | AsyncLease | None = None
    _late: asyncio.Task[object] | None = None  # kept: the event loop holds its tasks weakly

    def __init__(self, where: Where, ttl: float, wait: float | None) -> None:
        self._where = where
        self._ttl = ttl
        self._wait = wait
        self._taking = asyncio.Lock()

    @property
    def record(self) -> Record:
        """The record of the turn: every write expects that it has not been taken away."""
        assert self._lease is not None, "a turn is taken before it is used"
        return self._lease.record

    async def take(self) -> None:
        """Take the session if that has not been done.

        Raises SessionHeld, and SessionInvalid once the turn is over.
        """
        async with self._taking:
            if self.over:
                raise SessionInvalid("This call belongs to a run that has ended.")
            if self._lease is None:
                await _streams_ended(self._where)
                space, key = self._where.space, self._where.key
                with translated():
                    self._lease = await take(space, key, self._ttl, self._wait)

    async def end(self) -> None:
        """Give the session up, even if this is cancelled.  Ending twice does nothing."""
        self.over = True
        await finish(self._give_up())

    def enter(self) -> None:
        """Let this context be in the turn."""
        _turns.set({**_turns.get(), self._where: self})

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let this context be in the turn until the block ends."""
        before = _turns.get()
        self.enter()
        try:
            yield
        finally:
            _turns.set(before)  # not `reset`: a generator may end in another context

    def ended_with(self, stream: asyncio.Task[object], reads: Reads) -> asyncio.Task[object]:
        """Return a task that does what `stream` does, and ends the turn before it is done.

        Then whoever calls this knows what the run has stored.
        """
        caller = asyncio.current_task()

        async def whole() -> object:
            try:
                return await stream
            finally:
                if self.head is not None and caller is not None and not caller.done():
                    reads.read(self.head, caller)
                await self.end()

        def finished(task: asyncio.Task[object]) -> None:
            del _streams[task]
            if not stream.done():  # cancelled before it began: `whole` has done nothing
                stream.cancel()
                self._late = asyncio.create_task(whole())

        task = asyncio.create_task(whole())
        _streams[task] = self._where
        task.add_done_callback(finished)
        return task

    async def _give_up(self) -> None:
        async with self._taking:
            if self._lease is not None:
                with suppress(InterlockError):  # a store that is away: the lease ends with its time
                    await give_up(self._lease)
            self.owner = None


class IdleTurn(Turn):
    """The turn of a run whose end nobody says.

    It ends with the task that it was begun in, and is given up once it has not been used for `ttl`
    seconds: what it stores then is refused if somebody else has had the session.
    """

    _timer: asyncio.TimerHandle | None = None

    def __init__(self, where: Where, ttl: float, wait: float | None) -> None:
        super().__init__(where, ttl, wait)
        self._ending: asyncio.Task[None] | None = None
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._task_done)

    async def take(self) -> None:
        """Do what `Turn.take` does; this is a sign of life."""
        await super().take()
        self._stop_timer()
        if self._ending is None:
            self._timer = asyncio.get_running_loop().call_later(self._ttl, self._let_go)

    def _task_done(self, _: object) -> None:
        self.over = True
        self._stop_timer()
        self._let_go()

    def _let_go(self) -> None:
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._give_up())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


_turns: ContextVar[Mapping[Where, Turn]] = ContextVar(
    "interlock_openai_turns", default=MappingProxyType({})
)
_streams: dict[asyncio.Task[object], Where] = {}  # what streamed runs are under way


async def _streams_ended(where: Where) -> None:
    """Wait a moment for streamed runs of this process that were cancelled: their tasks give the
    session up after whoever read the stream has gone on."""
    loop = asyncio.get_running_loop()
    ending = [
        task
        for task, place in list(_streams.items())
        if place == where and task.get_loop() is loop and task.cancelling()
    ]
    if ending:
        await asyncio.wait(ending, timeout=PATIENCE)


# The end of a run, said by the runner


def install_runner() -> None:
    """Let runs end the turns of their sessions from now on.  Twice does nothing."""
    if not isinstance(run.DEFAULT_AGENT_RUNNER, TurnRunner):
        run.set_default_agent_runner(TurnRunner(run.DEFAULT_AGENT_RUNNER))


class TurnRunner(AgentRunner):
    """Runs agents as another runner does, and ends the turn of the session with the run."""

    def __init__(self, inner: AgentRunner) -> None:
        self._inner = inner

    async def run(self, *args: Any, **kwargs: Any) -> RunResult:
        """Run, and end the turn."""
        session = _ours(kwargs.get("session"))
        if session is None:
            return await self._inner.run(*args, **kwargs)
        async with session.run_turn():
            return await self._inner.run(*args, **kwargs)

    def run_sync(self, *args: Any, **kwargs: Any) -> RunResult:
        """Run without asyncio."""
        if type(self._inner) is AgentRunner:
            return super().run_sync(*args, **kwargs)  # it calls `self.run`
        return self._inner.run_sync(*args, **kwargs)

    def run_streamed(self, *args: Any, **kwargs: Any) -> RunResultStreaming:
        """Begin a run in a task of its own, which ends the turn."""
        session = _ours(kwargs.get("session"))
        if session is None or session.current_turn() is not None:
            return self._inner.run_streamed(*args, **kwargs)
        turn = session.new_turn()
        with turn.entered():  # the task takes this context along
            result = self._inner.run_streamed(*args, **kwargs)
        if result.run_loop_task is not None:
            result.run_loop_task = turn.ended_with(result.run_loop_task, session.reads)
        return result


def _ours(session: object) -> TakesTurns | None:
    """Return the session of ours that a run is given, or that is wrapped in the one it is given."""
    while session is not None and not isinstance(session, TakesTurns):
        session = getattr(session, "underlying_session", None)
    return session


# What those who use one session object have read


class _Known(NamedTuple):
    """The head that a task has read, or made; that passes on to others only if it was read."""

    head: Observed
    made: bool = False


class Reads:
    """The head of a session as each task knows it: what `pop_item` and `clear_session` may destroy.

    A task that shares a session object destroys nothing that only other tasks have read.  What a
    task had read when it ended (`wait_for` and `gather` make such tasks) goes to the first that
    knows nothing of its own, once; of two that ended and had read different things, the older
    counts.  What a task made goes to nobody: a request that is delivered twice changes things once.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[object] | None, _Known] = {}
        self._ended: Observed | None = None

    def known(self) -> Observed | None:
        """Return the head that whoever calls has read, or made; None: none."""
        own = self._tasks.get(_task())
        return self._ended if own is None else own.head

    def read(self, head: Observed, task: asyncio.Task[object] | None = None) -> None:
        """Remember that whoever calls, or another task, has read a head."""
        self._learn(task or _task(), _Known(head))

    def made(self, head: Observed) -> None:
        """Remember that whoever calls has made a head of the one that it knew."""
        if _task() not in self._tasks:
            self._ended = None  # it was given that, and nobody else goes on from there
        self._learn(_task(), _Known(head, made=True))

    def refused(self) -> None:
        """Forget what the refused change came from: whoever tries again reads again."""
        if self._tasks.pop(_task(), None) is None:
            self._ended = None

    def _learn(self, task: asyncio.Task[object] | None, known: _Known) -> None:
        if task is not None and task not in self._tasks:
            task.add_done_callback(self._task_done)
        self._tasks[task] = known

    def _task_done(self, task: asyncio.Task[object]) -> None:
        own, before = self._tasks.pop(task, None), self._ended
        if own is None or own.made:
            return
        if before is None or own.head.version <= before.version:
            self._ended = own.head
        # Else somebody may have been given the older one, and not have used it yet.


def _task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a coroutine that something else than asyncio runs
        return None
