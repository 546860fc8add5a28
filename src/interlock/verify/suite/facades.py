"""Runs one test against both façades: the asyncio one is driven through a loop of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import interlock


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
        return self._call(value) if callable(value) else value

    def __enter__(self) -> Any:
        return Bridge(self._loop.run_until_complete(self._target.__aenter__()), self._loop)

    def __exit__(self, *problem: Any) -> Any:
        return self._loop.run_until_complete(self._target.__aexit__(*problem))

    def __iter__(self) -> Iterator[Any]:
        return self._iterate(self._target.__aiter__())

    def _call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if inspect.isawaitable(answer):
                return self._bridged(self._loop.run_until_complete(_finish(answer)))
            if hasattr(answer, "__anext__"):
                return self._iterate(answer)
            return self._bridged(answer)

        return call

    def _bridged(self, answer: Any) -> Any:
        kinds = (
            interlock.AsyncTx
            | interlock.AsyncMoment
            | interlock.AsyncLease
            | interlock.AsyncGroup
            | interlock.AsyncCoordinator
        )
        return Bridge(answer, self._loop) if isinstance(answer, kinds) else answer

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(_finish(items.__anext__()))
                except StopAsyncIteration:
                    return
        finally:
            if inspect.isasyncgen(items) and not self._loop.is_closed():
                self._loop.run_until_complete(items.aclose())

    def transact(self, fn: Callable[[Any], Any], **options: Any) -> Any:
        """The function of an asyncio transaction awaits; here it is given a synchronous view."""

        async def run(tx: Any) -> Any:
            return await asyncio.to_thread(fn, _ThreadTx(tx, self._loop))

        return self._loop.run_until_complete(self._target.transact(run, **options))


class _ThreadTx:
    def __init__(self, tx: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._tx = tx
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tx, name)

        def call(*args: Any) -> Any:
            answer = method(*args)
            if inspect.isawaitable(answer):
                return asyncio.run_coroutine_threadsafe(_finish(answer), self._loop).result()
            return answer

        return call


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def elsewhere(fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run `fn` as another agent would: in a thread, outside the caller's context."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(fn, *args, **options).result()


class Facades:
    """Opens spaces of one kind on one store, and closes them all."""

    def __init__(self, kind: str, url: str, space: str = "default") -> None:
        self.kind = kind
        self.url = url
        self.space = space
        self._loop = asyncio.new_event_loop()
        self._open: list[Any] = []
        self._peers: list[interlock.Space] = []

    def open(self, agent: str = "tester", **options: Any) -> Any:
        space: Any
        options["space"] = self.space + options.pop("space", "")
        if self.kind == "sync":
            space = interlock.open(options.pop("url", self.url), agent=agent, **options)
        else:
            opening = interlock.open_async(options.pop("url", self.url), agent=agent, **options)
            space = Bridge(self._loop.run_until_complete(_finish(opening)), self._loop)
        self._open.append(space)
        return space

    def peer(self, agent: str | None = None) -> interlock.Space:
        """Another process's view of the same space: always the synchronous façade."""
        space = interlock.open(self.url, space=self.space, agent=agent)
        self._peers.append(space)
        return space

    def close(self) -> None:
        for peer in self._peers:
            peer.close()
        for space in self._open:
            space.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
