"""Whose turn a session is: which run has it, and when that run is over.

`Runner.run` calls the session, and never says that it has ended.  A run is the coroutine of the
`agents` package that calls: the turn ends when that is gone, however it ended.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from interlock import AsyncLease, InterlockError, Lease, Record
from interlock.adapters import seen
from interlock.adapters.seen import Where
from interlock.adapters.turns import give_up

# The modules whose coroutines are a run: of `Runner.run`, and of the task of `run_streamed`.
_RUNNERS = ("agents.run", "agents.run_internal.run_loop")
_OUTPUT_OF = {"function_call": "function_call_output", "computer_call": "computer_call_output"}


class Turn:
    """The exclusive right of one run to write a session, from its first call to its end."""

    def __init__(self, where: Where, lease: Lease | AsyncLease, explicit: bool) -> None:
        self.explicit = explicit
        self.over = False
        self._lease = lease
        self._loop = asyncio.get_running_loop()
        self._ending: asyncio.Task[None] | None = None
        self._runner: weakref.ref[Any] | None = None
        _latest[where] = self

    @property
    def hold(self) -> Record:
        """The record of the turn: every write expects that it has not been taken away."""
        return self._lease.record

    async def end(self) -> None:
        """Give the session up.  Ending twice does nothing."""
        self.over = True
        if asyncio.get_running_loop() is self._loop:
            await asyncio.shield(self._end())

    async def watch(self) -> None:
        """Let the turn end with the run that calls, whose task this is."""
        task = asyncio.current_task()
        if task is not None:
            task.add_done_callback(self._gone)
            # A coroutine shows what it waits for only while it waits.
            self._loop.call_soon(self._find, task)
            await asyncio.sleep(0)

    def _find(self, task: asyncio.Task[Any]) -> None:
        for coroutine in _waiting(task):
            frame = getattr(coroutine, "cr_frame", None)
            if frame is not None and frame.f_globals.get("__name__") in _RUNNERS:
                self._runner = weakref.ref(coroutine, self._gone)
                return

    def _gone(self, _: object) -> None:
        """The run is over, wherever Python finds that out."""
        self.over = True
        with suppress(RuntimeError):  # the loop is closed: the lease ends with its time
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = self._loop.create_task(self._give_up())
        return self._ending

    async def _give_up(self) -> None:
        with suppress(InterlockError):  # a store that is away: the lease ends with its time
            await give_up(self._lease)


# The last turn of each session that this process has had.
_latest: weakref.WeakValueDictionary[Where, Turn] = weakref.WeakValueDictionary()


async def ended(where: Where) -> None:
    """Wait until a turn of this process that is over has given the session up."""
    latest = _latest.get(where)
    if latest is not None and latest.over:
        await latest.end()


def _waiting(task: asyncio.Task[Any]) -> Iterator[Any]:
    """Yield what a task that waits is in, from the outside; an async generator hides the rest."""
    waits: Any = task.get_coro()
    while waits is not None:
        yield waits
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)


class Known(NamedTuple):
    """What a context knows of a session: its turn, and the head that it has read."""

    turn: Turn | None = None
    head: Record | None = None


def known(where: Where) -> Known:
    """Return what this context knows of a session."""
    found: Known = seen.known(where, Known())
    return found


def learn(where: Where, **what: Any) -> None:
    """Remember something of a session in this context."""
    seen.learn(where, known(where)._replace(**what))


def is_answer(items: Sequence[Any]) -> bool:
    """Say whether a run that stores `items` is done: they end in a message of the assistant, and
    every call of a tool has its output."""
    last = items[-1]
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return False
    kinds = [(each.get("type"), each.get("call_id")) for each in items]
    return all((_OUTPUT_OF[kind], id) in kinds for kind, id in kinds if kind in _OUTPUT_OF)
