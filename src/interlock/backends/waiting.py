"""The waiters of this process: of those on one key, only the first asks the store all the time.

The others wait to be woken when they are the first here, and ask seldom meanwhile, so that their
tickets live.  The order is the store's: that of the tickets.  Nothing rests on it but how often is
asked: whoever is not woken asks a little later.
"""

from __future__ import annotations

import asyncio
import os
import threading
from bisect import bisect_left, insort
from collections.abc import Callable
from typing import Any

from interlock.core.outcome import Committed
from interlock.core.requests import Commit, LeaveTurn, Pause, TakeLease, TakeTurn

_EACH = 1.0  # seconds that whoever waits here sleeps for each other one before it


class Waiters:
    """The tickets of this process, by space and key; of all its threads and event loops."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everybody: in a forked child nobody waits."""
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], list[int]] = {}
        self._keys: dict[tuple[str, int], tuple[str, ...]] = {}
        self._wake: dict[tuple[str, int], Callable[[], None]] = {}

    def answered(self, uid: str, request: Any, answer: Any) -> None:
        """Note what became of a request: somebody joined a queue, or left it."""
        if isinstance(request, TakeTurn):
            if request.ticket != answer.ticket:
                self._left(uid, request.ticket)
                self._joined(uid, request.keys, answer.ticket)
            if answer.ticket and not answer.ahead:
                self._passed_by(uid, request.keys, answer.ticket)
        elif isinstance(request, Commit):
            if request.plan.ticket and isinstance(answer, Committed):
                self._left(uid, request.plan.ticket)
        elif isinstance(request, LeaveTurn) or (
            isinstance(request, TakeLease) and request.ticket and answer.granted
        ):
            self._left(uid, request.ticket)

    def behind(self, uid: str, ticket: int, wake: Callable[[], None]) -> int:
        """Return how many wait here before a ticket; call `wake` when nobody does any more."""
        with self._lock:
            keys = self._keys.get((uid, ticket), ())
            before = max((bisect_left(self._queues[uid, key], ticket) for key in keys), default=0)
            if before:
                self._wake[uid, ticket] = wake
            return before

    def awake(self, uid: str, ticket: int) -> None:
        """Nobody needs to wake it any more."""
        with self._lock:
            self._wake.pop((uid, ticket), None)

    def _joined(self, uid: str, keys: tuple[str, ...], ticket: int) -> None:
        if not ticket:
            return
        with self._lock:
            if (uid, ticket) not in self._keys:
                self._keys[uid, ticket] = keys
                for key in keys:
                    insort(self._queues.setdefault((uid, key), []), ticket)

    def _passed_by(self, uid: str, keys: tuple[str, ...], ticket: int) -> None:
        """Forget those before who are there no more: their program was dropped as it was."""
        for key in keys:
            with self._lock:
                gone = [each for each in self._queues.get((uid, key), ()) if each < ticket]
            for each in gone:
                self._left(uid, each)

    def _left(self, uid: str, ticket: int) -> None:
        if not ticket:
            return
        with self._lock:
            woken = []
            for key in self._keys.pop((uid, ticket), ()):
                queue = self._queues[uid, key]
                del queue[bisect_left(queue, ticket)]
                if not queue:
                    del self._queues[uid, key]
                elif queue[0] > ticket:
                    woken.append(self._wake.get((uid, queue[0])))
        for wake in woken:
            if wake is not None:
                wake()


WAITERS = Waiters()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WAITERS.start_anew)


def pause(uid: str, request: Pause) -> bool:
    """Wait in a thread, where others wait here before the ticket; say whether that was so."""
    woken = threading.Event()
    before = WAITERS.behind(uid, request.ticket, woken.set)
    if before:
        woken.wait(_seconds(request, before))
        WAITERS.awake(uid, request.ticket)
    return before > 0


async def pause_async(uid: str, request: Pause) -> bool:
    """The same in a task."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(woken.set)

    before = WAITERS.behind(uid, request.ticket, wake)
    if before:
        try:
            async with asyncio.timeout(_seconds(request, before)):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            WAITERS.awake(uid, request.ticket)
    return before > 0


def _seconds(request: Pause, before: int) -> float:
    return max(request.seconds, min(before * _EACH, request.most))
