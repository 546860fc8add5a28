"""What deletes expired items now and then, started as LangGraph's own stores start theirs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from interlock import Invalid

_log = logging.getLogger("interlock")


class Stopped(int):
    """1 if the sweeper has ended, 0 if it is still at work.  May be awaited."""

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self


class Sweeper(Future[None]):
    """A thread that sweeps every so many minutes until it is cancelled.  Awaiting it returns it at
    once.  Raises Invalid."""

    def __init__(self, sweep: Callable[[], object], minutes: float) -> None:
        super().__init__()
        if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0:
            raise Invalid(f"sweep_interval_minutes={minutes!r:.40} must be a number above 0.")
        self._sweep, self._seconds, self._end = sweep, minutes * 60, threading.Event()
        self.add_done_callback(lambda _: self._end.set())
        self._thread = threading.Thread(target=self._run, name="interlock-sweeper", daemon=True)
        self._thread.start()

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self

    def stop(self, timeout: float | None) -> Stopped:
        """Stop it; wait at most so many seconds (None: without limit) for a sweep to end.

        In an event loop it is not waited for: the sweep may need the loop.
        """
        self.cancel()
        with suppress(RuntimeError):  # there is none
            timeout = 0 if asyncio.get_running_loop() else timeout
        self._thread.join(timeout)
        return Stopped(timeout == 0 or not self._thread.is_alive())

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            try:
                self._sweep()
            except Exception as problem:
                _log.warning("Expired items could not be swept: %s", problem)
