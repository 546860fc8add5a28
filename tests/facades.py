"""Fixtures that run one test against both APIs, on the store of the fixture `store_url`.

`facades` opens spaces with each API in turn; the asyncio one is driven by a loop of its own.
`sync_facades` and `async_facades` are of one API, `space` is one open space.  A pytest plugin,
which `tests/conftest.py` loads.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

import interlock

CAPABILITIES: Mapping[str, str] = {
    "shared": "whoever opens the URL again, in any process, finds the same store",
    "fork": "a forked child may go on with a space of its parent, over connections of its own",
    "groups": "consumer groups: ReadGroup, AckGroup, GroupState, ListGroups, DropGroup",
    "trimming": "cutting off the oldest part of the log: Trim",
    "here": "what answers runs in the process of the test, which may set limits of it",
    "spaces": "whole spaces: those of core/spaces.py and core/transfer.py",
}
_NO_FORK = {} if hasattr(os, "fork") else {"fork": "this system has no os.fork"}


@dataclass(frozen=True)
class Capabilities:
    """What a store has: all of `CAPABILITIES` but what it `lacks`, each with the reason."""

    lacks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := sorted({*self.lacks} - {*CAPABILITIES}):
            raise ValueError(f"{', '.join(unknown)}: not among {', '.join(CAPABILITIES)}")
        if silent := [name for name, reason in self.lacks.items() if not reason.strip()]:
            raise ValueError(f"{', '.join(silent)}: no reason is given")

    def need(self, *names: str) -> None:
        """Skip the test that runs, with the reason, where the store lacks one of these."""
        for name in names:
            if name not in CAPABILITIES:
                raise ValueError(f"{name!r} is not among {', '.join(CAPABILITIES)}")
            reason = self.lacks.get(name) or _NO_FORK.get(name)
            if reason:
                pytest.skip(f"the store lacks {name!r}: {reason}")


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
            | interlock.AsyncEvents
            | interlock.AsyncRun
            | interlock.AsyncRuns
            | interlock.AsyncFiles
            | interlock.AsyncFilesTx
        )
        return Bridge(answer, self._loop) if isinstance(answer, kinds) else answer

    def _await(self, awaitable: Any) -> Any:
        """Await something, too in a function that the asyncio API runs in a thread."""
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


async def _finish(awaitable: Any) -> Any:
    return await awaitable


def elsewhere(fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run `fn` as another agent would: in a thread, outside the caller's context."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(fn, *args, **options).result()


class Facades:
    """Opens spaces of one kind, `sync` or `async`, on one store, and closes them all.

    Their names begin with `space`, which nobody else uses, unless it is given.  Spaces of the
    asyncio API are given behind a `Bridge`, so that one test is for both.
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
        """Another process's view of the same space: always the synchronous API."""
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


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    config.addinivalue_line("markers", "interlock_space(**options): how `space` is opened")
    config.addinivalue_line("markers", "interlock_needs(*names): skipped where the store lacks it")


@pytest.fixture(scope="session")
def store_capabilities() -> Capabilities:
    """What the store at `store_url` has: everything.  Override it where something is lacking."""
    return Capabilities()


@pytest.fixture(params=["sync", "async"])
def facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """Opens spaces that no other test uses in one store, with each API in turn."""
    yield from _facades(request, request.param, store_url, store_capabilities)


@pytest.fixture
def async_facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """The same for a test that has a meaning with the asyncio API only."""
    yield from _facades(request, "async", store_url, store_capabilities)


@pytest.fixture
def sync_facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """The same for a test that has a meaning with the synchronous API only."""
    yield from _facades(request, "sync", store_url, store_capabilities)


def _facades(
    request: pytest.FixtureRequest, kind: str, url: str, capabilities: Capabilities
) -> Iterator[Facades]:
    for mark in request.node.iter_markers("interlock_needs"):
        capabilities.need(*mark.args)
    with Facades(kind, url, capabilities=capabilities) as opened:
        yield opened


@pytest.fixture
def space(request: pytest.FixtureRequest, facades: Facades) -> Any:
    """One open space."""
    mark = request.node.get_closest_marker("interlock_space")
    return facades.open(**(mark.kwargs if mark else {}))
