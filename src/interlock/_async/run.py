"""A durable run, and what everybody but its worker does with runs."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from interlock._async import concurrency
from interlock._async.calls import AwaitsCalls, awaited, raise_unawaited
from interlock._async.lease import AsyncLease
from interlock._async.transaction import AsyncTx
from interlock.core.lease import take_own_lease
from interlock.core.read import load
from interlock.core.records import Record, as_datetime
from interlock.core.requests import Steps
from interlock.errors import InterlockError, Invalid, raise_refused
from interlock.runs import admin, effect, history, step, worker
from interlock.runs.history import RunMoment
from interlock.runs.records import RunInfo, check_run_id, fence_key
from interlock.runs.run import take_up
from interlock.runs.state import RunState
from interlock.session import AsyncSession
from interlock.typed import Typed, typed_call

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
Moments = list[RunMoment]  # inside AsyncRuns `list` is its method


class AsyncRun(AwaitsCalls):
    """A run that this process works on, in an `async with` block: see `interlock.AsyncSpace.run`.

    A program asks for the same steps in the same order whenever it runs.  What is finished is not
    done again.
    """

    def __init__(
        self,
        session: AsyncSession,
        id: str,
        *,
        ttl: float,
        wait: float | None,
        attempts: int,
        given: Any = None,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        raise_refused(check_run_id(id))
        step.check_attempts(attempts)
        self._session = session
        self._id = id
        self._given = given
        self._ttl = ttl
        self._wait = wait
        self._attempts = attempts
        self._stopping = stopping  # set if a worker takes it up
        self.recorded: RunState | None = None  # for its worker, once it is taken up
        self.result: Any = None

    @property
    def id(self) -> str:
        """The name of the run in its space."""
        return self._id

    @property
    def input(self) -> Any:
        """What the run was begun with, as JSON has it.  For a type there is `input_as`."""
        return self._state.fence.value["input"]

    def input_as(self, type: TypeForm[T]) -> T:
        """Return what the run was begun with as a type.  Raises Invalid if it does not fit."""
        return Typed(type).value(self.input, f"the input of run {self._id!r}")

    @property
    def state(self) -> str:
        """Where it stands: Processing, AwaitingInput, Completed or Failed."""
        return str(self._state.status.value["state"])

    @property
    def epoch(self) -> int:
        """The fencing number of this attempt.  Pass it on to whatever else must be fenced."""
        return self._state.fence.epoch

    @property
    def tx(self) -> Any:
        """The transaction of the step that runs: what is written in it commits with the step.

        Raises Invalid outside of a step.
        """
        tx = self._state.frame.tx
        if tx is None:
            raise Invalid(
                "No step runs here, so there is no run.tx. "
                "Use run.step(name, fn), and run.tx inside fn."
            )
        return tx

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self._id!r}>"

    @overload
    def step(
        self,
        name: str,
        fn: Callable[..., T | Awaitable[T]],
        type: TypeForm[T],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def step(
        self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]: ...
    def step(
        self, name: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any]:
        """Return `fn(*args, **kwargs)`, or the recorded result if it has finished before.

        The arguments and the result are JSON.  Where a type comes before the arguments, as in
        `run.step("choose", choose, Seat, flight)`, the result is of it.  `fn` may ask for steps,
        too.  What it writes through `run.tx` is committed together with its result, or not at all;
        if anything that it read there has changed, it runs again.

        It gets its place in the program when it is asked for, not when it is awaited, so
        `asyncio.gather(run.step(...), run.step(...))` runs both at the same time.

        Raises ProgramChanged if another step is recorded in this place, Fenced if this run
        was taken over, Invalid, RunFailed if the run is being undone, and what `fn` raises.
        """
        path = self._state.frame.next_path()
        return self._calls.add("step", self._do(path, name, fn, args, kwargs))

    def parallel(self, *calls: tuple[Any, ...]) -> Coroutine[Any, Any, list[Any]]:
        """Run steps at the same time, each given as `(name, fn, *args)`; return their results.

        Each runs in a task.  Raises what the first of them raises, once all have ended.
        """
        frame = self._state.frame
        for call in calls:
            if not isinstance(call, tuple) or len(call) < 2:
                raise Invalid(f"{call!r:.60} is not a step: (name, fn, *args).")
        tasks = [(frame.next_path(), *call) for call in calls]
        steps = [partial(self._do, path, name, fn, args, {}) for path, name, fn, *args in tasks]
        return self._calls.add("parallel", concurrency.together(steps))

    @overload
    def effect(
        self,
        name: str,
        fn: Callable[..., T | Awaitable[T]],
        type: TypeForm[T],
        /,
        *args: Any,
        key: Any = None,
        in_doubt: str = "ask",
        check: Callable[..., Any] | None = None,
        compensate: Callable[..., Any] | None = None,
        decided_from: Any = (),
    ) -> Coroutine[Any, Any, T]: ...
    @overload
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
    ) -> Coroutine[Any, Any, Any]: ...
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
        """Call the outside once: `fn(idempotency_key, *args)`; return its result, or the recorded.

        The intent is committed before the call, and the result after it.  If only the intent is
        recorded, `check(idempotency_key, *args)` says whether it happened: its result, or None
        if it did not.  Without one `in_doubt` decides: `ask` waits for a person, `retry` calls
        again with the same idempotency key, `skip` goes on without a result.

        The idempotency key is made of the run, `name` and `key` (default: the arguments), wherever
        in the program the effect stands.  `compensate(idempotency_key, result)` undoes it when the
        run fails.  `decided_from`: records, or versions by key; if one has changed, Conflict is
        raised and nothing is called.  A type before `args` is what the result is of: that of `fn`
        and of `check`, and what `compensate` is given; None where the effect was skipped.

        Raises InDoubt if the call raised anything but NotDone, and what `step` raises.
        """
        made = effect.make(name, fn, args, key, in_doubt, check, compensate, decided_from)
        path, draw = self._state.frame.next_path(), self._session.draw
        steps = effect.perform(self._state, path, made, draw)
        return self._calls.add("effect", self._session.run(steps, ("effect", name)))

    @overload
    def wait_for(
        self, name: str, timeout: float | None = None, *, type: TypeForm[T]
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def wait_for(self, name: str, timeout: float | None = None) -> Coroutine[Any, Any, Any]: ...
    def wait_for(
        self, name: str, timeout: float | None = None, *, type: Any = None
    ) -> Coroutine[Any, Any, Any]:
        """Return what somebody sends to the run as `name`; the run is AwaitingInput meanwhile.

        `timeout`: seconds since this was first asked for (None: without limit).  `type`: what it is
        returned as (None: as JSON has it).  Raises TimedOut, and Invalid if it does not fit.
        """
        step.check_wait(name, timeout)
        view, path = Typed(type), self._state.frame.next_path()
        return self._calls.add("wait_for", self._wait_for(path, name, timeout, view))

    def sleep(self, seconds: float) -> Coroutine[Any, Any, None]:
        """Wait until `seconds` after this was first asked for, however often the run restarts."""
        step.check_sleep(seconds)
        path, draw = self._state.frame.next_path(), self._session.draw
        steps = step.sleep(self._state, path, seconds, draw)
        return self._calls.add("sleep", self._session.run(steps))

    @awaited
    async def now(self) -> datetime:
        """Return the store's time when this was first asked for."""

        async def read() -> int:
            snapshot = await self._session.run(load(self._session.writer, ()))
            return snapshot.time_us

        return as_datetime(await self.step("now", read))

    @awaited
    async def random(self) -> float:
        """Return a random number from 0 up to 1, the same whenever the run restarts."""
        return float(await self.step("random", random.random))

    async def __aenter__(self) -> Self:
        lease = AsyncLease(
            self._session, fence_key(self._id), self._ttl, self._wait, take_own_lease
        )
        self._lease = await lease.acquire()
        try:
            self.recorded = await self._session.run(self._take_up(lease.record))
        except BaseException:
            await lease.release()
            raise
        self.result = self._state.status.value.get("result")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        draw = self._session.draw
        unawaited = self._calls.unawaited()
        problem = problem if unawaited is None else problem or Invalid(unawaited)
        left = worker.leave(self._state, problem, self.result, self._attempts, draw)
        try:
            await self._session.run(left)
        except InterlockError as second:
            if problem is None:
                raise
            problem.add_note(f"run {self._id!r}: {second}")
        finally:
            self._state.left = True
            await self._lease.release()
        raise_unawaited(kind, problem)

    @property
    def _state(self) -> RunState:
        if self.recorded is None:
            raise Invalid(f"Run {self._id!r} is not entered: use it in a with block.")
        if self.recorded.pid != os.getpid():
            raise Invalid(
                f"Run {self._id!r} belongs to the process that entered it, not to a forked one."
            )
        return self.recorded

    def _take_up(self, fence: Record) -> Steps[RunState]:
        """Protocol: go on with the run, or begin it, once its lease is taken."""
        attempts = None if self._stopping is None else self._attempts
        run = yield from take_up(
            self._session.writer,
            self._id,
            fence,
            None,
            self._given,
            self._session.op_id(),
            attempts,
        )
        if self._stopping is not None:
            run.suspends, run.stopping = True, self._stopping
        return run

    async def _wait_for(self, path: str, name: str, timeout: float | None, view: Typed[T]) -> T:
        steps = step.wait_for(self._state, path, name, timeout, self._session.draw)
        return view.value(await self._session.run(steps), f"what run {self._id!r} got as {name!r}")

    async def _do(
        self, path: str, name: str, fn: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        concurrency.check_function(fn, f"step {name!r}")
        view, args = typed_call(args)
        run, made = self._state, step.make(name, fn, args, kwargs)
        found = step.recalled(run, path, made)
        if found is None:
            op_id = self._session.op_id()
            found = await self._session.run(
                step.perform(
                    run,
                    path,
                    made,
                    step.framed(run, fn, args, kwargs, view),
                    self._session.thought(),
                    lambda state: AsyncTx(self._session, state, op_id),
                    op_id,
                ),
                ("step", name),
            )
        return view.value(found[0], f"the result of step {name!r}")


class AsyncRuns:
    """The runs of a space: `space.runs`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def start(self, id: str, program: str, input: Any = None) -> None:
        """Make a run that a worker takes up: `program` names what it calls, with `input`.

        Raises Conflict if there is a run of this id, Invalid.
        """
        op_id = self._session.op_id()
        await self._session.run(admin.start(self._session.writer, id, program, input, op_id))

    async def list(self, open: bool = False) -> list[RunInfo]:
        """Return every run without its steps, or those that have not ended (`open`)."""
        return list((await self._session.run(admin.runs(self._session.writer, open))).values())

    async def show(self, id: str) -> RunInfo:
        """Return a run with its steps.  Raises Invalid if there is none."""
        return await self._session.run(admin.show(self._session.writer, id))

    async def replay(self, id: str) -> Moments:
        """Return each commit of a run, and the run as it was after it, in order.

        Raises Invalid if there is no such run.  The log's oldest part may be cut.
        """
        return await self._session.run(history.replay(self._session.writer, id))

    async def send(self, id: str, name: str, value: Any = None) -> None:
        """Give a run what it waits for, or will wait for, as `name`.

        Raises Conflict if it was given something under this name before, Invalid if there is
        no such run, or it has ended.
        """
        await self._session.run(
            admin.send(self._session.writer, id, name, value, self._session.op_id())
        )

    async def settle(self, id: str, path: str, happened: bool, result: Any = None) -> None:
        """Say whether the effect at step `path`, which is in doubt, has happened.

        `result` is what its function would have returned.  Raises Conflict if it was said
        before, Invalid if nothing is in doubt there.
        """
        op_id = self._session.op_id()
        await self._session.run(
            admin.settle(self._session.writer, id, path, happened, result, op_id)
        )

    async def resume(self, id: str) -> None:
        """Have a run that is parked, or pauses after a failure, taken up at once."""
        await self._session.run(admin.resume(self._session.writer, id, self._session.op_id()))

    async def reclaim(self, id: str) -> None:
        """Take a run away from whoever works on it, such as a process that is known to be dead.

        It can be taken up at once, and whoever worked on it is Fenced.
        """
        await self._session.run(admin.reclaim(self._session.writer, id, self._session.op_id()))

    async def cancel(self, id: str, reason: str = "cancelled") -> bool:
        """Have a run fail, whoever works on it; return whether it has by now.

        It has not, if effects are to be undone: the next one to take the run up does that.
        """
        op_id = self._session.op_id()
        return await self._session.run(admin.cancel(self._session.writer, id, reason, op_id))
