"""Whose turn a session is, from its first call to an end that somebody says.

`Runner.run` calls the session and never says that it is over.  `runner` says it in its place; a
block `async with session.turn()` says it, too.  A turn belongs to the context that it was begun in,
and to the tasks that were begun there since.

A run of another runner says nothing: its turn ends with its task, or once it has not called for
`ttl` seconds.  What it stores after that is refused where somebody else has had the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from interlock import AsyncLease, AsyncSpace, InterlockError, Lease, Record, Space
from interlock.adapters.observed import Observed
from interlock.adapters.openai_agents.errors import SessionInvalid, translated
from interlock.adapters.openai_agents.reads import Reads
from interlock.adapters.turns import give_up, take
from interlock.cancellation import PATIENCE, finish

Where = tuple[Space | AsyncSpace, str]  # a space, and the key whose lease is the turn


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
        return Turn(self._where, self._ttl, self._wait)

    def run_turn_of_task(self) -> Turn:
        """Begin a turn of a run whose end nobody says."""
        turn = IdleTurn(self._where, self._ttl, self._wait)
        turn.enter()
        return turn


class Turn:
    """The exclusive right of one run to write a session."""

    over = False
    head: Observed | None = None  # what it has read or written last
    _lease: Lease | AsyncLease | None = None
    _late: asyncio.Task[Any] | None = None  # kept: the event loop holds its tasks weakly

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
                raise SessionInvalid("the run that this call belongs to is over")
            if self._lease is None:
                await _streams_ended(self._where)
                space, key = self._where
                with translated():
                    self._lease = await take(space, key, self._ttl, self._wait)

    async def end(self) -> None:
        """Give the session up, also where this is cancelled.  Ending twice does nothing."""
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

    def ended_with(self, stream: asyncio.Task[Any], reads: Reads) -> asyncio.Task[Any]:
        """Return a task that does what `stream` does, and ends the turn before it is done.

        Then whoever calls this knows what the run has stored.
        """
        caller = asyncio.current_task()

        async def whole() -> Any:
            try:
                return await stream
            finally:
                if self.head is not None and caller is not None and not caller.done():
                    reads.read(self.head, caller)
                await self.end()

        def finished(task: asyncio.Task[Any]) -> None:
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


class IdleTurn(Turn):
    """The turn of a run whose end nobody says.

    It ends with the task that it was begun in, and is given up once it has not been used for `ttl`
    seconds: what it stores then is refused where somebody else has had the session.
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
_streams: dict[asyncio.Task[Any], Where] = {}  # what streamed runs are under way


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
