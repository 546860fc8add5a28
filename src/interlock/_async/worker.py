"""A worker: it takes up the runs of its programs, several at a time."""

from __future__ import annotations

import random
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from interlock._async import concurrency
from interlock._async.run import AsyncRun
from interlock.core.lease import check_seconds
from interlock.core.struct import Json
from interlock.errors import Fenced, Held, Invalid, raise_refused
from interlock.runs import step, worker
from interlock.runs.records import AWAITING, COMPLETED, fence_key
from interlock.runs.state import RunState, Suspended
from interlock.runs.worker import Due, Worked, is_outside
from interlock.session import AsyncSession

_Program = Callable[[AsyncRun], Awaitable[Json]]
_MOST_SLOTS = 1000
_BACKLOG = 8  # runs looked up at once, for each slot
_LONGEST = 24 * 3600.0  # seconds


class AsyncWorker:
    """A worker, in tasks: see `interlock.AsyncSpace.worker`."""

    def __init__(
        self,
        session: AsyncSession,
        programs: Mapping[str, _Program],
        slots: int,
        ttl: float,
        poll: float,
        attempts: int,
        on_worked: Callable[[Worked], object] | None,
    ) -> None:
        if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= _MOST_SLOTS:
            raise Invalid(f"slots={slots!r:.40} must be a whole number from 1 to {_MOST_SLOTS}.")
        for name, seconds in (("poll", poll), ("ttl", ttl)):
            raise_refused(check_seconds(name, seconds, 0.001, _LONGEST))
        step.check_attempts(attempts)
        self._programs = _checked(programs)
        self._session = session
        self._slots = slots
        self._poll = min(poll, ttl / 2)
        self._ttl = ttl
        self._attempts = attempts
        self._on_worked = on_worked
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

    async def work(self, once: bool = False) -> None:
        """Take up runs as they become due, until `stop`; or (`once`) until none is due.

        Cancelled, it leaves them as `stop` does; cancelled again, it cancels them.

        Raises what stands against taking runs up, such as a fault of the store, once those that are
        under way have come to their next step.
        """
        async with concurrency.Pool(self._slots) as pool:
            try:
                while not self.stopped:
                    due = await self._find()
                    random.shuffle(due.runs)  # so that workers do not all try the same one
                    for run_id, program in due.runs:
                        await pool.room()
                        if self.stopped:
                            break
                        self._busy.add(run_id)
                        pool.start(partial(self._work_on, run_id, program))
                    pool.check()
                    if once and not due.runs:
                        if pool.idle:
                            break
                        await pool.wait(due.seconds)
                    elif not due.runs:
                        await self._session.run(worker.wait(due, self._over.is_set))
            except BaseException:
                self.stop()
                raise
        pool.check()

    async def _find(self) -> Due:
        most = self._slots * _BACKLOG
        return await self._session.run(
            worker.find(self._session.writer, self._programs, self._busy, most, self._poll)
        )

    async def _work_on(self, run_id: str, program: str) -> None:
        run = AsyncRun(
            self._session,
            run_id,
            ttl=self._ttl,
            wait=0,
            attempts=self._attempts,
            stopping=self._over.is_set,
        )
        problem: BaseException | None = None
        try:
            async with run:
                with _counted():
                    returned = await self._programs[program](run)
                run.result = run.result if returned is None else returned
        except (Exception, Suspended) as found:
            problem = found
        except BaseExceptionGroup as group:  # of tasks that ran together
            if group.subgroup(Suspended) is None:
                raise
            problem = group
        finally:
            self._busy.discard(run_id)
        self._tell(run, program, problem)

    def _tell(self, run: AsyncRun, program: str, problem: BaseException | None) -> None:
        """Say how it ended, if the run was taken up.

        Raises what stands against taking runs up.
        """
        recorded = run.recorded
        if recorded is None:
            if not isinstance(problem, Held | Suspended) and not _taken_over(problem, run.id):
                assert problem is not None  # the run was not entered
                raise problem
        elif self._on_worked is not None:
            how = _how(recorded, problem)
            error = str(problem) if how == "lost" else recorded.status.value.get("error")
            self._on_worked(Worked(run.id, program, how, error))


def _checked(programs: Mapping[str, _Program]) -> dict[str, _Program]:
    if not isinstance(programs, Mapping) or not programs:
        raise Invalid("programs= must map at least one name to a function of a run.")
    for name, fn in programs.items():
        if not isinstance(name, str) or not name or not callable(fn):
            raise Invalid(f"{name!r:.60}: {fn!r:.60} is not a program: a name and a function.")
        concurrency.check_program(fn, repr(name))
    return dict(programs)


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
