"""What deletes expired items now and then, started as LangGraph's own stores start theirs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import Self

from interlock import InterlockError, Invalid

EVERY = 5.0  # minutes
_log = logging.getLogger("interlock")


class Sweeping(Future[None]):
    """A sweeper that runs until it is cancelled.  Awaiting it returns it at once."""

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self


class Stopped(int):
    """1 if the sweeper has stopped, 0 if it is still at work.  May be awaited."""

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self


class Sweeper:
    """Calls `sweep` in a thread of its own, or `asweep`, if it is given, in the event loop."""

    def __init__(
        self, sweep: Callable[[], object], asweep: Callable[[], Awaitable[object]] | None
    ) -> None:
        self._sweep, self._asweep = sweep, asweep
        self._thread: threading.Thread | None = None
        self._now: Sweeping | None = None

    def start(self, minutes: float) -> Sweeping:
        """Sweep every so many minutes; return the sweeper, also one that is at work already."""
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0:
            raise Invalid(f"sweep_interval_minutes={minutes!r:.40} must be a number above 0.")
        if self._now is not None and not self._now.done():
            return self._now
        self._now = started = Sweeping()
        if self._asweep is not None:
            task = asyncio.ensure_future(self._loop(self._asweep, minutes * 60))
            started.add_done_callback(lambda _: task.get_loop().call_soon_threadsafe(task.cancel))
            return started
        ended = threading.Event()
        started.add_done_callback(lambda _: ended.set())
        self._thread = threading.Thread(
            target=self._until, args=(ended, minutes * 60), name="interlock-sweeper", daemon=True
        )
        self._thread.start()
        return started

    def stop(self, timeout: float | None) -> Stopped:
        """Stop it; wait at most so many seconds (None: without limit) for a sweep to end."""
        if self._now is not None:
            self._now.cancel()
        if self._thread is not None:
            self._thread.join(timeout)
            return Stopped(not self._thread.is_alive())
        return Stopped(True)

    def _until(self, ended: threading.Event, seconds: float) -> None:
        while not ended.wait(seconds):
            try:
                self._sweep()
            except InterlockError as problem:
                _log.warning("Expired items could not be swept: %s", problem)

    async def _loop(self, sweep: Callable[[], Awaitable[object]], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await sweep()
            except InterlockError as problem:
                _log.warning("Expired items could not be swept: %s", problem)
