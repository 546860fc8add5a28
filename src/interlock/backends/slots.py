"""So many at a time, first come first served: the tasks of an event loop that need a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
