"""A projection: a view in memory of the entries under a prefix."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic

from interlock._async import concurrency
from interlock.core import read
from interlock.errors import Invalid
from interlock.session import AsyncSession
from interlock.settings import WATCH_PAUSE
from interlock.streams import projection
from interlock.streams.projection import Shape, View

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    V = TypeVar("V", default=Any)
else:
    from typing import TypeVar

    V = TypeVar("V")


class AsyncProjection(Generic[V]):
    """A view in memory: the entries of the log under a prefix, folded into one value.

    `await refresh()` reads what came since; `async for value in projection: ...` follows the log
    without end.  May be used by many tasks of one event loop; the fold runs in the loop.
    """

    def __init__(self, session: AsyncSession, shape: Shape) -> None:
        self._session = session
        self._shape = shape
        self._view = View()
        self._lock = concurrency.Lock()

    @property
    def value(self) -> V:
        """The value as of `position`.  It is the fold's to change at the next `refresh`.

        Raises Invalid before the first `refresh`.
        """
        with concurrency.settled(self._lock):
            value: V = self._seen().value
            return value

    @property
    def position(self) -> int:
        """The log position that `value` includes.  Raises Invalid before the first `refresh`."""
        with concurrency.settled(self._lock):
            return self._seen().position

    async def refresh(self) -> V:
        """Read what came since, up to the end of the log, and return the value.

        Raises what the fold raises, and next time begins with what is kept; Pruned if what it
        needs was trimmed; Invalid if the value is no JSON and the projection has a name.
        """
        async with self._lock:
            await self._refresh()
            value: V = self._view.value
            return value

    async def __aiter__(self) -> AsyncIterator[V]:
        """Yield the value as it is, and again after changes, without end.  Raises as `refresh`."""
        yielded = 0
        while True:
            async with self._lock:
                await self._refresh()
                view = replace(self._view)
            if view.changes > yielded:
                yielded = view.changes
                yield view.value
            await self._session.run(read.wait(WATCH_PAUSE, view.position))

    async def drop(self) -> None:
        """Forget what is kept of it, which no longer holds the log then.

        Raises Invalid if it has no name.
        """
        async with self._lock:
            await self._session.run(projection.drop(self._shape, self._view))

    def __repr__(self) -> str:
        where = f"position={self._view.position}" if self._view.is_open else "not read"
        return f"<interlock.{type(self).__name__} {self._shape.where!r} {where}>"

    def _seen(self) -> View:
        if not self._view.is_open:
            raise Invalid("The projection was not read yet, or its fold failed: call refresh().")
        return self._view

    async def _refresh(self) -> None:
        await self._session.run(projection.refresh(self._shape, self._view))
