"""A space inside a transaction of the caller's: what `space.joined` returns, to be entered."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from interlock.session import AsyncSession, Inside

S = TypeVar("S")


class AsyncJoined(Generic[S]):
    """A space inside an open transaction of the caller's: the block of `async with` gives it.

    What is committed through it is committed, or rolled back, with what else that transaction
    writes; nobody else sees any of it before.  The caller commits or rolls back; until then others
    who write to the space (in SQLite: to the file) wait.

    Reading, writing and `update` work as ever, but nobody takes a turn: a conflict is raised.  A
    refusal leaves the transaction as it was.  `outcome` waits for those who may be committing that
    very operation.  Leases, groups, runs and watching are for the space itself, which must not
    write while the block goes on.

    Entering raises Invalid where there is no open transaction, it is of another database, or its
    isolation is not READ COMMITTED, and on Redis always; Unavailable where SQLite's lock is not
    free within `busy_timeout`.
    """

    def __init__(
        self, session: AsyncSession, connection: object, make: Callable[[AsyncSession], S]
    ) -> None:
        self._session = session
        self._connection = connection
        self._make = make
        self._inside: Inside | None = None

    async def __aenter__(self) -> S:
        self._joined = await self._session.joined(self._connection)
        self._inside = self._session.inside(self._joined)
        return self._make(self._joined)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._inside is not None:
            self._inside.end()
            await self._joined.close()
