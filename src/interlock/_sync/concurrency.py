"""What is done in threads here and `_async.concurrency` does in tasks, by the same names."""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from interlock.errors import Invalid

if TYPE_CHECKING:
    from concurrent.futures import Future

P = ParamSpec("P")
T = TypeVar("T")
Lock = threading.Lock


def settled(lock: threading.Lock) -> AbstractContextManager[object]:
    """Return a block in which nothing changes that `lock` guards."""
    return lock


def at_once(read: Callable[[], T]) -> Callable[[], T]:
    """Call `read` now and return a function that returns what it did."""
    found = read()
    return lambda: found


def blocking(fn: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
    """Call a function that blocks, here, and return what it returns."""
    return fn(*args, **options)


def check_function(fn: object, what: str) -> None:
    """Raise Invalid where a function of the caller's cannot be called here."""
    if not callable(fn):
        raise Invalid(f"{what} must be a function, not {fn!r:.60}.")
    if inspect.iscoroutinefunction(fn):
        raise Invalid(
            f"{what} is a coroutine function; use interlock.open_async for async functions"
        )


check_program = check_function


def hook(fn: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a function of a thread that calls `fn`.  Raises Invalid for a coroutine function."""
    check_function(fn, "fn")
    return fn


def together(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Make calls at the same time, each in a thread, and return their results.

    Raises what the first of them raises, once all have ended.
    """
    from concurrent.futures import ThreadPoolExecutor

    waiting = list(calls)
    with ThreadPoolExecutor(max(len(waiting), 1), thread_name_prefix="interlock-step") as pool:
        futures = [pool.submit(contextvars.copy_context().run, call) for call in waiting]
    return [future.result() for future in futures]


def do_all(calls: Iterable[Callable[[], object]]) -> None:
    """Make every call, one after the other, even where one fails.  Raises the first failure."""
    failed: BaseException | None = None
    for call in calls:
        try:
            call()
        except BaseException as problem:
            failed = failed or problem
    if failed is not None:
        raise failed


class Renewal:
    """Calls `renew` every so many `seconds`, in a thread, until it returns False."""

    def __init__(self, seconds: float, renew: Callable[[], bool], name: str) -> None:
        self._over = over = threading.Event()

        def run() -> None:
            while not over.wait(seconds) and renew():
                pass

        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self._thread.is_alive()

    def cancel(self) -> None:
        """Have it stop."""
        self._over.set()

    def stop(self) -> None:
        """Have it stop, and wait until it has."""
        self._over.set()
        self._thread.join()


class Pool:
    """Runs at most `slots` calls at a time, in threads.  Leaving the block waits for them."""

    def __init__(self, slots: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._slots = slots
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="interlock-run")
        self._running: set[Future[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return not self._running

    def start(self, call: Callable[[], None]) -> None:
        """Begin a call; there must be `room`."""
        self._running.add(self._threads.submit(call))

    def room(self) -> None:
        """Wait until a slot is free.  Raises what a call that has ended raised."""
        if len(self._running) >= self._slots:
            self.wait(None)
        self.check()

    def wait(self, seconds: float | None) -> None:
        """Wait until a call ends, at most so many seconds."""
        from concurrent.futures import FIRST_COMPLETED, wait

        wait(self._running, seconds, FIRST_COMPLETED)

    def check(self) -> None:
        """Raise what a call that has ended raised."""
        ended = {future for future in self._running if future.done()}
        for future in ended:
            future.result()
        self._running -= ended

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown()


class Timer:
    """Does nothing: a call that takes too long cannot be stopped here."""

    def start(self, seconds: float) -> None:
        """Begin, with so many seconds left."""

    def end(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Return whether the block was stopped: never."""
        return False
