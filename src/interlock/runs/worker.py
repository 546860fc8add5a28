"""A worker takes up the runs of its programs, several at a time, with either façade."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from interlock import cancellation
from interlock.core.leases import check_seconds
from interlock.errors import Fenced, Held, Invalid, raise_refusal, raise_refused
from interlock.runs import working
from interlock.runs.aio_run import AsyncRun
from interlock.runs.ending import is_outside
from interlock.runs.handles import RunHandle, check_attempts
from interlock.runs.records import AWAITING, COMPLETED, fence_key
from interlock.runs.run import Run
from interlock.runs.state import RunState, Suspended
from interlock.runs.working import Due, Worked

if TYPE_CHECKING:
    from interlock.aio import AsyncSpace
    from interlock.space import Space

_MOST_SLOTS = 1000
_BACKLOG = 8  # runs looked up at once, for each slot
_LONGEST = 24 * 3600.0  # seconds


class WorkerHandle:
    """What a worker knows, with either façade."""

    _takes_coroutines = False

    def __init__(
        self,
        space: Any,
        programs: Mapping[str, Callable[..., Any]],
        slots: int,
        ttl: float,
        poll: float,
        attempts: int,
        told: Callable[[Worked], object] | None,
    ) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= _MOST_SLOTS:
            raise Invalid(f"slots={slots!r:.40} is not a number of runs from 1 to {_MOST_SLOTS}")
        for name, seconds in (("poll", poll), ("ttl", ttl)):
            wrong = check_seconds(name, seconds, 0.001, _LONGEST)
            if wrong is not None:
                raise_refusal(wrong)
        check_attempts(attempts)
        self._programs = self._checked(programs)
        self._space = space
        self._slots = slots
        self._poll = min(poll, ttl / 2)
        self._options = {"ttl": ttl, "wait": 0, "attempts": attempts}
        self._told = told
        self._busy: set[str] = set()
        self._over = threading.Event()

    def stop(self) -> None:
        """Have `work` return: no run is taken up, and each one here is left before its next step.

        May be called from another thread or a signal handler.  Stopped is stopped for good.
        """
        self._over.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._over.is_set()

    def _checked(self, programs: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
        if not isinstance(programs, Mapping) or not programs:
            raise Invalid("programs= maps names to functions of a run, and at least one")
        for name, fn in programs.items():
            if not isinstance(name, str) or not name or not callable(fn):
                raise Invalid(f"{name!r:.60}: {fn!r:.60} is not a program: a name and a function")
            if inspect.iscoroutinefunction(fn) and not self._takes_coroutines:
                raise Invalid(f"{name!r} is a coroutine function; use interlock.open_async")
            if self._takes_coroutines and not inspect.iscoroutinefunction(fn):
                raise Invalid(f"{name!r} is not a coroutine function; use interlock.open")
        return dict(programs)

    def _make_run(self, kind: Any, run_id: str) -> Any:
        space = self._space
        return kind(
            space._driver,
            space._writer,
            run_id,
            space._op_id,
            stopping=self._over.is_set,
            **self._options,
        )

    def _find(self) -> Any:
        most = self._slots * _BACKLOG
        return working.find(self._space._writer, self._programs, self._busy, most, self._poll)

    def _tell(self, run: RunHandle, program: str, problem: BaseException | None) -> None:
        """Say how it ended, where the run was taken up.

        Raises what stands against taking runs up.
        """
        known = run._known
        if known is None:
            if not isinstance(problem, Held | Suspended) and not _taken_over(problem, run.id):
                assert problem is not None  # the run was not entered
                raise problem
        elif self._told is not None:
            how = _how(known, problem)
            error = str(problem) if how == "lost" else known.status.value.get("error")
            self._told(Worked(run.id, program, how, error))


class Worker(WorkerHandle):
    """A worker, in threads: see `interlock.Space.worker`."""

    _space: Space

    def work(self, once: bool = False) -> None:
        """Take up runs as they become due, until `stop`; or (`once`) until none is due.

        Raises what stands against taking runs up, such as a fault of the store, once those that are
        under way have come to their next step.
        """
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(self._slots, thread_name_prefix="interlock-run") as pool:
            try:
                while not self.stopped:
                    due: Due = self._run(self._find())
                    random.shuffle(due.runs)  # so that workers do not all try the same one
                    for run_id, program in due.runs:
                        running = self._one_free(running)
                        if self.stopped:
                            break
                        self._busy.add(run_id)
                        running.add(pool.submit(self._work_on, run_id, program))
                    running = self._still(running)
                    if once and not due.runs:
                        if not running:
                            return
                        wait_for_futures(running, due.seconds, FIRST_COMPLETED)
                    elif not due.runs:
                        self._run(working.wait(due, self._over.is_set))
            except BaseException:
                self.stop()
                raise
        self._still(running)

    def _one_free(self, running: set[Future[None]]) -> set[Future[None]]:
        """Wait until a slot is free; return what still runs."""
        if len(running) >= self._slots:
            wait_for_futures(running, return_when=FIRST_COMPLETED)
        return self._still(running)

    @staticmethod
    def _still(running: set[Future[None]]) -> set[Future[None]]:
        """Return what still runs.  Raises what one of the others did."""
        ended = {future for future in running if future.done()}
        for future in ended:
            future.result()
        return running - ended

    def _work_on(self, run_id: str, program: str) -> None:
        run: Run = self._make_run(Run, run_id)
        problem: BaseException | None = None
        try:
            with run:
                with _counted():
                    returned = self._programs[program](run)
                run.result = run.result if returned is None else returned
        except (Exception, Suspended) as found:
            problem = found
        finally:
            self._busy.discard(run_id)
        self._tell(run, program, problem)

    def _run(self, steps: Any) -> Any:
        answer = self._space._driver.run(steps)
        raise_refused(answer)
        return answer


class AsyncWorker(WorkerHandle):
    """A worker, in tasks: see `interlock.AsyncSpace.worker`."""

    _space: AsyncSpace
    _takes_coroutines = True

    async def work(self, once: bool = False) -> None:
        """Take up runs as they become due: see `interlock.Worker.work`.

        Cancelled, it leaves them as `stop` does; cancelled again, it cancels them.
        """
        running: set[asyncio.Task[None]] = set()
        try:
            while not self.stopped:
                due: Due = await self._run(self._find())
                random.shuffle(due.runs)  # so that workers do not all try the same one
                for run_id, program in due.runs:
                    running = await self._one_free(running)
                    if self.stopped:
                        break
                    self._busy.add(run_id)
                    running.add(asyncio.create_task(self._work_on(run_id, program)))
                running = self._still(running)
                if once and not due.runs:
                    if not running:
                        return
                    await asyncio.wait(
                        running, timeout=due.seconds, return_when=asyncio.FIRST_COMPLETED
                    )
                elif not due.runs:
                    await self._run(working.wait(due, self._over.is_set))
        except BaseException:
            self.stop()
            await _ended(running)
            raise
        await _ended(running)
        self._still(running)

    async def _one_free(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Wait until a slot is free; return what still runs."""
        if len(running) >= self._slots:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        return self._still(running)

    @staticmethod
    def _still(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Return what still runs.  Raises what one of the others did."""
        ended = {task for task in running if task.done()}
        for task in ended:
            task.result()
        return running - ended

    async def _work_on(self, run_id: str, program: str) -> None:
        run: AsyncRun = self._make_run(AsyncRun, run_id)
        problem: BaseException | None = None
        try:
            async with run:
                with _counted():
                    returned = await self._programs[program](run)
                run.result = run.result if returned is None else returned
        except (Exception, Suspended) as found:
            problem = found
        except BaseExceptionGroup as group:  # of an asyncio.TaskGroup
            if group.subgroup(Suspended) is None:
                raise
            problem = group
        finally:
            self._busy.discard(run_id)
        self._tell(run, program, problem)

    async def _run(self, steps: Any) -> Any:
        answer = await self._space._driver.run(steps)
        raise_refused(answer)
        return answer


async def _ended(running: set[asyncio.Task[None]]) -> None:
    """Wait until runs have come to their next step; where that is cancelled, cancel them."""
    if not running:
        return
    try:
        await asyncio.wait(running)
    except asyncio.CancelledError:
        await cancellation.finish(asyncio.gather(*map(cancellation.stop, running)))
        raise
    for task in running:
        if not task.cancelled():
            task.exception()  # seen: the first one is raised


@contextmanager
def _counted() -> Iterator[None]:
    """Have a program that ends with `sys.exit` counted as one that fails, so that it is parked."""
    try:
        yield
    except SystemExit as problem:
        raise RuntimeError(f"the program ended with {problem!r}") from problem


def _taken_over(problem: BaseException | None, run_id: str) -> bool:
    return isinstance(problem, Fenced) and problem.outcome.key == fence_key(run_id)


def _how(run: RunState, problem: BaseException | None) -> str:
    """Return the `how` of Worked."""
    status = run.status.value
    if run.over:
        return "completed" if status["state"] == COMPLETED else "failed"
    if isinstance(problem, Exception) and is_outside(run, problem):
        return "lost"
    if status.get("parked"):
        return "parked"
    if run.stopped:
        return "left"
    return "waits" if status["state"] == AWAITING else "again"
