"""Hears of commits: one thread listens for all who wait for news of a space in this process.

A notification is only a hint that the log has grown; whoever is told reads it.  Where notifications
do not get through (a pooler, a connection that is down), waiters ask now and then.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from interlock.backends.postgres.connect import Target, arguments
from interlock.backends.postgres.faults import psycopg
from interlock.backends.remote import next_look

_ANNOUNCED = 60.0  # seconds for which writers are asked to notify
_ROUND = 1.0  # seconds
_RECONNECT = 0.5  # seconds


class News:
    """Where the log of a space ends, as far as is known.  `ask` asks the server."""

    def __init__(self, target: Target, space: int, ask: Callable[[], int]) -> None:
        self._target = target
        self._space = space
        self._ask = ask
        self._reached = 0
        self._heard = threading.Condition()
        self._listening = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiters = 0
        self._idle_since = time.monotonic()
        self._tasks: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def wait(self, position: int, seconds: float) -> None:
        """Wait until the log ends after `position`, at most `seconds`."""
        began = time.monotonic()
        self._begin()
        try:
            while (left := began + seconds - time.monotonic()) > 0 and not self._closed.is_set():
                with self._heard:
                    if self._reached > position:
                        return
                    if self._listening:
                        self._heard.wait(left)
                        continue
                if self._look(position):
                    return
                self._closed.wait(min(left, next_look(time.monotonic() - began)))
        finally:
            self._end()

    async def wait_async(self, position: int, seconds: float) -> None:
        """The same without blocking the event loop."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        self._begin()
        try:
            while (left := began + seconds - time.monotonic()) > 0 and not self._closed.is_set():
                with self._heard:
                    if self._reached > position:
                        return
                    told = loop.create_future()
                    if self._listening:
                        self._tasks[told] = loop
                if not self._listening:
                    if await asyncio.to_thread(self._look, position):
                        return
                    left = min(left, next_look(time.monotonic() - began))
                try:
                    await asyncio.wait([told], timeout=left)
                finally:
                    self._tasks.pop(told, None)
                    told.cancel()
        finally:
            self._end()

    def close(self) -> None:
        """Stop listening and wake who waits."""
        self._closed.set()
        self._tell(0)
        if self._thread is not None:
            self._thread.join(_ROUND * 3)

    def _begin(self) -> None:
        with self._heard:
            self._waiters += 1
            if self._target.direct and self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._listen, name="interlock-listen", daemon=True
                )
                self._thread.start()

    def _end(self) -> None:
        with self._heard:
            self._waiters -= 1
            self._idle_since = time.monotonic()

    def _look(self, position: int) -> bool:
        self._tell(self._ask())
        return self._reached > position

    def _tell(self, position: int) -> None:
        with self._heard:
            self._reached = max(self._reached, position)
            tasks = [*self._tasks.items()]
            self._heard.notify_all()
        for told, loop in tasks:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_wake, told)

    def _listen(self) -> None:
        while not self._over():
            try:
                with psycopg.connect(
                    self._target.conninfo, **arguments(self._target.conninfo, direct=False)
                ) as connection:
                    self._hear(connection)
            except psycopg.Error:
                pass  # whoever waits asks by himself until the server is back
            finally:
                self._listening = False
                self._tell(0)
            self._closed.wait(_RECONNECT)
        with self._heard:
            self._thread = None

    def _hear(self, connection: Any) -> None:
        """Listen first, then have writers announce, then read: a commit between is not missed."""
        connection.execute(f"LISTEN interlock_{self._space}")
        announced = 0.0
        while not self._over():
            if time.monotonic() - announced > _ANNOUNCED / 3:
                announced = time.monotonic()
                row = connection.execute(
                    "SELECT interlock.listen_until(%s, %s)", (self._space, _ANNOUNCED)
                ).fetchone()
                self._listening = True
                self._tell(row[0])
            for told in connection.notifies(timeout=_ROUND, stop_after=1):
                self._tell(int(told.payload))

    def _over(self) -> bool:
        """Whether nobody has waited for a while, or the space was closed."""
        with self._heard:
            idle = not self._waiters and time.monotonic() - self._idle_since > _ANNOUNCED
        return idle or self._closed.is_set()


def _wake(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
