"""A store as a whole: its spaces, taken out of it, brought into it and copied; and its health."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from interlock._async import concurrency
from interlock.backends.contract import Backend
from interlock.backends.urls import open_backend, open_store
from interlock.core import read, spaces, transfer
from interlock.core.export import (
    Body,
    Header,
    header_line,
    parts_lines,
    read_header,
    row_line,
    space_line,
    trailer_line,
)
from interlock.core.records import Entry
from interlock.core.spaces import Finding, SpaceInfo
from interlock.core.transfer import Copied, Dumped, Importing, Row
from interlock.errors import Invalid, Unavailable, accepted
from interlock.session import AsyncSession
from interlock.settings import make_writer

_NEWS = 1.0  # seconds between two looks whether a copy is to follow any longer
Progress = Callable[[int, int], object]


class AsyncStore:
    """All spaces of one store.  Close it, or use it in an `async with` block.

    `url` and what else is asked for are those of `interlock.open_async`.  Nothing is made unless
    `create` says so.  For operators: on PostgreSQL, what changes a store needs the role `operator`.
    """

    def __init__(
        self,
        url: str,
        *,
        create: bool = False,
        durability: str | None = None,
        busy_timeout: float | None = None,
    ) -> None:
        self.url = url
        self._create = create
        self._options: dict[str, Any] = {"durability": durability, "busy_timeout": busy_timeout}
        self._session: AsyncSession | None = None

    async def spaces(self) -> list[SpaceInfo]:
        """Return the spaces, in the order of their names.  Raises a fault."""
        session = await self._opened()
        return list(await session.run(spaces.ListSpaces().__iter__()))

    async def names(self) -> list[str]:
        """Return the names of the spaces that can be opened, in order.  Nothing is counted, so it
        is fast however large they are.  Raises a fault."""
        session = await self._opened()
        return list(await session.run(spaces.NameSpaces().__iter__()))

    async def exists(self, space: str) -> bool:
        """Return whether there is a space of this name.  Raises Invalid, or a fault."""
        session = await self._opened()
        return await session.run(spaces.exists(space))

    async def create(self, space: str) -> None:
        """Make a space.  Raises Invalid if there is one of that name."""
        session = await self._opened()
        await session.run(spaces.create(space, uuid4().hex[:16]))

    async def drop(self, space: str) -> None:
        """Drop a space with all that it holds, for good.

        Whoever has it open gets `Dropped`, even if a new one of the same name is made.  Raises
        Invalid if there is no such space.
        """
        session = await self._opened()
        await session.run(spaces.drop(space))

    async def rename(self, space: str, to: str) -> None:
        """Give a space another name.

        Whoever has it open goes on with it on SQLite and PostgreSQL, and gets `Dropped` on Redis.
        Raises Invalid if there is no such space, or one of the new name.
        """
        session = await self._opened()
        await session.run(spaces.rename(space, to, uuid4().hex[:16]))

    async def doctor(self) -> list[Finding]:
        """Return what is to be said of the store's health, and what to do about it."""
        session = await self._opened()
        return list(await session.run(spaces.Examine().__iter__()))

    async def export(
        self, space: str = "default", *, heads_only: bool = False
    ) -> AsyncIterator[str]:
        """Yield the lines of an export of one moment, while others go on writing.

        Each is JSON without a line break.  `heads_only` leaves the history out: each key begins
        with what it holds.  Raises Invalid if the log is trimmed meanwhile, or a fault.
        """
        source = await self._source(space)
        try:
            found = await source.run(transfer.moment(heads_only))
            header = Header(space, found.position, found.floor, heads_only)
            yield header_line(header, datetime.now(UTC).isoformat(timespec="seconds"))
            digest, lines = hashlib.sha256(), 0
            async for line in self._body(source, found):
                digest.update(line.encode() + b"\n")
                lines += 1
                yield line
            yield trailer_line(lines, digest.hexdigest())
        finally:
            await source.close()

    async def load(
        self, lines: Iterable[str], space: str | None = None, *, progress: Progress | None = None
    ) -> Copied:
        """Bring an export into a space that does not exist yet, or is empty: an import.

        `space`: its name, if not that of the export.  Nobody can open it until all lines were read
        and their digest was right.  Called again with the same lines after it was interrupted, it
        goes on where it was.  `progress` is called with the positions done and to do.  Raises
        Invalid if the space holds something, or the lines are no export: then nothing is left of
        the import, and a space that was there is there, and empty.
        """
        lines = _texts(lines)
        first = next(lines, "")
        header = accepted(read_header(first))
        name = header.space if space is None else space
        source = "export " + hashlib.sha256(first.strip().encode()).hexdigest()
        was_there = await self._is_open(name)
        target = await self._target(name, Importing(source, header.floor))
        try:
            return await self._loaded(target, name, header, lines, progress)
        except Invalid:
            if was_there:  # it was made anew for the import, which is dropped if it can't go on
                session = await self._opened()
                await session.run(spaces.CreateSpace(name, uuid4().hex[:16]).__iter__())
            raise
        finally:
            await target.close()

    async def copy(
        self,
        space: str,
        target: str,
        *,
        to: str | None = None,
        heads_only: bool = False,
        follow: Callable[[], bool] | None = None,
        progress: Progress | None = None,
    ) -> Copied:
        """Copy a space into the store at the URL `target`, which is made if there is none.

        `to`: the name of the space there, if not the same.  `heads_only` copies what each key holds
        and the log from now on.  As long as `follow()` returns True, the copy goes on with what is
        committed here; then it copies the rest and is opened to others.  Called again after it was
        interrupted, it goes on where it was.  `progress` is called with the positions done and to
        do.  Raises Invalid if the space there holds something, or a fault.
        """
        name = space if to is None else to
        source = await self._source(space)
        try:
            found = await source.run(transfer.moment(heads_only))
            what = "heads" if heads_only else "copy"
            importing = Importing(f"{what} {source.driver.backend.uid}", found.floor)
            async with AsyncStore(target, **self._options) as other:
                there = await other._target(name, importing)
            try:
                return await self._copied(source, there, name, found, heads_only, follow, progress)
            finally:
                await there.close()
        finally:
            await source.close()

    async def close(self) -> None:
        """Give back the connections.  Closing twice does nothing."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # Sessions

    def _open_store(self) -> Backend:
        return open_store(self.url, self._create, **self._options)

    def _open_source(self, space: str) -> Backend:
        return open_backend(self.url, space, create=False, **self._options)

    def _open_target(self, space: str, importing: Importing) -> Backend:
        return open_backend(self.url, space, importing=importing, **self._options)

    async def _is_open(self, space: str) -> bool:
        """Whether a space is there, and not being imported."""
        try:
            session = await self._opened()
        except Unavailable:
            return False  # there is no store yet
        return space in await session.run(spaces.NameSpaces().__iter__())

    async def _opened(self) -> AsyncSession:
        if self._session is None:
            backend = await concurrency.blocking(self._open_store)
            writer = make_writer("", "store", "interlock", None)
            self._session = AsyncSession.over(backend, writer)
        return self._session

    async def _source(self, space: str) -> AsyncSession:
        """Return a session of a space that is read."""
        make_writer("", space, "interlock", None)
        backend = await concurrency.blocking(self._open_source, space)
        writer = make_writer(backend.uid, space, "interlock", None)
        session = AsyncSession.over(backend, writer)
        try:
            await session.run(session.entering(False, None))
        except BaseException:
            await session.close()
            raise
        return session

    async def _target(self, space: str, importing: Importing) -> AsyncSession:
        """Return a session of a space that is imported."""
        make_writer("", space, "interlock", None)
        backend = await concurrency.blocking(self._open_target, space, importing)
        writer = make_writer(backend.uid, space, "interlock", None)
        return AsyncSession.over(backend, writer)

    # Reading

    async def _body(self, source: AsyncSession, found: Dumped) -> AsyncIterator[str]:
        yield space_line(found)
        async for rows in self._base(source, found.floor):
            for row in rows:
                yield row_line(row)
        async for entries in self._entries(source, found.floor, found.position):
            for row in transfer.rows_of(entries):
                yield row_line(row)
        for line in parts_lines(found.parts):
            yield line

    async def _base(self, source: AsyncSession, floor: int) -> AsyncIterator[tuple[Row, ...]]:
        after = ""
        while rows := await source.run(transfer.base_page(source.writer, after, floor)):
            yield rows
            after = rows[-1].key

    async def _entries(
        self, source: AsyncSession, after: int, upto: int
    ) -> AsyncIterator[list[Entry]]:
        while entries := await source.run(transfer.log_page(after, upto)):
            yield entries
            after = entries[-1].position

    # Writing

    async def _loaded(
        self,
        target: AsyncSession,
        name: str,
        header: Header,
        lines: Iterable[str],
        progress: Progress | None,
    ) -> Copied:
        mark = await target.run(transfer.Mark().__iter__())
        digest, body = hashlib.sha256(), Body()
        position, total = mark.position, header.position - header.floor
        try:
            for line in lines:
                text = line.rstrip("\r\n")
                if not accepted(body.read(text)):
                    break
                digest.update(text.encode() + b"\n")
                if body.is_full:
                    position = await self._restored(target, position, *body.take())
                    if progress is not None:
                        progress(position - header.floor, total)
            position = await self._restored(target, position, *body.take())
            if body.end is not None:
                accepted(body.check(header, position, digest.hexdigest()))
            if any(line.strip() for line in lines):
                raise Invalid(
                    "The export goes on behind its last line. Import one space from each file."
                )
        except Invalid:
            await self._drop_unfinished(name, target)  # what is wrong with the lines stays wrong
            raise
        if body.end is None:
            raise Invalid(
                "The export is cut short: its last line is missing. Import the whole of it to "
                "finish the space, or drop the space."
            )
        await self._finished(target, position, body.parts)
        if progress is not None:
            progress(total, total)
        return Copied(name, position, position - mark.position)

    async def _drop_unfinished(self, name: str, target: AsyncSession) -> None:
        """Drop what an import brought, but not a space that somebody else has finished."""
        session, uid = await self._opened(), target.driver.backend.uid
        await session.run(spaces.DropSpace(name=name, uid=uid, unfinished=True).__iter__())

    async def _copied(
        self,
        source: AsyncSession,
        target: AsyncSession,
        name: str,
        found: Dumped,
        heads_only: bool,
        follow: Callable[[], bool] | None,
        progress: Progress | None,
    ) -> Copied:
        mark = await target.run(transfer.Mark().__iter__())
        position, upto, following = mark.position, found.position, follow is not None
        if position == mark.floor:
            async for base in self._base(source, mark.floor):
                await self._restored(target, position, base, ())
        while True:
            async for entries in self._entries(source, position, upto):
                position = await self._restored(target, position, (), transfer.rows_of(entries))
                if progress is not None:
                    progress(position - mark.floor, upto - mark.floor)
            if not following:
                break
            following = follow is not None and follow()
            if following:
                await source.run(read.wait(_NEWS, position))
                upto = (await source.run(read.load(source.writer, ()))).position
            else:  # the rest, of one moment
                found = await source.run(transfer.moment(heads_only))
                upto = found.position
        await self._finished(target, position, found.parts.after(mark.floor))
        return Copied(name, position, position - mark.position)

    async def _restored(
        self,
        target: AsyncSession,
        position: int,
        base: tuple[Row, ...],
        rows: tuple[Row, ...],
    ) -> int:
        """Write rows, but those that were written before, and return where the log ends."""
        rows = tuple(row for row in rows if row.position > position)
        if base:
            await target.run(transfer.restored(position, base, ()))
        return await target.run(transfer.restored(position, (), rows)) if rows else position

    async def _finished(self, target: AsyncSession, position: int, parts: transfer.Parts) -> None:
        if not await target.run(transfer.Finish(position=position, parts=parts).__iter__()):
            raise Invalid("Somebody else is importing into the same space. Let one of them finish.")


def _texts(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines.  Raises Invalid where they are not text."""
    try:
        for line in lines:
            if not isinstance(line, str):
                raise Invalid(f"An export is lines of text, not {type(line).__name__}.")
            yield line
    except UnicodeDecodeError as problem:
        raise Invalid(f"The export is not UTF-8 text: {problem.reason}.") from problem
