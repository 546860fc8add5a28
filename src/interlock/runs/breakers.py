"""Circuit breakers as agents use them, with either façade.

The shared state is in `breaking`.  Here is what is each process's own: what it last saw of the
state, for how long it goes by that, and how long a call took.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from interlock import cancellation
from interlock.backends.drive import SyncDriver
from interlock.backends.drive_async import AsyncDriver
from interlock.core.decide import Writer
from interlock.core.requests import Think
from interlock.core.showing import described
from interlock.errors import BreakerOpen, InterlockError, Invalid, raise_refused
from interlock.runs import breaking
from interlock.runs.breaking import CLOSED, BreakerInfo, Limits, Passage, Seen
from interlock.runs.overdue import Call, CallWatch


@dataclass(eq=False)
class _Call(Call):
    """A call of a breaker, and what limits it."""

    breaker: BreakerHandle | None = None
    timer: asyncio.Timeout | None = None


# The calls that are under way here, the innermost last: a handle may be used by many at once.
_under_way: ContextVar[tuple[_Call, ...]] = ContextVar("interlock_breakers", default=())


class BreakerHandle:
    """What a breaker knows, with either façade."""

    def __init__(
        self,
        driver: Any,
        writer: Writer,
        limits: Limits,
        ignore: tuple[type[BaseException], ...],
        refresh: float,
        op_id: Callable[[str | None], str],
    ) -> None:
        self._driver = driver
        self._writer = writer
        self._limits = limits
        self._ignore = ignore
        self._refresh = refresh
        self._op_id = op_id
        self._seen: Seen | None = None
        self._seen_at = 0.0  # when that was asked for, by this process's clock
        self._asked = 0.0  # when the store was last asked
        self._lock = threading.Lock()
        self._watch: CallWatch | None = None
        if getattr(driver, "keeps_alive", True):
            watching = SyncDriver(driver.backend)  # from a thread, with either façade
            draw = partial(op_id, None)
            self._watch = CallWatch(watching, writer, limits, draw, self._learn)

    @property
    def name(self) -> str:
        """The name that its state is shared under."""
        return self._limits.name

    @property
    def timeout(self) -> float:
        """Seconds after which a call counts as failed."""
        return self._limits.timeout_us / 1e6

    @property
    def state(self) -> str:
        """`closed`, `open` or `half_open`, as this handle last saw it; `info` asks the store."""
        return CLOSED if self._seen is None else self._seen.circuit.state

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self.name!r} {self.state}>"

    def _known(self, now: float) -> _Call | None:
        """Let a call through by what was seen a short while ago; None: the store must be asked.

        Of many threads one asks; the others go by what was seen last meanwhile.
        """
        with self._lock:
            seen, age_us = self._seen, int((now - self._seen_at) * 1e6)
            due = seen is None or now - self._asked >= self._refresh
            if due:
                self._asked = now
        if seen is None or due:
            return None
        if seen.circuit.state == CLOSED:
            return _Call(Passage(seen), now, breaker=self)
        if age_us >= seen.wait_us:
            return None
        raise BreakerOpen(breaking.refused(self.name, seen, age_us))

    def _learn(self, seen: Seen, asked: float) -> None:
        """Go by what was seen, unless something newer is known."""
        with self._lock:
            if self._seen is None or seen.record.version >= self._seen.record.version:
                self._seen, self._seen_at, self._asked = seen, asked, asked

    def _forget(self) -> None:
        """Ask the store next time."""
        with self._lock:
            self._seen = None

    def _admitted(self, answer: Any, asked: float) -> _Call:
        raise_refused(answer)
        seen = answer.seen if isinstance(answer, Passage) else answer
        self._learn(seen, asked)
        if isinstance(answer, Seen):
            raise BreakerOpen(breaking.refused(self.name, seen))
        # A probe's time runs from before its claim: so it is over before the claim expires.
        return _Call(answer, asked if answer.probe else time.monotonic(), breaker=self)

    def _ask(self) -> Any:
        return breaking.admit(self._writer, self._limits, self._op_id(None))

    def _report(self, call: _Call, problem: BaseException | None, late: bool) -> Any:
        """Return the protocol that tells how a call ended, None where there is nothing to tell."""
        took = time.monotonic() - call.started
        op_id, limits, passage = partial(self._op_id, None), self._limits, call.passage
        noted = call.id if call.noted else ""
        ended = problem is None or isinstance(problem, (Exception, *self._ignore))
        if ended and (late or took > self.timeout):
            reason = f"took {took:.1f} s, longer than {self.timeout:g} s"
            return breaking.failed(self._writer, limits, passage, reason, op_id(), noted)
        if problem is not None and ended and not isinstance(problem, self._ignore):
            reason = described(problem)
            return breaking.failed(self._writer, limits, passage, reason, op_id(), noted)
        if not passage.probe:
            return breaking.ended(self._writer, limits, noted, op_id()) if noted else None
        if ended:
            return breaking.succeeded(self._writer, passage, op_id())
        return breaking.given_up(self._writer, passage, op_id())  # interrupted or cancelled

    def _untold(self, problem: BaseException | None, fault: InterlockError) -> None:
        """The store could not be told.  What the call returned or raised counts for the caller."""
        self._forget()
        if problem is not None:
            problem.add_note(f"breaker {self.name!r} could not count this: {fault}")

    def _begin(self, call: _Call) -> None:
        _under_way.set((*_under_way.get(), call))
        if self._watch is not None and not call.passage.probe:
            self._watch.add(call)

    def _end(self) -> _Call:
        calls = _under_way.get()
        call = next((call for call in reversed(calls) if call.breaker is self), None)
        if call is None:
            raise Invalid(f"breaker {self.name!r} was not entered in this task or thread")
        _under_way.set(tuple(each for each in calls if each is not call))
        if self._watch is not None:
            self._watch.remove(call)
        return call


class Breaker(BreakerHandle):
    """Stops calling what does not answer, for all hosts at once, and tries again one at a time.

    `breaker.call(fn, ...)`, or a `with` block.  Raises BreakerOpen where no call may go through.
    """

    _driver: SyncDriver

    def call(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call `fn(*args, **options)` and return what it returns.

        Raises BreakerOpen, with `fn` not called, or what `fn` raises.  A function that takes longer
        than the timeout is not stopped; it counts as failed all the same, whether it ends or not.
        """
        if inspect.iscoroutinefunction(fn):
            raise Invalid(
                "fn is a coroutine function; use interlock.open_async for async functions"
            )
        with self:
            return fn(*args, **options)

    def info(self) -> BreakerInfo:
        """Return the shared state, asked of the store."""
        return self._told(breaking.look(self._writer, self.name))

    def reset(self) -> BreakerInfo:
        """Close it, whatever it was, and return the shared state."""
        return self._told(breaking.reset(self._writer, self.name, self._op_id(None)))

    def __enter__(self) -> Self:
        now = time.monotonic()
        call = self._known(now)
        if call is None:
            try:
                answer: Any = self._driver.run(self._ask())
            except BaseException:
                self._forget()
                raise
            call = self._admitted(answer, now)
        self._begin(call)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        steps, asked = self._report(self._end(), problem, late=False), time.monotonic()
        if steps is None:
            return
        try:
            answer: Any = self._driver.run(steps)
            raise_refused(answer)
            self._learn(answer, asked)
        except InterlockError as fault:
            self._untold(problem, fault)

    def _told(self, steps: Any) -> BreakerInfo:
        asked = time.monotonic()
        answer: Any = self._driver.run(steps)
        raise_refused(answer)
        self._learn(answer, asked)
        return breaking.info(self.name, answer)


