"""What is read of a space: records, the log, a moment of before; nothing here writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from interlock._async.moment import AsyncMoment
from interlock._async.pages import AsyncPages
from interlock.core import log, read
from interlock.core.keys import check_key
from interlock.core.records import Committed, Entry, KeyInfo, Queue, Record, as_datetime
from interlock.errors import accepted
from interlock.session import AsyncSession
from interlock.settings import as_time_us, checked_op_id, distinct
from interlock.typed import Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from interlock.core.conflict_report import ConflictReport

T = TypeVar("T")


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
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int = 1000,
        deleted: bool = False,
    ) -> list[KeyInfo]:
        """Return at most `limit` existing keys that begin with `prefix`, in order, without values.

        `after`: only keys after this one, such as the last one of the page before.  At most 10,000
        in one call.  `deleted`: keys that were deleted or have expired, too.
        """
        return list(await self.session.run(read.list_keys(prefix, after, limit, deleted)))

    async def queue(self, key: str) -> Queue:
        """Return who has the lease of `key`, and who waits for it or for a turn: the first 200.

        Raises Invalid.
        """
        return await self.session.run(read.queue(key))

    @overload
    def history(
        self,
        key: str,
        *,
        after: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry]: ...
    @overload
    def history(
        self,
        key: str,
        type: TypeForm[T],
        *,
        after: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry[T]]: ...
    def history(
        self,
        key: str,
        type: Any = None,
        *,
        after: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry]:
        """Yield the entries of `key` after position `after` (None: all kept), in order.

        `type`: what their values, or contributions, are returned as (None: as JSON has them).
        `limit` and `newest_first` are those of `log`.  Raises Pruned if what comes after `after`
        was trimmed, Invalid.
        """
        asked = accepted(check_key(key) or log.choice(key=key, limit=limit))
        pages, pick = AsyncPages(self.session), Typed(type).entries
        return (pages.backwards if newest_first else pages.read)(asked, after, pick)

    @overload
    def log(
        self,
        after: int | None = None,
        prefix: str = "",
        *,
        agent: str | None = None,
        kinds: str | Iterable[str] | None = None,
        limit: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry]: ...
    @overload
    def log(
        self,
        after: int | None = None,
        prefix: str = "",
        *,
        type: TypeForm[T],
        agent: str | None = None,
        kinds: str | Iterable[str] | None = None,
        limit: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry[T]]: ...
    def log(
        self,
        after: int | None = None,
        prefix: str = "",
        *,
        type: Any = None,
        agent: str | None = None,
        kinds: str | Iterable[str] | None = None,
        limit: int | None = None,
        before: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[Entry]:
        """Yield the entries after position `after` (None: all kept) under `prefix`, in order.

        `agent`: only what it committed.  `kinds`: only `put`, `append` or `delete`, or several of
        them.  `limit`: at most so many entries.  `before`: only entries before that position.
        `newest_first`: from there, or from the end of the log as it is now, back.  `type` is that
        of `history`; with one, entries of keys that begin with `$` are left out, unless `prefix`
        does, too.  Raises Pruned if what comes after `after` was trimmed, Invalid.
        """
        asked = accepted(log.choice(prefix, agent=agent, kinds=kinds, limit=limit, before=before))
        pages, pick = AsyncPages(self.session), Typed(type).picking(asked.prefix)
        return (pages.backwards if newest_first else pages.read)(asked, after, pick)

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

        `type` is that of `log`.
        """
        asked = accepted(log.choice(prefix))
        return AsyncPages(self.session).follow(asked, after, Typed(type).picking(asked.prefix))

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
