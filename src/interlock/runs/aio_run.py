"""A durable run, with the asyncio façade."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from interlock.aio_handles import AsyncLease, AsyncTx
from interlock.awaiting import AwaitsCalls, awaited
from interlock.backends.drive_async import AsyncDriver
from interlock.core import leases
from interlock.core.records import as_datetime
from interlock.errors import InterlockError, Invalid, raise_refused
from interlock.runs import effects, ending, waiting
from interlock.runs.handles import RunHandle, thought
from interlock.runs.records import fence_key


class _RunLease(AsyncLease):
    """The lease of a run's own key."""

    _take = staticmethod(leases.take_own)


class AsyncRun(AwaitsCalls, RunHandle):
    """A run that this process works on, in an `async with` block.

    As `interlock.Run`, awaited; functions may be async.  A step gets its place in the program when
    it is asked for, so `asyncio.gather(run.step(...), run.step(...))` runs them at the same time.
    """

    _driver: AsyncDriver
    _lease: _RunLease

    def step(
        self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Return `fn(*args, **kwargs)`, or the recorded result: see `interlock.Run.step`."""
        path = self._state.frame.next_path()
        return self._calls.add("step", self._do(path, name, fn, args, kwargs))

    def effect(
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        key: Any = None,
        in_doubt: str = "ask",
        check: Callable[..., Any] | None = None,
        compensate: Callable[..., Any] | None = None,
        decided_from: Any = (),
    ) -> Coroutine[Any, Any, Any]:
        """Call the outside once: see `interlock.Run.effect`."""
        effect = effects.make(name, fn, args, key, in_doubt, check, compensate, decided_from)
        path = self._state.frame.next_path()
        steps = effects.perform(self._state, path, effect, self._draw)
        return self._calls.add("effect", self._run(steps))

    def wait_for(self, name: str, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
        """Return what somebody sends to the run as `name`: see `interlock.Run.wait_for`."""
        path = self._checked_wait(name, timeout)
        steps = waiting.wait_for(self._state, path, name, timeout, self._draw)
        return self._calls.add("wait_for", self._run(steps))

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait until `seconds` after this was first asked for, however often the run restarts."""
        waiting.check_sleep(seconds)
        path = self._state.frame.next_path()
        steps = waiting.sleep(self._state, path, seconds, self._draw)
        return self._calls.add("sleep", self._run(steps))

    @awaited
    async def now(self) -> datetime:
        """Return the store's time when this was first asked for."""

        async def read() -> int:
            found: int = await self._run(self._time_us())
            return found

        return as_datetime(await self.step("now", read))

    @awaited
    async def random(self) -> float:
        """Return a random number from 0 up to 1, the same whenever the run restarts."""
        return float(await self.step("random", random.random))

    async def __aenter__(self) -> Self:
        key = fence_key(self._id)
        lease = _RunLease(self._driver, self._writer, key, self._ttl, self._wait, self._op_id)
        self._lease = await lease.acquire()
        try:
            self._known = await self._run(self._take_up(lease.record))
        except BaseException:
            await lease.release()
            raise
        self.result = self._known.status.value.get("result")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        forgotten = self._calls.forgotten()
        unfinished = Invalid(forgotten) if forgotten is not None and problem is None else None
        left = ending.leave(
            self._state, problem or unfinished, self.result, self._attempts, self._draw
        )
        try:
            await self._run(left)
        except InterlockError as second:
            if problem is None:
                raise
            problem.add_note(f"run {self._id!r}: {second}")
        finally:
            self._state.left = True
            await self._lease.release()
        if unfinished is not None:
            raise unfinished

    async def _do(
        self, path: str, name: str, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        told = self._told(name, fn, [list(args), kwargs])
        found = self._recalled(path, told)
        if found is None:
            think = thought(self._state, fn, args, kwargs)
            found = await self._run(self._step_steps(AsyncTx, path, told, think))
        return found[0]

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(answer)
        return answer
