"""What is read of a space: records, the log, a moment of before; nothing here writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from interlock._async import concurrency
from interlock._async.moment import AsyncMoment
from interlock.core import read
from interlock.core.keys import check_prefix
from interlock.core.records import Committed, Entry, KeyInfo, Record, as_datetime
from interlock.core.refusals import Refusal
from interlock.core.requests import LogPage, Steps
from interlock.errors import raise_refused
from interlock.session import AsyncSession
from interlock.settings import PAGE, WATCH_PAUSE, as_time_us, checked_op_id, distinct
from interlock.typed import Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from interlock.core.conflict_report import ConflictReport

T = TypeVar("T")
_PageAfter = Callable[[int | None, int], Steps[LogPage | Refusal]]


class AsyncReader:
    """The part of a space that reads: what `AsyncSpace` and its like are made on."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session  # for the other layers of the package

    @property
    def agent(self) -> str:
        """The name that this space's commits are logged under."""
        return self.session.writer.agent

    @overload
    async def read(self, key: str) -> Record: ...
    @overload
    async def read(self, key: str, type: TypeForm[T]) -> Record[T]: ...
    async def read(self, key: str, type: Any = None) -> Record:
        """Return the record of `key`; one that was never written has version 0.

        `type`: what its value is returned as, such as a dataclass (None: as JSON has it).  Raises
        Invalid, if the value does not fit the type, too.
        """
        records = await self.read_many([key], type)
        return records[key]

    @overload
    async def read_many(self, keys: Iterable[str]) -> dict[str, Record]: ...
    @overload
    async def read_many(self, keys: Iterable[str], type: TypeForm[T]) -> dict[str, Record[T]]: ...
    async def read_many(self, keys: Iterable[str], type: Any = None) -> dict[str, Record]:
        """Return the records of `keys` as of one moment.  `type` is that of `read`.

        Raises Invalid.
        """
        names, view = distinct(keys), Typed(type)
        self.session.check_read(*names)
        snapshot = await self.session.run(read.load(self.session.writer, names))
        return view.records(snapshot.records)

    @overload
    async def scan(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None
    ) -> dict[str, Record]: ...
    @overload
    async def scan(
        self, prefix: str, type: TypeForm[T], *, after: str | None = None, limit: int | None = None
    ) -> dict[str, Record[T]]: ...
    async def scan(
        self,
        prefix: str = "",
        type: Any = None,
        *,
        after: str | None = None,
        limit: int | None = None,
    ) -> dict[str, Record]:
        """Return the existing records whose keys begin with `prefix`, by key, as of one moment.

        `type` is that of `read`.  `after` and `limit` return a page: at most so many records
        (10,000 at most), of keys after that one, such as the last one of the page before.  An empty
        page is the end.
        """
        if after is not None or limit is not None:
            most = read.MOST_LISTED if limit is None else limit
            return await self._scan_page(prefix, type, after, most)
        view = Typed(type)
        snapshot = await self.session.run(read.load(self.session.writer, (), (prefix,)))
        return view.records({record.key: record for record in snapshot.scans[prefix]})

    async def _scan_page(
        self, prefix: str, type: Any, after: str | None, limit: int
    ) -> dict[str, Record]:
        while True:
            listed = await self.list_keys(prefix, after=after, limit=limit)
            records = await self.read_many([each.key for each in listed], type)
            found = {key: record for key, record in records.items() if record.exists}
            if found or not listed:
                return found
            after = listed[-1].key  # all of them were deleted meanwhile

    async def list_keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000
    ) -> list[KeyInfo]:
        """Return at most `limit` existing keys that begin with `prefix`, in order, without values.

        `after`: only keys after this one, such as the last one of the page before.  At most 10,000
        in one call.
        """
        return list(await self.session.run(read.list_keys(prefix, after, limit)))

    @overload
    def history(self, key: str, *, after: int | None = None) -> AsyncIterator[Entry]: ...
    @overload
    def history(
        self, key: str, type: TypeForm[T], *, after: int | None = None
    ) -> AsyncIterator[Entry[T]]: ...
    def history(
        self, key: str, type: Any = None, *, after: int | None = None
    ) -> AsyncIterator[Entry]:
        """Yield the entries of `key` after position `after` (None: all kept), oldest first.

        `type`: what their values, or contributions, are returned as (None: as JSON has them).
        Raises Pruned if what comes after `after` was trimmed, Invalid.
        """
        return self._entries(partial(read.history_page, key), after, Typed(type))

    @overload
    def log(self, after: int | None = None, prefix: str = "") -> AsyncIterator[Entry]: ...
    @overload
    def log(
        self, after: int | None = None, prefix: str = "", *, type: TypeForm[T]
    ) -> AsyncIterator[Entry[T]]: ...
    def log(
        self, after: int | None = None, prefix: str = "", *, type: Any = None
    ) -> AsyncIterator[Entry]:
        """Yield the entries after position `after` (None: all kept) under `prefix`, in order.

        `type` is that of `history`.  Raises Pruned if what comes after `after` was trimmed,
        Invalid.
        """
        return self._entries(partial(read.log_page, prefix), after, Typed(type))

    @overload
    def watch(self, prefix: str = "", after: int | None = None) -> AsyncIterator[Entry]: ...
    @overload
    def watch(
        self, prefix: str = "", after: int | None = None, *, type: TypeForm[T]
    ) -> AsyncIterator[Entry[T]]: ...
    def watch(
        self, prefix: str = "", after: int | None = None, *, type: Any = None
    ) -> AsyncIterator[Entry]:
        """Yield entries as they are committed, without end, after `after` (None: from now).

        `type` is that of `history`.
        """
        raise_refused(check_prefix(prefix) or read.check_position("after", after or 0))
        view = Typed(type)
        start = concurrency.at_once(self.position) if after is None else None
        return self._follow(prefix, start, after or 0, view)

    def at(
        self, *, position: int | None = None, time: datetime | float | None = None
    ) -> AsyncMoment:
        """Return the space as of a log position, or of a time (aware datetime, or Unix seconds).

        A position inside a commit stands for the end of that commit.

        Its reads raise Pruned if the log is not kept so far back.
        """
        return AsyncMoment(self.session, position, as_time_us(position, time))

    async def position(self) -> int:
        """Return the position of the last entry of the log, 0 if it is empty."""
        snapshot = await self.session.run(read.load(self.session.writer, ()))
        return snapshot.position

    async def time(self) -> datetime:
        """Return the store's time now, UTC: its clock is the one that `Record.at` is of."""
        snapshot = await self.session.run(read.load(self.session.writer, ()))
        return as_datetime(snapshot.time_us)

    async def outcome(self, op_id: str) -> Committed | None:
        """Return the commit that `op_id` made for any agent, None if it was not applied."""
        return await self.session.run(read.outcome(checked_op_id(op_id)))

    async def conflicts(self, limit: int = 1000) -> ConflictReport:
        """Return the last refusals, newest first, and what they say of each key.

        The store keeps the last 10,000; a refusal may be half a second late.  Those that came too
        fast to be kept are counted as `dropped`.
        """
        return await self.session.run(read.conflicts(limit))

    async def _follow(
        self,
        prefix: str,
        start: Callable[[], Awaitable[int]] | None,
        position: int,
        view: Typed[T],
    ) -> AsyncIterator[Entry[T]]:
        if start is not None:
            position = await start()
        while True:
            page = await self.session.run(read.log_page(prefix, position, PAGE))
            for entry in page.entries:
                self.session.handling(entry)
                yield view.entry(entry)
            raise_refused(read.check_reached(position, page.head))
            position = page.upto
            if position >= page.head:
                await self.session.run(read.wait(WATCH_PAUSE, position))

    def _entries(
        self, page_after: _PageAfter, after: int | None, view: Typed[T]
    ) -> AsyncIterator[Entry[T]]:
        async def page() -> LogPage:
            return await self.session.run(page_after(after, PAGE))

        return self._pages(concurrency.at_once(page), page_after, view)

    async def _pages(
        self, first: Callable[[], Awaitable[LogPage]], page_after: _PageAfter, view: Typed[T]
    ) -> AsyncIterator[Entry[T]]:
        page = await first()
        while True:
            for entry in page.entries:
                yield view.entry(entry)
            if page.upto >= page.head:
                return
            page = await self.session.run(page_after(page.upto, PAGE))
