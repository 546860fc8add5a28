"""Projections as agents use them, with either façade."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from interlock.backends.drive import SyncDriver
from interlock.backends.drive_async import AsyncDriver
from interlock.core import protocol
from interlock.errors import Invalid, raise_refused
from interlock.settings import WATCH_PAUSE
from interlock.streams import projecting
from interlock.streams.projecting import Shape, View


class ProjectionHandle:
    """What a projection knows, with either façade."""

    def __init__(self, driver: Any, shape: Shape) -> None:
        self._driver = driver
        self._shape = shape
        self._view = View()

    def __repr__(self) -> str:
        where = f"position={self._view.position}" if self._view.is_open else "not read"
        return f"<interlock.{type(self).__name__} {self._shape.prefix!r} {where}>"

    def _seen(self) -> View:
        if not self._view.is_open:
            raise Invalid("the projection was not read yet, or its fold failed: call refresh()")
        return self._view

    def _refresh(self) -> Any:
        return projecting.refresh(self._shape, self._view)


class Projection(ProjectionHandle):
    """A view in memory: the entries of the log under a prefix, folded into one value.

    `refresh` reads what came since; `for value in projection: ...` follows the log without end.
    May be used by many threads.
    """

    _driver: SyncDriver

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lock = threading.Lock()

    @property
    def value(self) -> Any:
        """The value as of `position`.  It is the fold's to change at the next `refresh`.

        Raises Invalid before the first `refresh`.
        """
        with self._lock:
            return self._seen().value

    @property
    def position(self) -> int:
        """The log position that `value` includes.  Raises Invalid before the first `refresh`."""
        with self._lock:
            return self._seen().position

    def refresh(self) -> Any:
        """Read what came since, up to the end of the log, and return the value.

        Raises what the fold raises, and next time begins with what is kept; Pruned where what it
        needs was trimmed; Invalid where the value is no JSON and the projection has a name.
        """
        with self._lock:
            self._run(self._refresh())
            return self._view.value

    def __iter__(self) -> Iterator[Any]:
        """Yield the value as it is, and again after changes, without end.  Raises as `refresh`."""
        yielded = 0
        while True:
            with self._lock:
                self._run(self._refresh())
                view = replace(self._view)
            if view.changes > yielded:
                yielded = view.changes
                yield view.value
            self._run(protocol.wait(WATCH_PAUSE, view.position))

    def drop(self) -> None:
        """Forget what is kept of it, which no longer holds the log then.

        Raises Invalid where it has no name.
        """
        with self._lock:
            self._run(projecting.drop(self._shape, self._view))

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(answer)
        return answer


class AsyncProjection(ProjectionHandle):
    """A view in memory: the entries of the log under a prefix, folded into one value.

    `await refresh()` reads what came since; `async for value in projection: ...` follows the log
    without end.  May be used by many tasks of one event loop; the fold runs in the loop.
    """

    _driver: AsyncDriver

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lock = asyncio.Lock()

    @property
    def value(self) -> Any:
        """The value as of `position`.  It is the fold's to change at the next `refresh`.

        Raises Invalid before the first `refresh`.
        """
        return self._seen().value

    @property
    def position(self) -> int:
        """The log position that `value` includes.  Raises Invalid before the first `refresh`."""
        return self._seen().position

    async def refresh(self) -> Any:
        """Read what came since, up to the end of the log, and return the value.

        Raises what the fold raises, and next time begins with what is kept; Pruned where what it
        needs was trimmed; Invalid where the value is no JSON and the projection has a name.
        """
        async with self._lock:
            await self._run(self._refresh())
            return self._view.value

    def __aiter__(self) -> AsyncIterator[Any]:
        """Yield the value as it is, and again after changes, without end.  Raises as `refresh`."""
        return self._follow()

    async def drop(self) -> None:
        """Forget what is kept of it, which no longer holds the log then.

        Raises Invalid where it has no name.
        """
        async with self._lock:
            await self._run(projecting.drop(self._shape, self._view))

    async def _follow(self) -> AsyncIterator[Any]:
        yielded = 0
        while True:
            async with self._lock:
                await self._run(self._refresh())
                view = replace(self._view)
            if view.changes > yielded:
                yielded = view.changes
                yield view.value
            await self._run(protocol.wait(WATCH_PAUSE, view.position))

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(answer)
        return answer
