"""Consumer groups with the asyncio façade.  The same names as `interlock.streams.groups`."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from interlock import cancellation
from interlock.awaiting import AwaitsCalls, awaited
from interlock.backends.drive_async import AsyncDriver
from interlock.core.groups import Deliveries, Delivery, GroupInfo, GroupPending
from interlock.errors import AnswerLost, Closed, InterlockError, Refused, raise_refused
from interlock.streams import consuming
from interlock.streams.consuming import Membership
from interlock.streams.groups import GroupHandle


class AsyncGroup(AwaitsCalls, GroupHandle):
    """One consumer of a group: `async for delivery in group: ...; await group.ack(delivery)`.

    Every entry is delivered until somebody acknowledges it, and the entries of one key are never
    with two consumers at once.  While the loop runs, or from `take` to `close`, the consumer is
    kept alive in the background.  One task at a time; each worker has a name of its own.
    """

    _driver: AsyncDriver
    _task: asyncio.Task[None] | None = None
    _given = False

    def __aiter__(self) -> AsyncIterator[Delivery]:
        """Yield entries one at a time and wait for more, without end.

        What this consumer was given before and did not acknowledge comes first.
        """
        return self._follow()

    async def take(self, limit: int = 10, wait: float | None = 0) -> list[Delivery]:
        """Return the next entries, at most `limit`, in the log's order.

        Waits `wait` seconds for the first one (None: without limit).  Raises Invalid.
        """
        steps = consuming.take(self._member, limit, wait, self._resume, self._op_id(None))
        try:
            found: Deliveries = await self._run(steps)
        except Refused:
            raise
        except BaseException:
            self._given = self._resume = True  # it may have been given some
            raise
        self._resume = False
        if found.items:
            self._given = True
            self._keep()
        return list(found.items)

    @awaited
    async def ack(self, *deliveries: Delivery) -> int:
        """Say that entries are done; return how many of them were still this consumer's.

        One that was claimed by another meanwhile does not count: it is that one's to finish.
        """
        done: int = await self._run(consuming.acknowledge(self._member, deliveries))
        return done

    async def info(self) -> GroupInfo:
        """Return the group as it is.  Raises Invalid where it was never read."""
        info: GroupInfo = await self._run(consuming.state(self.name))
        return info

    async def pending(self) -> list[GroupPending]:
        """Return what is not acknowledged, the first 1,000 entries.  Raises Invalid."""
        return list((await self.info()).pending)

    async def drop(self) -> None:
        """Forget the group.  Stop its consumers first: one that reads makes it anew."""
        await self._stop()
        self._given, self._resume = False, True
        await self._run(consuming.drop(self.name))

    async def close(self) -> None:
        """Let others have at once what this consumer was given and did not acknowledge."""
        given, self._given = self._given, False
        if given or self._task is not None:
            self._resume = True
            await cancellation.finish(self._give_back(given))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        forgotten = self._calls.forgotten()
        await self.close()
        raise_refused(forgotten if kind is None else None)

    async def _follow(self) -> AsyncIterator[Delivery]:
        self._resume = True
        try:
            while True:
                for delivery in await self.take(1, None):
                    yield delivery
        finally:
            self._resume = True
            await self._stop()

    def _keep(self) -> None:
        """Begin to give signs of life, until `_stop` or until nobody has the handle any more."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(_renew(self._driver, self._member))
            weakref.finalize(self, _cancel, self._task)

    async def _give_back(self, given: bool) -> None:
        await self._stop()  # first: a sign of life after it would keep the entries from others
        if given:
            await self._run(consuming.renew(self._member, 0.0))

    async def _stop(self) -> None:
        renewing, self._task = self._task, None
        if renewing is not None:
            await cancellation.stop(renewing)

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(answer)
        return answer


def _cancel(task: asyncio.Task[None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and the task gone with it
        task.cancel()


async def _renew(driver: AsyncDriver, member: Membership) -> None:
    while True:
        await asyncio.sleep(member.ttl / consuming.RENEWALS_PER_TTL)
        try:
            await driver.run(consuming.renew(member, member.ttl))
        except Closed:
            return
        except (AnswerLost, InterlockError):
            continue  # the next one may get through; the store judges in the end
