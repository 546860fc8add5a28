"""Hears of commits: one thread listens for all who wait for news of any space of a store in this
process.

A notification is only a hint that the log has grown; whoever is told reads it.  Where notifications
do not get through (a pooler, a connection that is down), waiters ask now and then.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from interlock.backends.postgres.connect import Target, arguments
from interlock.backends.postgres.faults import psycopg
from interlock.backends.remote import next_look

_ANNOUNCED = 60.0  # seconds for which writers are asked to notify
_ROUND = 1.0  # seconds
_RECONNECT = 0.5  # seconds
_CHANNEL = "interlock_"


class _Topic:
    """Where the log of a space ends, as far as is known, and who waits for more."""

    def __init__(self) -> None:
        self.reached = 0
        self.heard = threading.Condition()
        self.listening = False
        self.announced = 0.0
        self.waiters = 0
        self.idle_since = time.monotonic()
        self.tasks: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def tell(self, position: int) -> None:
        """Wake who waits."""
        with self.heard:
            self.reached = max(self.reached, position)
            tasks = [*self.tasks.items()]
            self.heard.notify_all()
        for told, loop in tasks:
            with suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_wake, told)

    def is_idle(self) -> bool:
        """Whether nobody has waited for a while."""
        return not self.waiters and time.monotonic() - self.idle_since > _ANNOUNCED


class News:
    """The ends of the logs of a store's spaces.  `ask` asks the server for one."""

    def __init__(self, target: Target, ask: Callable[[int], int]) -> None:
        self._target = target
        self._ask = ask
        self._lock = threading.Lock()
        self._topics: dict[int, _Topic] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def wait(self, space: int, position: int, seconds: float, over: threading.Event) -> None:
        """Wait until the log ends after `position`, at most `seconds`, and not where it is `over`:
        whoever sets that wakes the space."""
        began = time.monotonic()
        topic = self._begin(space)
        try:
            while (left := began + seconds - time.monotonic()) > 0 and not over.is_set():
                with topic.heard:
                    if topic.reached > position:
                        return
                    if topic.listening:
                        topic.heard.wait(left)
                        continue
                if self._look(space, topic, position):
                    return
                over.wait(min(left, next_look(time.monotonic() - began)))
        finally:
            self._end(topic)

    async def wait_async(
        self, space: int, position: int, seconds: float, over: threading.Event
    ) -> None:
        """The same without blocking the event loop."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        topic = self._begin(space)
        try:
            while (left := began + seconds - time.monotonic()) > 0 and not over.is_set():
                with topic.heard:
                    if topic.reached > position:
                        return
                    told = loop.create_future()
                    if topic.listening:
                        topic.tasks[told] = loop
                if not topic.listening:
                    if await asyncio.to_thread(self._look, space, topic, position):
                        return
                    left = min(left, next_look(time.monotonic() - began))
                try:
                    await asyncio.wait([told], timeout=left)
                finally:
                    topic.tasks.pop(told, None)
                    told.cancel()
        finally:
            self._end(topic)

    def wake(self, space: int) -> None:
        """Wake who waits for a space."""
        topic = self._topics.get(space)
        if topic is not None:
            topic.tell(0)

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(_ROUND * 3)

    def _begin(self, space: int) -> _Topic:
        with self._lock:
            topic = self._topics.setdefault(space, _Topic())
            topic.waiters += 1
            if self._target.direct and self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._listen, name="interlock-listen", daemon=True
                )
                self._thread.start()
            return topic

    def _end(self, topic: _Topic) -> None:
        with self._lock:
            topic.waiters -= 1
            topic.idle_since = time.monotonic()

    def _look(self, space: int, topic: _Topic, position: int) -> bool:
        topic.tell(self._ask(space))
        return topic.reached > position

    def _listen(self) -> None:
        while not self._is_over():
            try:
                with psycopg.connect(
                    self._target.conninfo, **arguments(self._target.conninfo, direct=False)
                ) as connection:
                    self._hear(connection)
            except psycopg.Error:
                pass  # whoever waits asks by himself until the server is back
            finally:
                self._forget()
            self._closed.wait(_RECONNECT)

    def _hear(self, connection: psycopg.Connection) -> None:
        while not self._is_over():
            for space, topic in self._due():
                if not topic.listening:
                    connection.execute(f"LISTEN {_CHANNEL}{space}")
                self._announce(connection, space, topic)
            for told in connection.notifies(timeout=_ROUND, stop_after=1):
                heard = self._topics.get(int(told.channel.removeprefix(_CHANNEL)))
                if heard is not None:
                    heard.tell(int(told.payload))
            for space in self._left():
                connection.execute(f"UNLISTEN {_CHANNEL}{space}")

    def _announce(self, connection: psycopg.Connection, space: int, topic: _Topic) -> None:
        """Have writers announce, listening already, then read: a commit between is not missed."""
        topic.announced = time.monotonic()
        rows = connection.execute(
            "SELECT interlock.listen_until(%s, %s)", (space, _ANNOUNCED)
        ).fetchall()
        topic.listening = True
        topic.tell(rows[0][0])

    def _due(self) -> list[tuple[int, _Topic]]:
        """Spaces whose writers must be asked to notify, now or again."""
        now = time.monotonic()
        with self._lock:
            topics = [*self._topics.items()]
        return [each for each in topics if now - each[1].announced > _ANNOUNCED / 3]

    def _left(self) -> list[int]:
        """Forget the spaces that nobody has waited for for a while, and return them."""
        with self._lock:
            idle = [space for space, topic in self._topics.items() if topic.is_idle()]
            for space in idle:
                del self._topics[space]
        return idle

    def _forget(self) -> None:
        """No connection listens any more: whoever waits asks."""
        with self._lock:
            topics = [*self._topics.values()]
        for topic in topics:
            topic.listening, topic.announced = False, 0.0
            topic.tell(0)

    def _is_over(self) -> bool:
        """Whether nobody has waited for a while, or the store was closed.  The thread ends then."""
        with self._lock:
            over = self._closed.is_set() or not self._topics
            if over:
                self._thread = None
        return over


def _wake(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
