"""Runs one test against both façades: the asyncio one is driven through a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import interlock
from interlock.verify.suite.capabilities import Capabilities


class Bridge:
    """Makes an asyncio object look synchronous: awaits what is awaitable, steps async iterators."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("_target", "_loop"):
            super().__setattr__(name, value)
        else:
            setattr(self._target, name, value)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        return self._call(value) if callable(value) else self._bridged(value)

    def __enter__(self) -> Any:
        return type(self)(self._await(self._target.__aenter__()), self._loop)

    def __exit__(self, *problem: Any) -> Any:
        return self._await(self._target.__aexit__(*problem))

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(self._target.__aiter__())

    def __getitem__(self, key: Any) -> Any:
        return self._bridged(self._target[key])

    def _call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if inspect.isawaitable(answer):
                return self._bridged(self._await(answer))
            if hasattr(answer, "__anext__"):
                return self._iterate(answer)
            return self._bridged(answer)

        return call

    def _bridged(self, answer: Any) -> Any:
        kinds = (
            interlock.AsyncTx
            | interlock.AsyncMoment
            | interlock.AsyncLease
            | interlock.AsyncLeases
            | interlock.AsyncGroup
            | interlock.AsyncCoordinator
            | interlock.AsyncBreaker
            | interlock.AsyncProjection
            | interlock.AsyncRuns
            | interlock.AsyncFiles
            | interlock.AsyncFilesTx
        )
        if isinstance(answer, interlock.AsyncRun):
            return RunBridge(answer, self._loop)
        return Bridge(answer, self._loop) if isinstance(answer, kinds) else answer

    def _await(self, awaitable: Any) -> Any:
        """Await something, too in a function that an asyncio façade runs in a thread."""
        if self._loop.is_running():
            return asyncio.run_coroutine_threadsafe(_finish(awaitable), self._loop).result()
        return self._loop.run_until_complete(_finish(awaitable))

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._await(items.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            if inspect.isasyncgen(items) and not self._loop.is_closed():
                self._loop.run_until_complete(items.aclose())

    def transact(self, fn: Callable[[Any], Any], **options: Any) -> Any:
        """The function of an asyncio transaction awaits; here it is given a synchronous view."""

        async def run(tx: Any) -> Any:
            return await asyncio.to_thread(fn, Bridge(tx, self._loop))

        return self._loop.run_until_complete(self._target.transact(run, **options))


class RunBridge(Bridge):
    """A run of the asyncio façade, with the synchronous one's way to do steps at the same time."""

    def parallel(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Do as `interlock.Run.parallel`."""

        async def gathered() -> list[Any]:
            return await asyncio.gather(*(self._target.step(*call) for call in calls))

        found: list[Any] = self._await(gathered())
        return found


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def elsewhere(fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run `fn` as another agent would: in a thread, outside the caller's context."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(fn, *args, **options).result()


class Facades:
    """Opens spaces of one kind, `sync` or `async`, on one store, and closes them all.

    Their names begin with `space`, which nobody else uses, unless it is given.  Spaces of the
    asyncio façade are given behind a `Bridge`, so that one test is for both.
    """

    def __init__(
        self, kind: str, url: str, space: str = "", capabilities: Capabilities | None = None
    ) -> None:
        self.kind = kind
        self.url = url
        self.capabilities = capabilities or Capabilities()
        self.space = space or f"suite-{uuid.uuid4().hex[:16]}"
        self._loop = asyncio.new_event_loop()
        self._opened: list[Any] = []

    def open(self, agent: str = "tester", **options: Any) -> Any:
        """Open a space as `interlock.open` does.  `space` is added to the name of all spaces here,
        unless it is no name at all."""
        self._needs_shared()
        added = options.pop("space", None)
        name = self.space if added is None else added and self.space + added
        arguments = {"url": self.url, "space": name, "agent": agent, **options}
        space: Any
        if self.kind == "sync":
            space = interlock.open(**arguments)
        else:
            space = Bridge(self.run(interlock.open_async(**arguments)), self._loop)
        self._opened.append(space)
        return space

    def peer(self, agent: str | None = None) -> interlock.Space:
        """Another process's view of the same space: always the synchronous façade."""
        self._needs_shared()
        space = interlock.open(self.url, space=self.space, agent=agent)
        self._opened.append(space)
        return space

    async def open_async(self, agent: str = "tester") -> interlock.AsyncSpace:
        """Open a space for a coroutine given to `run`, which closes it."""
        return await interlock.open_async(self.url, space=self.space, agent=agent)

    def run(self, awaitable: Any) -> Any:
        """Await something in the event loop of the spaces here."""
        return self._loop.run_until_complete(_finish(awaitable))

    def __enter__(self) -> Facades:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every space that was opened here, and the event loop."""
        for space in reversed(self._opened):
            space.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _needs_shared(self) -> None:
        """A second space is one of the same store, or the test means nothing."""
        if self._opened:
            self.capabilities.need("shared")


@pytest.fixture
def other(facades: Facades) -> Any:
    """Another agent, with the synchronous façade, so that it can be called from anywhere."""
    return facades.peer("other")
