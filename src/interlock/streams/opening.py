"""How a space hands out what reads its log: the methods that both façades take from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.core.decide import Writer
from interlock.core.outcome import Refusal
from interlock.errors import raise_refusal

if TYPE_CHECKING:
    from interlock.backends.drive import SyncDriver
    from interlock.backends.drive_async import AsyncDriver
    from interlock.streams.aio_groups import AsyncGroup
    from interlock.streams.consuming import Membership
    from interlock.streams.groups import Group


class _Streams:
    _writer: Writer
    _op_id: Callable[[str | None], str]

    def _membership(
        self, name: str, prefix: str, start: str | int, consumer: str | None, ttl: float
    ) -> Membership:
        from interlock.streams.consuming import membership

        who = self._writer.agent if consumer is None else consumer
        member = membership(name, who, prefix, start, ttl)
        if isinstance(member, Refusal):
            raise_refusal(member)
        return member


class Streams(_Streams):
    """Groups and coordinators, with the synchronous façade."""

    _driver: SyncDriver
    _run: Callable[[Any], Any]

    def group(
        self,
        name: str,
        *,
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> Group:
        """Return this consumer's handle on a consumer group, which deals the log to its consumers.

        `prefix` and `start` (`beginning`, `now` or a position to read after) count for the first
        consumer that reads.  `consumer`: a name of its own for each worker (default: the agent's).
        `ttl`: seconds without a sign of life after which others take its entries over.
        """
        from interlock.streams.groups import Group

        member = self._membership(name, prefix, start, consumer, ttl)
        return Group(self._driver, member, self._op_id)

    def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams.consuming import names

        return list(self._run(names()))


class AsyncStreams(_Streams):
    """Groups and coordinators, with the asyncio façade."""

    _driver: AsyncDriver
    _run: Callable[[Any], Any]

    def group(
        self,
        name: str,
        *,
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> AsyncGroup:
        """Return this consumer's handle on a consumer group, which deals the log to its consumers.

        The arguments are those of `interlock.Space.group`.
        """
        from interlock.streams.aio_groups import AsyncGroup

        member = self._membership(name, prefix, start, consumer, ttl)
        return AsyncGroup(self._driver, member, self._op_id)

    async def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams.consuming import names

        return list(await self._run(names()))
