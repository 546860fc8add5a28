"""One consumer of a consumer group, which deals the log to its consumers."""

from __future__ import annotations

import os
import weakref
from collections.abc import AsyncIterator
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited
from interlock.core.group import Delivery, GroupInfo, GroupPending
from interlock.core.requests import RENEWALS_PER_TTL
from interlock.errors import AnswerLost, Closed, InterlockError, Invalid, Refused, raise_refused
from interlock.session import AsyncSession
from interlock.streams import group
from interlock.streams.group import Membership
from interlock.typed import Typed

T = TypeVar("T")


class AsyncGroup(AwaitsCalls, Generic[T]):
    """One consumer of a group: `async for delivery in group: ...; await group.ack(delivery)`.

    Every entry is delivered until somebody acknowledges it, and the entries of one key are never
    with two consumers at once.  While the loop runs, or from `take` to `close`, the consumer is
    kept alive in the background.  One task at a time; each worker has a name of its own.
    """

    def __init__(self, session: AsyncSession, member: Membership, view: Typed[T]) -> None:
        self._session = session
        self._view = view
        self._member = member
        self._resume = True  # whether entries may be pending that this handle did not hand out
        self._pid = 0  # of the process that was given entries
        self._renewal: concurrency.Renewal | None = None

    @property
    def name(self) -> str:
        """The name of the group."""
        return self._member.group

    @property
    def consumer(self) -> str:
        """The name that entries are delivered to."""
        return self._member.consumer

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self.name!r} consumer={self.consumer!r}>"

    async def __aiter__(self) -> AsyncIterator[Delivery[T]]:
        """Yield entries one at a time, and wait for more forever.

        Entries that this consumer has not acknowledged come first.
        """
        self._resume = True
        try:
            while True:
                for delivery in await self.take(1, None):
                    yield delivery
        finally:
            self._resume = True
            self._session.handling()
            await self._stop()

    async def take(self, limit: int = 10, wait: float | None = 0) -> list[Delivery[T]]:
        """Return the next entries, at most `limit`, in the log's order.

        Waits `wait` seconds for the first one (None: without limit).  Raises Invalid, if one of
        them does not fit the group's type, too: they stay with this consumer, and come again.
        """
        steps = group.take(self._member, limit, wait, self._resume, self._session.op_id())
        try:
            found = await self._session.run(steps)
        except Refused:
            raise
        except BaseException:
            self._pid, self._resume = os.getpid(), True  # it may have been given some
            raise
        self._resume = False
        self._session.handling(*(each.entry for each in found.items))
        if found.items:
            self._pid = os.getpid()
            self._keep()
        try:
            return [each._replace(entry=self._view.entry(each.entry)) for each in found.items]
        except Invalid:
            self._resume = True
            raise

    @awaited
    async def ack(self, *deliveries: Delivery) -> int:
        """Acknowledge entries; return how many of them were still this consumer's.

        An entry that another consumer claimed meanwhile does not count: that one finishes it.
        """
        return await self._session.run(group.acknowledge(self._member, deliveries))

    async def info(self) -> GroupInfo:
        """Return the group as it is.  Raises Invalid if it was never read."""
        return await self._session.run(group.state(self.name))

    async def pending(self) -> list[GroupPending]:
        """Return what is not acknowledged, the first 1,000 entries.  Raises Invalid."""
        return list((await self.info()).pending)

    async def drop(self) -> None:
        """Forget the group.  Stop its consumers first: one that reads makes it anew."""
        await self._stop()
        self._pid, self._resume = 0, True
        await self._session.run(group.drop(self.name))

    async def close(self) -> None:
        """Release the entries that this consumer has not acknowledged; others get them at once."""
        given = self._pid == os.getpid()  # a forked child has only a copy
        self._pid = 0
        if given or self._renewal is not None:
            self._resume = True
            await concurrency.finish(self._give_back(given))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unawaited = self._calls.unawaited()
        await self.close()
        raise_refused(unawaited if kind is None else None)

    def _keep(self) -> None:
        """Begin to give signs of life, until `_stop` or until nobody has the handle any more."""
        if not self._session.keeps_alive or (self._renewal is not None and self._renewal.alive):
            return
        renew = partial(_renewed, self._session, self._member)
        seconds = self._member.ttl / RENEWALS_PER_TTL
        self._renewal = concurrency.Renewal(seconds, renew, "interlock-group")
        weakref.finalize(self, self._renewal.cancel)

    async def _give_back(self, given: bool) -> None:
        await self._stop()  # first: a sign of life after it would keep the entries from others
        if given:
            await self._session.run(group.renew(self._member, 0.0))

    async def _stop(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            await renewal.stop()


async def _renewed(session: AsyncSession, member: Membership) -> bool:
    """Give a sign of life; return whether to go on."""
    try:
        await session.run(group.renew(member, member.ttl))
    except Closed:
        return False
    except (AnswerLost, InterlockError):
        pass  # the next one may get through; the store judges in the end
    return True
