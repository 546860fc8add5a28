"""What asyncio does in tasks and `_sync.concurrency` does in threads, by the same names."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from interlock import cancellation
from interlock.errors import Invalid

P = ParamSpec("P")
T = TypeVar("T")

finish = cancellation.finish
Lock = asyncio.Lock


def settled(lock: Lock) -> AbstractContextManager[object]:
    """Return a block in which nothing changes that `lock` guards: here any that does not await."""
    return nullcontext()


def at_once(read: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """Return a function that returns what `read` does; it is called now if possible."""
    return read


async def blocking(fn: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call a function that blocks, in a thread, and return what it returns."""
    return await asyncio.to_thread(fn, *args, **options)


def check_function(fn: object, what: str) -> None:
    """Raise Invalid if what should be a function of the caller's is none."""
    if not callable(fn):
        raise Invalid(f"{what} must be a function, not {fn!r:.60}.")


def hook(fn: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a function of a thread that calls `fn`, one of coroutines in the event loop of now."""
    if not inspect.iscoroutinefunction(fn):
        return fn
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise Invalid("A coroutine function needs an event loop: call on() inside one.") from None

    def call(notice: Any) -> object:
        coroutine = fn(notice)
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
        except RuntimeError:
            coroutine.close()  # the event loop is closed
            raise

    return call


def check_program(fn: object, what: str) -> None:
    """Raise Invalid if a function of the caller's cannot be the program of a run."""
    if not inspect.iscoroutinefunction(fn):
        raise Invalid(f"{what} is not a coroutine function. Use interlock.open.")


async def together(calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Make calls at the same time and return their results.

    Raises what the first of them raises, once all have ended.
    """
    found = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found  # type: ignore[return-value]  # none of them is an exception


async def do_all(calls: Iterable[Callable[[], Awaitable[object]]]) -> None:
    """Make every call, even if one fails or the caller is cancelled."""
    await finish(together(calls))


class Renewal:
    """Calls `renew` every so many `seconds`, in a task, until it returns False."""

    def __init__(self, seconds: float, renew: Callable[[], Awaitable[bool]], name: str) -> None:
        self._task = asyncio.create_task(self._run(seconds, renew), name=name)

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return not self._task.done()

    def cancel(self) -> None:
        """Have it stop."""
        with suppress(RuntimeError):  # the loop is closed, and the task gone with it
            self._task.cancel()

    async def stop(self) -> None:
        """Have it stop, and wait until it has."""
        await cancellation.stop(self._task)

    @staticmethod
    async def _run(seconds: float, renew: Callable[[], Awaitable[bool]]) -> None:
        await asyncio.sleep(seconds)
        while await renew():
            await asyncio.sleep(seconds)


class Pool:
    """Runs at most `slots` calls at a time, in tasks.  Leaving the block waits for them."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return not self._running

    def start(self, call: Callable[[], Coroutine[object, None, None]]) -> None:
        """Begin a call; there must be `room`."""
        self._running.add(asyncio.create_task(call()))

    async def room(self) -> None:
        """Wait until a slot is free.  Raises what a call that has ended raised."""
        if len(self._running) >= self._slots:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        self.check()

    async def wait(self, seconds: float) -> None:
        """Wait until a call ends, at most so many seconds."""
        await asyncio.wait(self._running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def check(self) -> None:
        """Raise what a call that has ended raised."""
        ended = {task for task in self._running if task.done()}
        for task in ended:
            task.result()
        self._running -= ended

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._running:
            return
        try:
            await asyncio.wait(self._running)
        except asyncio.CancelledError:  # a second time
            await finish(asyncio.gather(*map(cancellation.stop, self._running)))
            raise
        for task in self._running:
            if not task.cancelled():
                task.exception()  # seen: the first one is raised


class Timer:
    """Cancels the block that it is around once its time is over."""

    async def start(self, seconds: float) -> None:
        """Begin, with so many seconds left."""
        self._timeout = asyncio.timeout(max(seconds, 0))
        await self._timeout.__aenter__()

    async def end(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End it with what the block raised; return whether it has cancelled the block."""
        try:
            await self._timeout.__aexit__(kind, problem, traceback)
        except TimeoutError:
            return True
        return False


class Buffered:
    """What a write of an AsyncTx returns: it is part of the transaction already, awaited or not."""

    def __await__(self) -> Generator[object, None, None]:
        return
        yield


BUFFERED = Buffered()
