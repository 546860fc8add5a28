"""A circuit breaker, which all who open the space share.

The shared state is in `runs.breaker`.  Here is what is each process's own: what it last saw of the
state, for how long it goes by that, and how long a call took.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from interlock._async import concurrency
from interlock.core.lease import check_seconds
from interlock.core.refusals import Refusal, described
from interlock.core.requests import Steps
from interlock.errors import BreakerOpen, InterlockError, Invalid, raise_refused
from interlock.runs import breaker
from interlock.runs.breaker import (
    CLOSED,
    BreakerInfo,
    Call,
    CallWatch,
    Limits,
    Observation,
    Passage,
)
from interlock.session import AsyncSession


@dataclass(eq=False)
class _Call(Call):
    """A call of a breaker, and what limits it."""

    breaker: AsyncBreaker | None = None
    timer: concurrency.Timer = field(default_factory=concurrency.Timer)


# The calls that are under way here, the innermost last: a handle may be used by many at once.
_under_way: ContextVar[tuple[_Call, ...]] = ContextVar("interlock_breakers", default=())


class AsyncBreaker:
    """Stops calling what does not answer, for all hosts at once, and tries again one at a time.

    `await breaker.call(fn, ...)`, or an `async with` block, which is cancelled at the timeout.
    Raises BreakerOpen if no call may go through.
    """

    def __init__(
        self,
        session: AsyncSession,
        limits: Limits,
        ignore: tuple[type[BaseException], ...],
        refresh: float,
    ) -> None:
        raise_refused(check_seconds("refresh", refresh, 0, 60.0))
        if not isinstance(ignore, tuple) or not all(
            isinstance(kind, type) and issubclass(kind, BaseException) for kind in ignore
        ):
            raise Invalid(f"ignore={ignore!r:.60} must be a tuple of exception classes.")
        self._session = session
        self._limits = limits
        self._ignore = ignore
        self._refresh = refresh
        self._observed: Observation | None = None
        self._observed_at = 0.0  # when that was asked for, by this process's clock
        self._asked = 0.0  # when the store was last asked
        self._lock = threading.Lock()
        self._watch: CallWatch | None = None
        if session.keeps_alive:
            self._watch = CallWatch(session.in_thread(), limits, self._learn)

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
        """`closed`, `open` or `half_open`, as this object last saw it; `info` asks the store."""
        return CLOSED if self._observed is None else self._observed.circuit.state

    async def call(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call `fn(*args, **options)`, await what it returns, and return that.

        Raises BreakerOpen, with `fn` not called, TimeoutError, or what `fn` raises.  A plain
        function runs in a thread; at the timeout it is not waited for any more, but not stopped.
        """
        concurrency.check_function(fn, "fn")
        async with self:
            return await self._session.call(fn, *args, **options)

    async def info(self) -> BreakerInfo:
        """Return the shared state, asked of the store."""
        return await self._learned(breaker.look(self._session.writer, self.name))

    async def reset(self) -> BreakerInfo:
        """Close it, whatever it was, and return the shared state."""
        op_id = self._session.op_id()
        return await self._learned(breaker.reset(self._session.writer, self.name, op_id))

    async def __aenter__(self) -> Self:
        now = time.monotonic()
        call = self._known(now)
        if call is None:
            session = self._session
            steps = breaker.admit(session.writer, self._limits, session.op_id())
            try:
                answer: Any = await session.run(steps)  # a Passage or an Observation
            except BaseException:
                self._forget()
                raise
            call = self._admitted(answer, now)
        self._begin(call)
        await call.timer.start(call.started + self.timeout - time.monotonic())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        call = self._end()
        late: TimeoutError | None = None
        if await call.timer.end(kind, problem, traceback):
            late = TimeoutError(f"{self.name!r} did not answer within {self.timeout:g} s")
        steps = self._report(call, late or problem, late is not None)
        if steps is not None:
            await concurrency.finish(self._tell(steps, late or problem))
        if late is not None:
            raise late from problem

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self.name!r} {self.state}>"

    def _known(self, now: float) -> _Call | None:
        """Let a call through by what was seen a short while ago; None: the store must be asked.

        Of many threads one asks; the others go by what was seen last meanwhile.
        """
        with self._lock:
            observed, age_us = self._observed, int((now - self._observed_at) * 1e6)
            due = observed is None or now - self._asked >= self._refresh
            if due:
                self._asked = now
        if observed is None or due:
            return None
        if observed.circuit.state == CLOSED:
            return _Call(Passage(observed), now, breaker=self)
        if age_us >= observed.wait_us:
            return None
        raise BreakerOpen(breaker.refused(self.name, observed, age_us))

    def _learn(self, observed: Observation, asked: float) -> None:
        """Go by what was seen, unless something newer is known."""
        with self._lock:
            if self._observed is None or observed.record.version >= self._observed.record.version:
                self._observed, self._observed_at, self._asked = observed, asked, asked

    def _forget(self) -> None:
        """Ask the store next time."""
        with self._lock:
            self._observed = None

    def _admitted(self, answer: Passage | Observation, asked: float) -> _Call:
        observed = answer.observed if isinstance(answer, Passage) else answer
        self._learn(observed, asked)
        if isinstance(answer, Observation):
            raise BreakerOpen(breaker.refused(self.name, observed))
        # A probe's time runs from before its claim: so it is over before the claim expires.
        return _Call(answer, asked if answer.probe else time.monotonic(), breaker=self)

    def _report(
        self, call: _Call, problem: BaseException | None, late: bool
    ) -> Steps[Observation | Refusal] | None:
        """Return the protocol that tells how a call ended, None if there is nothing to tell."""
        took = time.monotonic() - call.started
        writer, op_id = self._session.writer, self._session.op_id
        limits, passage = self._limits, call.passage
        noted = call.id if call.noted else ""
        ended = problem is None or isinstance(problem, (Exception, *self._ignore))
        if ended and (late or took > self.timeout):
            reason = f"took {took:.1f} s, longer than {self.timeout:g} s"
            return breaker.failed(writer, limits, passage, reason, op_id(), noted)
        if problem is not None and ended and not isinstance(problem, self._ignore):
            reason = described(problem)
            return breaker.failed(writer, limits, passage, reason, op_id(), noted)
        if not passage.probe:
            return breaker.ended(writer, limits, noted, op_id()) if noted else None
        if ended:
            return breaker.succeeded(writer, passage, op_id())
        return breaker.given_up(writer, passage, op_id())  # interrupted or cancelled

    def _untold(self, problem: BaseException | None, fault: InterlockError) -> None:
        """The store did not learn how a call ended.  The caller gets what it returned or raised."""
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
            raise Invalid(f"Breaker {self.name!r} was not entered in this task or thread.")
        _under_way.set(tuple(each for each in calls if each is not call))
        if self._watch is not None:
            self._watch.remove(call)
        return call

    async def _tell(
        self, steps: Steps[Observation | Refusal], problem: BaseException | None
    ) -> None:
        try:
            await self._learned(steps)
        except InterlockError as fault:
            self._untold(problem, fault)

    async def _learned(self, steps: Steps[Observation | Refusal]) -> BreakerInfo:
        asked = time.monotonic()
        observed = await self._session.run(steps)
        self._learn(observed, asked)
        return breaker.info(self.name, observed)
