"""The space that an adapter works in: one that it was given, or one that it opens at a URL."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Self, TypeVar

import interlock
from interlock import AsyncSpace, Space
from interlock.adapters.space import Work, awaitable, checked, run, run_async
from interlock.cancellation import finish

T = TypeVar("T")


class Home:
    """Where an adapter keeps what it is given: it opens at the first use.

    `given`: a space, which stays open, or a URL; `space` and `agent` are then arguments of
    `interlock.open`.  Raises Invalid.
    """

    def __init__(self, given: object, adapter: str, space: str, agent: str | None) -> None:
        self._url = given if isinstance(given, str) else None
        self._opened = None if self._url is not None else checked(given, adapter)
        self._named = (space, agent)
        self._shut: Callable[[], object] | None = None
        self._opening = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # there is none
            self._loop = asyncio.get_running_loop()

    @property
    def space(self) -> Space | AsyncSpace:
        """The space.  It is opened here if it was not yet, or was closed."""
        if self._opened is None:
            with self._opening:
                if self._opened is None:
                    self._opened = interlock.open(self._url, *self._named)
                    self._shut = weakref.finalize(self, self._opened.close)
        return self._opened

    @property
    def calls(self) -> AsyncSpace:
        """The space for code that is given to `run` or `run_async`."""
        return awaitable(self.space)

    def run(self, work: Work[T]) -> T:
        """Run code that was given `calls`.

        A space of `interlock.open_async` works from other threads than that of its event loop.
        """
        if isinstance(self.space, Space) or self._loop is None or _in_loop(self._loop):
            return run(self.space, work)
        waiting = asyncio.run_coroutine_threadsafe(run_async(self.space, work), self._loop)
        return waiting.result()

    async def run_async(self, work: Work[T]) -> T:
        """Await code that was given `calls`."""
        return await run_async(self.space, work)

    async def open_async(self) -> None:
        """Open it for asyncio, if it was not opened yet."""
        if self._opened is None:
            self._loop = asyncio.get_running_loop()
            self._opened = await interlock.open_async(self._url, *self._named)

    def close(self) -> None:
        """Close it, if it was opened here with `interlock.open`."""
        if self._shut is not None:
            self._shut()
            self._shut = self._opened = None

    async def close_async(self) -> None:
        """Close it, if it was opened here."""
        if self._url is not None and isinstance(self._opened, AsyncSpace):
            await self._opened.close()
            self._opened = None
        await finish(asyncio.to_thread(self.close))


class AtHome:
    """An adapter that is given a space, or the URL of one that it opens and closes itself: at the
    end of a `with` or `async with` block, or when nobody refers to it any more."""

    _home: Home
    _space: Space | AsyncSpace
    _calls: AsyncSpace

    def _open(self, given: object, space: str, agent: str | None) -> None:
        """Open the space at a URL, or take what was given.  Raises as `interlock.open` does."""
        self._home = Home(given, type(self).__name__, space, agent)
        self._space = self._home.space
        self._calls = self._home.calls

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._home.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._home.close_async()


class Closing(AtHome):
    """One that is closed by `close`, too."""

    def close(self) -> None:
        """Close the space that this opened; one that was given belongs to whoever opened it."""
        self._home.close()


class AsyncClosing(AtHome):
    """One that is closed by `close`, too, which is awaited."""

    async def close(self) -> None:
        """Close the space that this opened; one that was given belongs to whoever opened it."""
        await self._home.close_async()


class ForLangGraph(Closing):
    """What LangGraph's own savers and stores offer for opening, too.  The space of a URL is opened
    at the first call, or for asyncio by `async with`, and again by a call after `close`."""

    @property
    def space(self) -> Space | AsyncSpace:
        """The space that it works in."""
        return self._home.space

    @classmethod
    def from_conn_string(cls, conn_string: str, **options: object) -> Self:
        """Return one for `with` or `async with`: `with Saver.from_conn_string(url) as saver:`.

        `options` are those of the class.
        """
        return cls(conn_string, **options)  # type: ignore[call-arg]  # every adapter's first one

    def setup(self) -> Done:
        """Do nothing: opening a space makes its tables.  May be awaited."""
        return Done()

    def __enter__(self) -> Self:
        _ = self.space
        return self

    async def __aenter__(self) -> Self:
        await self._home.open_async()
        return self


class Done:
    """What was done before it is awaited."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


def _in_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread runs the loop, and so cannot wait for it."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
