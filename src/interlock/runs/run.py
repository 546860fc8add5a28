"""A durable run, with the synchronous façade."""

from __future__ import annotations

import contextvars
import inspect
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from interlock.backends.drive import SyncDriver
from interlock.core import leases
from interlock.core.records import as_datetime
from interlock.errors import InterlockError, Invalid, raise_refused
from interlock.handles import Lease, Tx
from interlock.runs import effects, ending, waiting
from interlock.runs.handles import RunHandle, thought
from interlock.runs.records import fence_key


class _RunLease(Lease):
    """The lease of a run's own key."""

    _take = staticmethod(leases.take_own)


class Run(RunHandle):
    """A run that this process works on, in a `with` block: see `interlock.Space.run`.

    A program asks for the same steps in the same order whenever it runs.  What is finished is not
    done again.
    """

    _driver: SyncDriver
    _lease: _RunLease

    def step(self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Return `fn(*args, **kwargs)`, or the recorded result where it has finished before.

        The arguments and the result are JSON.  `fn` may ask for steps, too.  What it writes through
        `run.tx` is committed together with its result, or not at all; where anything moved that it
        read there, it runs again.

        Raises ProgramChanged where another step is recorded in this place, Fenced where this run
        was taken over, Invalid, RunFailed where the run is being undone, and what `fn` raises.
        """
        return self._do(self._state.frame.next_path(), name, fn, args, kwargs)

    def parallel(self, *calls: tuple[Any, ...]) -> list[Any]:
        """Run steps at the same time, each given as `(name, fn, *args)`; return their results.

        Each runs in a thread.  Raises what the first of them raises, once all have ended.
        """
        frame = self._state.frame
        for call in calls:
            if not isinstance(call, tuple) or len(call) < 2:
                raise Invalid(f"{call!r:.60} is not a step: (name, fn, *args)")
        tasks = [(frame.next_path(), *call) for call in calls]
        with ThreadPoolExecutor(max(len(tasks), 1), thread_name_prefix="interlock-step") as pool:
            futures = [
                pool.submit(contextvars.copy_context().run, self._do, path, name, fn, args, {})
                for path, name, fn, *args in tasks
            ]
        return [future.result() for future in futures]

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
    ) -> Any:
        """Call the outside once: `fn(idempotency_key, *args)`; return its result, or the recorded.

        The intent is committed before the call, and the result after it.  Where only the intent is
        recorded, `check(idempotency_key, *args)` says whether it happened: its result, or None
        where it did not.  Without one `in_doubt` decides: `ask` waits for a person, `retry` calls
        again with the same idempotency key, `skip` goes on without a result.

        The idempotency key is made of the run, `name` and `key` (default: the arguments), wherever
        in the program the effect stands.  `compensate(idempotency_key, result)` undoes it when the
        run fails.  `decided_from`: records, or versions by key; where one has moved, Conflict is
        raised and nothing is called.

        Raises InDoubt where the call raised anything but NotDone, and what `step` raises.
        """
        effect = effects.make(name, fn, args, key, in_doubt, check, compensate, decided_from)
        path = self._state.frame.next_path()
        return self._run(effects.perform(self._state, path, effect, self._draw))

    def wait_for(self, name: str, timeout: float | None = None) -> Any:
        """Return what somebody sends to the run as `name`; the run is AwaitingInput meanwhile.

        `timeout`: seconds since this was first asked for (None: without limit).  Raises TimedOut.
        """
        path = self._checked_wait(name, timeout)
        return self._run(waiting.wait_for(self._state, path, name, timeout, self._draw))

    def sleep(self, seconds: float) -> None:
        """Wait until `seconds` after this was first asked for, however often the run restarts."""
        waiting.check_sleep(seconds)
        path = self._state.frame.next_path()
        self._run(waiting.sleep(self._state, path, seconds, self._draw))

    def now(self) -> datetime:
        """Return the store's time when this was first asked for."""
        return as_datetime(self.step("now", lambda: self._run(self._time_us())))

    def random(self) -> float:
        """Return a random number from 0 up to 1, the same whenever the run restarts."""
        return float(self.step("random", random.random))

    def __enter__(self) -> Self:
        key = fence_key(self._id)
        lease = _RunLease(self._driver, self._writer, key, self._ttl, self._wait, self._op_id)
        self._lease = lease.acquire()
        try:
            self._known = self._run(self._take_up(lease.record))
        except BaseException:
            lease.release()
            raise
        self.result = self._known.status.value.get("result")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        left = ending.leave(self._state, problem, self.result, self._attempts, self._draw)
        try:
            self._run(left)
        except InterlockError as second:
            if problem is None:
                raise
            problem.add_note(f"run {self._id!r}: {second}")
        finally:
            self._state.left = True
            self._lease.release()

    def _do(self, path: str, name: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if inspect.iscoroutinefunction(fn):
            raise Invalid(f"step {name!r} is a coroutine function; use interlock.open_async")
        told = self._told(name, fn, [list(args), kwargs])
        found = self._recalled(path, told)
        if found is None:
            think = thought(self._state, fn, args, kwargs)
            found = self._run(self._step_steps(Tx, path, told, think))
        return found[0]

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(answer)
        return answer
