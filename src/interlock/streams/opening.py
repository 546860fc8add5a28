"""How a space hands out what reads its log: the methods that both façades take from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from interlock.core.decide import Writer
from interlock.core.outcome import Refusal
from interlock.errors import raise_refusal

if TYPE_CHECKING:
    from interlock.backends.drive import SyncDriver
    from interlock.backends.drive_async import AsyncDriver
    from interlock.core.merges import Reducer
    from interlock.streams.aio_groups import AsyncGroup
    from interlock.streams.consuming import Membership
    from interlock.streams.coordinating import Job
    from interlock.streams.coordinators import AsyncCoordinator, Coordinator
    from interlock.streams.groups import Group
    from interlock.streams.projecting import Fold, Shape
    from interlock.streams.projections import AsyncProjection, Projection


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

    def _job(self, *arguments: Any) -> Job:
        from interlock.streams.coordinating import job

        found = job(*arguments)
        if isinstance(found, Refusal):
            raise_refusal(found)
        return found

    def _shape(self, *arguments: Any) -> Shape:
        from interlock.streams.projecting import shape

        found = shape(*arguments)
        if isinstance(found, Refusal):
            raise_refusal(found)
        return found


class Streams(_Streams):
    """Groups, coordinators and projections, with the synchronous façade."""

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

    def coordinator(
        self,
        into: str,
        *,
        source: str,
        merge: Callable[[Any, Any], Any] | Reducer | str,
        validate: Callable[[Any], Any] | None = None,
        dedupe: str | Callable[[Any], Any] | None = "id",
        initial: Any = None,
        name: str | None = None,
        ttl: float = 30.0,
        wait: float | None = None,
        on_error: Literal["reject", "stop"] = "reject",
    ) -> Coordinator:
        """Return a coordinator, which merges what is written under `source` into the key `into`.

        `merge(value, contribution)` returns the new value (`initial` before the first), or is a
        reducer or its name.  `validate(contribution)` returns why it is rejected, or raises
        ValueError; so may `merge`.  `dedupe`: what the same contribution is known by: its `id`
        field, its `content`, a function, or None.  `name` (default: `into`) is what others stand by
        for.  `ttl` and `wait` are those of its lease.  `on_error`: what becomes of a contribution
        that a function raises an error for, or whose result cannot be written: `reject` keeps it
        with the reason and goes on, `stop` raises Invalid, which names it.
        """
        from interlock.streams.coordinators import Coordinator

        todo = self._job(into, source, merge, validate, dedupe, initial, name, on_error)
        return Coordinator(self._driver, self._writer, todo, ttl, wait, self._op_id)

    def projection(
        self,
        fold: Fold,
        *,
        prefix: str = "",
        initial: Any = None,
        name: str | None = None,
        version: int = 1,
        snapshot_every: int = 1000,
    ) -> Projection:
        """Return a view in memory: `fold(value, entry)` of `initial` and the entries of `prefix`.

        The fold is pure: what it returns depends on the value and the entry only.  It may change
        the value and return it.  With a `name` the value, which is JSON then, is kept in the store
        every `snapshot_every` log positions, so that opening it costs what came since, and the log
        after that is not trimmed.  A fold that has changed needs another `version`.
        """
        from interlock.streams.projections import Projection

        found = self._shape(fold, prefix, initial, name, version, snapshot_every)
        return Projection(self._driver, found)

    def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams.consuming import names

        return list(self._run(names()))


class AsyncStreams(_Streams):
    """Groups, coordinators and projections, with the asyncio façade."""

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

    def coordinator(
        self,
        into: str,
        *,
        source: str,
        merge: Callable[[Any, Any], Any] | Reducer | str,
        validate: Callable[[Any], Any] | None = None,
        dedupe: str | Callable[[Any], Any] | None = "id",
        initial: Any = None,
        name: str | None = None,
        ttl: float = 30.0,
        wait: float | None = None,
        on_error: Literal["reject", "stop"] = "reject",
    ) -> AsyncCoordinator:
        """Return a coordinator, which merges what is written under `source` into the key `into`.

        The arguments are those of `interlock.Space.coordinator`; functions may be async.
        """
        from interlock.streams.coordinators import AsyncCoordinator

        todo = self._job(into, source, merge, validate, dedupe, initial, name, on_error)
        return AsyncCoordinator(self._driver, self._writer, todo, ttl, wait, self._op_id)

    def projection(
        self,
        fold: Fold,
        *,
        prefix: str = "",
        initial: Any = None,
        name: str | None = None,
        version: int = 1,
        snapshot_every: int = 1000,
    ) -> AsyncProjection:
        """Return a view in memory: `fold(value, entry)` of `initial` and the entries of `prefix`.

        The arguments are those of `interlock.Space.projection`.
        """
        from interlock.streams.projections import AsyncProjection

        found = self._shape(fold, prefix, initial, name, version, snapshot_every)
        return AsyncProjection(self._driver, found)

    async def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams.consuming import names

        return list(await self._run(names()))