class AsyncBreaker(BreakerHandle):
    """Stops calling what does not answer, for all hosts at once, and tries again one at a time.

    `await breaker.call(fn, ...)`, or an `async with` block, which is cancelled at the timeout.
    Raises BreakerOpen where no call may go through.
    """

    _driver: AsyncDriver

    async def call(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call `fn(*args, **options)`, await what it returns, and return that.

        Raises BreakerOpen, with `fn` not called, TimeoutError, or what `fn` raises.  A plain
        function runs in a thread; at the timeout it is not waited for any more, but not stopped.
        """
        async with self:
            return await self._driver.answer(Think(partial(fn, *args, **options), ()))

    async def info(self) -> BreakerInfo:
        """Return the shared state, asked of the store."""
        return await self._told(breaking.look(self._writer, self.name))

    async def reset(self) -> BreakerInfo:
        """Close it, whatever it was, and return the shared state."""
        return await self._told(breaking.reset(self._writer, self.name, self._op_id(None)))

    async def __aenter__(self) -> Self:
        now = time.monotonic()
        call = self._known(now)
        if call is None:
            try:
                answer: Any = await self._driver.run(self._ask())
            except BaseException:
                self._forget()
                raise
            call = self._admitted(answer, now)
        call.timer = asyncio.timeout(max(call.started + self.timeout - time.monotonic(), 0))
        self._begin(call)
        await call.timer.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        call = self._end()
        assert call.timer is not None
        late: TimeoutError | None = None
        try:
            await call.timer.__aexit__(kind, problem, traceback)
        except TimeoutError:
            late = TimeoutError(f"{self.name!r} did not answer within {self.timeout:g} s")
        steps = self._report(call, late or problem, late is not None)
        if steps is not None:
            await cancellation.finish(self._tell(steps, late or problem))
        if late is not None:
            raise late from problem

    async def _tell(self, steps: Any, problem: BaseException | None) -> None:
        asked = time.monotonic()
        try:
            answer: Any = await self._driver.run(steps)
            raise_refused(answer)
            self._learn(answer, asked)
        except InterlockError as fault:
            self._untold(problem, fault)

    async def _told(self, steps: Any) -> BreakerInfo:
        asked = time.monotonic()
        answer: Any = await self._driver.run(steps)
        raise_refused(answer)
        self._learn(answer, asked)
        return breaking.info(self.name, answer)
