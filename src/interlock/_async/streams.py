"""What follows the log of a space: groups, coordinators, curators, projections, events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from interlock.errors import accepted
from interlock.session import AsyncSession
from interlock.typed import Typed

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from interlock._async.coordinator import AsyncCoordinator
    from interlock._async.curator import AsyncCurator
    from interlock._async.events import AsyncEvents
    from interlock._async.group import AsyncGroup
    from interlock._async.projection import AsyncProjection
    from interlock.core.merge import Reducer
    from interlock.streams.projection import Fold

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
T = TypeVar("T")


class AsyncStreams:
    """The part of a space that follows its log."""

    session: AsyncSession

    @overload
    def group(
        self,
        name: str,
        *,
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> AsyncGroup[Any]: ...
    @overload
    def group(
        self,
        name: str,
        *,
        type: TypeForm[T],
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> AsyncGroup[T]: ...
    def group(
        self,
        name: str,
        *,
        type: Any = None,
        prefix: str = "",
        start: str | int = "beginning",
        consumer: str | None = None,
        ttl: float = 30.0,
    ) -> AsyncGroup[Any]:
        """Return one consumer of a consumer group, which deals the log to its consumers.

        `prefix` and `start` (`beginning`, `now` or a position to read after) count for the first
        consumer that reads.  `consumer`: a name of its own for each worker (default: the agent's).
        `ttl`: seconds without a sign of life after which others take its entries over.  `type`:
        what this consumer gets values, or contributions, as (None: as JSON has them).
        """
        from interlock._async.group import AsyncGroup
        from interlock.streams.group import membership

        who = self.session.writer.agent if consumer is None else consumer
        member = accepted(membership(name, who, prefix, start, ttl))
        return AsyncGroup(self.session, member, Typed(type))

    async def groups(self) -> list[str]:
        """Return the names of the space's consumer groups."""
        from interlock.streams import group

        return list(await self.session.run(group.names()))

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

        `merge(value, contribution)` returns the new value (`initial` before the first), or is a
        reducer or its name.  `validate(contribution)` returns why it is rejected, or raises
        ValueError; so may `merge`.  `dedupe`: what the same contribution is known by: its `id`
        field, its `content`, a function, or None.  `name` (default: `into`) is what others stand by
        for.  `ttl` and `wait` are those of its lease.  `on_error`: what becomes of a contribution
        that a function raises an error for, or whose result cannot be written: `reject` keeps it
        with the reason and goes on, `stop` raises Invalid, which names it.
        """
        from interlock._async.coordinator import AsyncCoordinator
        from interlock.streams.coordinator import job

        todo = accepted(job(into, source, merge, validate, dedupe, initial, name, on_error))
        return AsyncCoordinator(self.session, todo, ttl, wait)

    def curator(
        self,
        source: str,
        *,
        validate: Callable[[Any], Any] | None = None,
        dedupe: str | Callable[[Any], Any] | None = "content",
        route: Callable[[Any], Any] | None = None,
        scopes: Iterable[str] = ("project", "user", "agent"),
        type: TypeForm[Any] | None = None,
        effect: bool = False,
        slots: int = 1,
        merge: Callable[[Any, Any], Any] | Reducer | str = "append",
        initial: Any = None,
        into: str = "memory",
        agent: str = "curator",
        name: str = "curator",
        ttl: float = 30.0,
        wait: float | None = None,
    ) -> AsyncCurator:
        """Return a curator, which merges the events under `source` into keys such as
        `memory/project`.

        `route(event)` returns the scope that an event belongs to, or several (None: its field
        `scope`): one of `scopes`, or a path below one, such as `user/anna`.  `validate`, `dedupe`,
        `merge`, `initial`, `ttl` and `wait` are those of `coordinator`.  An event that is not
        valid, has no such scope, or that a function raises an error for is rejected: it is kept
        with the reason, and the others go on.  `type` is what these functions are given an event
        as (None: as JSON has it); one that does not fit is rejected.  `merge` is given it as JSON.
        `effect`: `validate` calls a service, such as a language model; each verdict is recorded,
        and not asked for again after a crash.  `slots`: how many events it is asked about at the
        same time; they are merged in order.

        It commits as `agent`, and makes itself the owner of `into` and of its own keys, which
        begin with `name`: others only read them.  Curators of one name stand by for each other.
        """
        from interlock._async.curator import AsyncCurator
        from interlock.streams.curator import job

        what = (source, validate, dedupe, route, scopes, into, merge, initial)
        todo = accepted(job(*what, name, effect, slots, type))
        return AsyncCurator(self.session.under_name(agent), todo, ttl, wait, slots)

    def projection(
        self,
        fold: Fold,
        *,
        prefix: str = "",
        type: TypeForm[Any] | None = None,
        initial: Any = None,
        name: str | None = None,
        version: int = 1,
        snapshot_every: int = 1000,
    ) -> AsyncProjection:
        """Return a view in memory: `fold(value, entry)` of `initial` and the entries of `prefix`.

        The fold is pure: what it returns depends on the value and the entry only.  It may change
        the value and return it.  `type` is what the entries' values are given to it as.  With a
        `name` the value, which is JSON then, is kept in the store every `snapshot_every` log
        positions, so that opening it costs what came since, and the log after that is not trimmed.
        A fold that has changed needs another `version`.
        """
        from interlock._async.projection import AsyncProjection
        from interlock.streams.projection import shape

        found = accepted(shape(fold, prefix, initial, name, version, snapshot_every, type))
        return AsyncProjection(self.session, found)

    @overload
    def events(self, key: str, a: TypeForm[A], /) -> AsyncEvents[A]: ...
    @overload
    def events(self, key: str, a: TypeForm[A], b: TypeForm[B], /) -> AsyncEvents[A | B]: ...
    @overload
    def events(
        self, key: str, a: TypeForm[A], b: TypeForm[B], c: TypeForm[C], /
    ) -> AsyncEvents[A | B | C]: ...
    @overload
    def events(
        self, key: str, a: TypeForm[A], b: TypeForm[B], c: TypeForm[C], d: TypeForm[D], /
    ) -> AsyncEvents[A | B | C | D]: ...
    @overload
    def events(
        self,
        key: str,
        a: TypeForm[A],
        b: TypeForm[B],
        c: TypeForm[C],
        d: TypeForm[D],
        e: TypeForm[E],
        /,
        *more: TypeForm[F],
    ) -> AsyncEvents[A | B | C | D | E | F]: ...
    def events(self, key: str, /, *types: Any) -> AsyncEvents[Any]:
        """Return the stream of typed events in a merged key, whose rule is `merged("append")`.

        `types`: the classes of the events, such as dataclasses, or a union of them.  The name of an
        event's class is stored with it, so a class that has events keeps its name.  Raises Invalid.
        """
        from interlock._async.events import AsyncEvents
        from interlock.streams.events import Stream

        return AsyncEvents(self.session, Stream(key, types))
