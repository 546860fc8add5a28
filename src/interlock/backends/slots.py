"""So many at a time, first come first served: the tasks of an event loop that need a connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """Slots for `most` tasks at a time.  However many wait, each of them keeps its place."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._finished = 0.0  # when the last one was done, by the loop's clock

    @asynccontextmanager
    async def one(self, patience: float) -> AsyncIterator[None]:
        """Have a slot.  Raises TimeoutError where nobody was done for `patience` seconds: who waits
        behind many others has not met a store that is away."""
        await self._take(patience)
        try:
            yield
            self._finished = asyncio.get_running_loop().time()
        finally:
            self._give()

    async def _take(self, patience: float) -> None:
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn, began = loop.create_future(), loop.time()
        self._waiting.append(turn)
        try:
            while not turn.done():
                left = max(began, self._finished) + patience - loop.time()
                if left <= 0:
                    raise TimeoutError
                await asyncio.wait([turn], timeout=left)
        except BaseException:
            if turn.done():
                self._give()
            turn.cancel()
            raise

    def _give(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
