"""The log of a space as iterators, whatever is made of its entries."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from interlock._async import concurrency
from interlock.core import log, read
from interlock.core.log import Choice, Window
from interlock.core.records import Entry
from interlock.core.requests import LogPage
from interlock.errors import raise_refused
from interlock.session import AsyncSession
from interlock.settings import WATCH_PAUSE

T = TypeVar("T")
Pick = Callable[[Sequence[Entry]], Iterable[T]]


class AsyncPages:
    """Reads the entries that are asked for; `pick` makes of a page of them what is yielded."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    def read(self, asked: Choice, after: int | None, pick: Pick[T]) -> AsyncIterator[T]:
        """Yield what comes after a position (None: all that is kept), oldest first."""
        first = concurrency.at_once(partial(self._after, asked, after))
        return self._read(first, asked, pick)

    def backwards(self, asked: Choice, after: int | None, pick: Pick[T]) -> AsyncIterator[T]:
        """Yield the same, newest first, a page in memory at a time."""
        first = concurrency.at_once(partial(self._window, asked, after))
        return self._backwards(first, asked, pick)

    def follow(self, asked: Choice, after: int | None, pick: Pick[T]) -> AsyncIterator[T]:
        """Yield entries as they are committed, without end, after `after` (None: from now)."""
        raise_refused(read.check_after(after))
        start = concurrency.at_once(self._end) if after is None else None
        return self._follow(start, after or 0, asked, pick)

    async def _read(
        self,
        first: Callable[[], Awaitable[LogPage]],
        asked: Choice,
        pick: Pick[T],
    ) -> AsyncIterator[T]:
        page, left = await first(), asked.limit
        while True:
            for found in pick(asked.of(page.entries)):
                yield found
                left = None if left is None else left - 1
                if left == 0:
                    return
            if page.upto >= page.head or page.upto + 1 >= (asked.before or math.inf):
                return
            page = await self._after(asked, page.upto)

    async def _backwards(
        self,
        first: Callable[[], Awaitable[Window]],
        asked: Choice,
        pick: Pick[T],
    ) -> AsyncIterator[T]:
        window, left = await first(), asked.limit
        while entries := await self._session.run(log.page_before(asked, window)):
            for found in pick(asked.of(entries)):
                yield found
                left = None if left is None else left - 1
                if left == 0:
                    return

    async def _follow(
        self,
        start: Callable[[], Awaitable[int]] | None,
        position: int,
        asked: Choice,
        pick: Pick[T],
    ) -> AsyncIterator[T]:
        if start is not None:
            position = await start()
        while True:
            page = await self._after(asked, position)
            for entry in asked.of(page.entries):
                for found in pick([entry]):
                    self._session.handling(entry)
                    yield found
            raise_refused(read.check_reached(position, page.head))
            position = page.upto
            if position >= page.head:
                await self._session.run(read.wait(WATCH_PAUSE, position))

    async def _after(self, asked: Choice, after: int | None) -> LogPage:
        return await self._session.run(log.page_after(asked, after))

    async def _window(self, asked: Choice, after: int | None) -> Window:
        return await self._session.run(log.window(asked, after))

    async def _end(self) -> int:
        return (await self._session.run(read.load(self._session.writer, ()))).position
