"""From a thread into the event loop that owns an application's connections.

A space over asyncio connections also asks from threads: while it is opened, for the log of
refusals, for a heartbeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import Any, TypeVar

from interlock.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class Bridge:
    """Runs coroutines in `loop` for other threads, `patience` seconds each at most."""

    loop: asyncio.AbstractEventLoop
    patience: float

    def run(self, steps: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine.  Raises what it raises, and Unavailable where the loop is over."""
        if self.loop.is_closed() or _is_running_here(self.loop):
            steps.close()
            raise Unavailable("The event loop of the connections is closed, or asked from itself.")
        future = asyncio.run_coroutine_threadsafe(steps, self.loop)
        try:
            return future.result(self.patience)
        except TooLate:
            if future.done():
                raise
            future.cancel()
            raise Unavailable("The event loop of the connections does not run.") from None


def _is_running_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
