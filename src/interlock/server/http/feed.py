"""What is committed to a space from now on, read once for all who watch it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress

from interlock import AsyncSpace, Entry, InterlockError

_RING = 1000  # entries that a feed remembers
_BEAT = 15.0  # seconds between two signs of life
_STEP = 500  # entries that are read together


class Feed:
    """What is committed to a space from now on, read once for all who watch it."""

    def __init__(self, space: AsyncSpace) -> None:
        self._space = space
        self._ring: deque[Entry] = deque(maxlen=_RING)
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._problem: Exception | None = None
        self._watchers = 0
        self._beginning = asyncio.Lock()
        self.position = 0

    async def follow(self, after: int | None) -> AsyncGenerator[list[Entry]]:
        """Yield the entries after a position (None: from now on), those at hand together, and none
        now and then where there are none.  Raises a fault, Pruned."""
        self._watchers += 1
        try:
            async with self._beginning:
                await self._begin()
            position = self.position if after is None else after
            while True:
                changed = self._changed
                if position < self.position:
                    if not self._ring or self._ring[0].position > position + 1:
                        async for entry in self._space.log(position, limit=_STEP):
                            position = entry.position
                            yield [entry]
                        continue
                    entries = [each for each in self._ring if each.position > position]
                    position = entries[-1].position
                    yield entries
                    continue
                if self._problem is not None:
                    raise self._problem
                try:
                    async with asyncio.timeout(_BEAT):
                        await changed.wait()
                except TimeoutError:
                    yield []
        finally:
            self._watchers -= 1
            if not self._watchers:
                await self.stop()

    async def stop(self) -> None:
        """Read no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _begin(self) -> None:
        if self._task is not None and not self._task.done():
            return
        self._problem = None
        self._ring.clear()
        self.position = await self._space.position()
        self._task = asyncio.create_task(self._read(self.position))

    async def _read(self, after: int) -> None:
        try:
            async for entry in self._space.watch(after=after):
                self._ring.append(entry)
                self.position = entry.position
                self._wake()
        except InterlockError as problem:
            self._problem = problem
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
