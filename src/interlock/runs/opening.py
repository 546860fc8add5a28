"""How a space hands out durable runs: the methods that both façades take from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from interlock.core.decide import Writer
from interlock.core.keys import check_name
from interlock.errors import raise_refused

if TYPE_CHECKING:
    from interlock.backends.drive import SyncDriver
    from interlock.backends.drive_async import AsyncDriver
    from interlock.runs.aio_run import AsyncRun
    from interlock.runs.desks import AsyncRuns, Runs
    from interlock.runs.run import Run
    from interlock.runs.worker import AsyncWorker, Worker
    from interlock.runs.working import Worked

_TTL = 30.0  # seconds
_ATTEMPTS = 5
_SLOTS = 4
_POLL = 1.0  # seconds


class _Opening:
    _writer: Writer
    _op_id: Callable[[str | None], str]

    def _run_arguments(self, id: str, agent: str | None) -> tuple[Writer, str]:
        """Return who works on the run.  Raises Invalid."""
        from interlock.runs.records import check_run_id

        raise_refused(check_run_id(id))
        raise_refused(None if agent is None else check_name("agent", agent))
        if agent is None or agent == self._writer.agent:
            return self._writer, id
        return replace(self._writer, agent=agent, incarnation=0), id


class OpensRuns(_Opening):
    """Durable runs, with the synchronous façade."""

    _driver: SyncDriver

    def run(
        self,
        id: str,
        *,
        agent: str | None = None,
        input: Any = None,
        ttl: float = _TTL,
        wait: float | None = None,
        attempts: int = _ATTEMPTS,
    ) -> Run:
        """Return a durable run to work on in a `with` block: a new one, or where it was left.

        `with space.run("order-7") as run: run.step("choose", choose)`.  Only one process works on a
        run at a time: it has the run's lease for `ttl` seconds, renewed in the background; another
        one waits for it `wait` seconds (None: without limit).  Leaving the block well completes the
        run, with `run.result`; RunFailed makes it fail, and undoes its effects; after `attempts`
        other failures it is parked.  `agent`: the name that the run's commits are logged under.
        `input` is kept with a new run.

        Entering raises Held where `wait` has passed, RunFailed where the run has failed, Invalid.
        """
        from interlock.runs.run import Run

        writer, name = self._run_arguments(id, agent)
        return Run(
            self._driver,
            writer,
            name,
            self._op_id,
            given=input,
            ttl=ttl,
            wait=wait,
            attempts=attempts,
        )

    def worker(
        self,
        programs: Mapping[str, Callable[[Run], Any]],
        *,
        slots: int = _SLOTS,
        ttl: float = _TTL,
        poll: float = _POLL,
        attempts: int = _ATTEMPTS,
        told: Callable[[Worked], object] | None = None,
    ) -> Worker:
        """Return a worker: it takes up the runs of `programs`, `slots` at a time.

        `programs` maps names, as `space.runs.start` is given them, to functions of a Run; what one
        returns is the result of the run.  `ttl`: seconds after which others take over the runs of a
        worker that has died.  It looks for runs whenever one has moved, and every `poll` seconds.
        After `attempts` failures, or workers that died at the same step, a run is parked.
        `told(worked)` is called whenever the worker is done with a run for now, in the run's
        thread.  Raises Invalid.
        """
        from interlock.runs.worker import Worker

        return Worker(self, programs, slots, ttl, poll, attempts, told)

    @property
    def runs(self) -> Runs:
        """The runs of this space, for whoever begins, watches and answers them."""
        from interlock.runs.desks import Runs

        return Runs(self._driver, self._writer, self._op_id)


class OpensAsyncRuns(_Opening):
    """Durable runs, with the asyncio façade."""

    _driver: AsyncDriver

    def run(
        self,
        id: str,
        *,
        agent: str | None = None,
        input: Any = None,
        ttl: float = _TTL,
        wait: float | None = None,
        attempts: int = _ATTEMPTS,
    ) -> AsyncRun:
        """Return a durable run to work on in an `async with` block.

        The arguments are those of `interlock.Space.run`.
        """
        from interlock.runs.aio_run import AsyncRun

        writer, name = self._run_arguments(id, agent)
        return AsyncRun(
            self._driver,
            writer,
            name,
            self._op_id,
            given=input,
            ttl=ttl,
            wait=wait,
            attempts=attempts,
        )

    def worker(
        self,
        programs: Mapping[str, Callable[[AsyncRun], Any]],
        *,
        slots: int = _SLOTS,
        ttl: float = _TTL,
        poll: float = _POLL,
        attempts: int = _ATTEMPTS,
        told: Callable[[Worked], object] | None = None,
    ) -> AsyncWorker:
        """Return a worker for coroutine functions of an AsyncRun.

        The arguments are those of `interlock.Space.worker`.
        """
        from interlock.runs.worker import AsyncWorker

        return AsyncWorker(self, programs, slots, ttl, poll, attempts, told)

    @property
    def runs(self) -> AsyncRuns:
        """The runs of this space, for whoever begins, watches and answers them."""
        from interlock.runs.desks import AsyncRuns

        return AsyncRuns(self._driver, self._writer, self._op_id)
