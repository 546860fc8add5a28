"""Events of one stream, typed: what `space.events` returns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from interlock._async import concurrency
from interlock._async.pages import AsyncPages
from interlock._async.projection import AsyncProjection
from interlock.core import log
from interlock.errors import accepted
from interlock.session import AsyncSession
from interlock.settings import contribution_id
from interlock.streams.events import EventEntry, Stream
from interlock.streams.projection import Page, shape

if TYPE_CHECKING:
    from typing_extensions import TypeForm

E = TypeVar("E")
S = TypeVar("S")
V = TypeVar("V")


class AsyncEvents(Generic[E]):
    """The events of one key: `await orders.append(OrderPaid(7))`; `async for e in orders.read()`.

    Anyone appends, and nobody conflicts.  `read` and `watch` yield an EventEntry for each event:
    `position`, `event`, `agent`, `at`; `replay` yields the events alone.  They read the log, so
    that appending costs the same however many there are.  The value of the key is a list of all;
    avoid reading that of a long stream.
    """

    def __init__(self, session: AsyncSession, stream: Stream[E]) -> None:
        self._session = session
        self._stream = stream
        self._pages = AsyncPages(session)

    @property
    def key(self) -> str:
        """The merged key that the events are in."""
        return self._stream.key

    @property
    def types(self) -> tuple[type[Any], ...]:
        """The classes of the events."""
        return self._stream.types

    async def append(self, event: E, *, id: str | None = None) -> EventEntry[E]:
        """Append an event, in one round trip, and return its entry.

        An `id` that was already appended adds nothing: its entry is returned.  Raises Invalid if
        the event is of none of the types, or a field does not fit; Forbidden if the key's rule is
        not `merged("append")`; Held if another agent holds its lease.
        """
        self._session.check_write(self.key)
        name = contribution_id(self.key, None, id, False)
        op_id = name or self._session.op_id(None)
        steps = self._stream.append(
            self._session.writer, (event,), op_id, exact=name is None, together=False
        )
        return (await self._session.run(steps))[0]

    async def append_many(
        self, events: Iterable[E], *, op_id: str | None = None
    ) -> list[EventEntry[E]]:
        """Append events in one commit, in order: all or none.  Raises as `append` does.

        An `op_id` that was already applied adds nothing.
        """
        self._session.check_write(self.key)
        given, name = list(events), self._session.op_id(op_id)
        if not given:
            return []
        steps = self._stream.append(self._session.writer, given, name, exact=True, together=True)
        return await self._session.run(steps)

    @overload
    def read(
        self,
        after: int | None = None,
        *,
        agent: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[EventEntry[E]]: ...
    @overload
    def read(
        self,
        after: int | None = None,
        *,
        types: TypeForm[S],
        agent: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[EventEntry[S]]: ...
    @overload
    def read(
        self,
        after: int | None = None,
        *,
        types: Collection[type[Any]],
        agent: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[EventEntry[E]]: ...
    def read(
        self,
        after: int | None = None,
        *,
        types: Any = None,
        agent: str | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> AsyncIterator[EventEntry[Any]]:
        """Yield the events after position `after` (None: all kept), oldest first.

        `types`: only those of a class, a union or a tuple of classes.  `agent`: only those that it
        appended.  `limit`: at most so many.  `newest_first`: the last one first.

        Raises Invalid at an entry that is no event of the stream or does not fit its class, unless
        `types` leaves it out; Pruned if what comes after `after` was trimmed.
        """
        asked = accepted(log.choice(key=self.key, agent=agent, limit=limit))
        pick = self._stream.of(types).entries
        if newest_first:
            return self._pages.backwards(asked, after, pick)
        return self._pages.read(asked, after, pick)

    @overload
    def replay(self, after: int | None = None) -> AsyncIterator[E]: ...
    @overload
    def replay(self, after: int | None = None, *, types: TypeForm[S]) -> AsyncIterator[S]: ...
    @overload
    def replay(
        self, after: int | None = None, *, types: Collection[type[Any]]
    ) -> AsyncIterator[E]: ...
    def replay(self, after: int | None = None, *, types: Any = None) -> AsyncIterator[Any]:
        """Yield the events alone, oldest first, several times faster than `read`: for a fold.

        `after`, `types`, and what is raised, are those of `read`.
        """
        stream = self._stream.of(types)
        return self._replay(stream, concurrency.at_once(partial(self._page, stream, after)))

    async def _replay(
        self, stream: Stream[S], first: Callable[[], Awaitable[Page[S]]]
    ) -> AsyncIterator[S]:
        page = await first()
        while True:
            for event in page.items:
                yield event
            if page.upto >= page.head:
                return
            page = await self._page(stream, page.upto)

    async def _page(self, stream: Stream[S], after: int | None) -> Page[S]:
        return await self._session.run(stream.page(after))

    @overload
    def watch(self, after: int | None = None) -> AsyncIterator[EventEntry[E]]: ...
    @overload
    def watch(
        self, after: int | None = None, *, types: TypeForm[S]
    ) -> AsyncIterator[EventEntry[S]]: ...
    @overload
    def watch(
        self, after: int | None = None, *, types: Collection[type[Any]]
    ) -> AsyncIterator[EventEntry[E]]: ...
    def watch(
        self, after: int | None = None, *, types: Any = None
    ) -> AsyncIterator[EventEntry[Any]]:
        """Yield events as they are appended, without end, after `after` (None: from now).

        `types`, and what is raised, are those of `read`.
        """
        asked = accepted(log.choice(key=self.key))
        return self._pages.follow(asked, after, self._stream.of(types).entries)

    def project(
        self,
        fold: Callable[[V, E], V],
        initial: V,
        *,
        types: Any = None,
        name: str | None = None,
        version: int = 1,
        snapshot_every: int = 1000,
    ) -> AsyncProjection[V]:
        """Return a view in memory: `fold(value, event)` of `initial` and the events.

        It is a projection as `space.projection` returns it: `await view.refresh()` reads what came
        since.  With a `name` it is kept in the store; a fold, or types, that have changed need
        another `version`.  `types` is that of `read`.
        """
        stream = self._stream.of(types)
        found = shape(
            fold, "", initial, name, version, snapshot_every, key=self.key, pages=stream.page
        )
        return AsyncProjection(self._session, accepted(found))

    def __repr__(self) -> str:
        names = ", ".join(each.__name__ for each in self.types)
        return f"<interlock.{type(self).__name__} {self.key!r} of {names}>"
