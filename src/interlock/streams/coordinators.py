"""Coordinators as agents use them, with either façade."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from interlock import reentry
from interlock.aio_handles import AsyncLease
from interlock.backends.drive import SyncDriver
from interlock.backends.drive_async import AsyncDriver
from interlock.core import protocol
from interlock.core.decide import Writer
from interlock.core.records import Record
from interlock.errors import Invalid, raise_refused
from interlock.handles import Lease
from interlock.settings import WATCH_PAUSE
from interlock.streams import coordinating
from interlock.streams.coordinating import Job, Progress, State


class CoordinatorHandle:
    """What a coordinator knows, with either façade."""

    def __init__(
        self,
        driver: Any,
        writer: Writer,
        job: Job,
        ttl: float,
        wait: float | None,
        op_id: Callable[[str | None], str],
    ) -> None:
        self._driver = driver
        self._writer = writer
        self._job = job
        self._ttl = ttl
        self._wait = wait
        self._op_id = op_id

    @property
    def name(self) -> str:
        """The name that its state, and what it rejected, are kept under."""
        return self._job.name

    @property
    def rejected(self) -> str:
        """The prefix of the keys that rejected contributions are kept under, with the reason."""
        return f"{self._job.name}/rejected/"

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self.name!r}>"

    def _begin(self, record: Record) -> Any:
        return coordinating.start(self._writer, self._job, record, self._op_id(None))

    def _advance(self, state: State) -> Any:
        return coordinating.advance(self._writer, self._job, state, lambda: self._op_id(None))


class Coordinator(CoordinatorHandle):
    """Merges many agents' contributions into one shared value, each exactly once in effect.

    `for progress in coordinator: ...` goes on without end; `catch_up` merges what is there.  Only
    the holder of its lease merges: a second coordinator of the same name stands by, and takes over
    when the first one dies.  One that was replaced gets Fenced.
    """

    _driver: SyncDriver

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        for fn in (self._job.merge, self._job.validate, self._job.dedupe):
            if inspect.iscoroutinefunction(fn):
                raise Invalid(f"{fn!r:.60} is a coroutine function; use interlock.open_async")

    def __iter__(self) -> Iterator[Progress]:
        """Take the lease and merge what comes; yield the progress after every commit.

        Raises Held where `wait` has passed, Fenced where this coordinator was replaced, and what
        the functions raise that is no fault of a contribution, with nothing of that batch merged.
        """
        with self._lease() as lease:
            state: State = self._run(self._begin(lease.record))
            while True:
                before, state = state, self._run(self._advance(state))
                if state.record is not before.record:
                    yield state.progress
                elif state.progress.cursor >= state.progress.head:
                    self._run(protocol.wait(WATCH_PAUSE, state.progress.head))
                if lease.lost:
                    lease.renew()  # raises Fenced

    def catch_up(self) -> Progress:
        """Take the lease, merge what is there, give the lease up.  Raises what iterating does."""
        with self._lease() as lease:
            state: State = self._run(self._begin(lease.record))
            while True:
                state = self._run(self._advance(state))
                progress: Progress = state.progress
                if progress.cursor >= progress.head:
                    return progress

    def progress(self) -> Progress:
        """Return how far the coordinator of this name is, whoever runs it."""
        progress: Progress = self._run(coordinating.look(self._writer, self._job))
        return progress

    def _lease(self) -> Lease:
        reentry.check_write(self._writer.space, (self._job.into,))
        key = self._job.state
        return Lease(self._driver, self._writer, key, self._ttl, self._wait, self._op_id)

    def _run(self, steps: Any) -> Any:
        answer = self._driver.run(steps)
        raise_refused(answer)
        return answer


class AsyncCoordinator(CoordinatorHandle):
    """Merges many agents' contributions into one shared value, each exactly once in effect.

    `async for progress in coordinator: ...` goes on without end; `catch_up` merges what is there.
    Only the holder of its lease merges: a second coordinator of the same name stands by, and takes
    over when the first one dies.  One that was replaced gets Fenced.
    """

    _driver: AsyncDriver

    def __aiter__(self) -> AsyncIterator[Progress]:
        """Take the lease and merge what comes; yield the progress after every commit.

        Raises Held where `wait` has passed, Fenced where this coordinator was replaced, and what
        the functions raise that is no fault of a contribution, with nothing of that batch merged.
        """
        return self._follow()

    async def catch_up(self) -> Progress:
        """Take the lease, merge what is there, give the lease up.  Raises what iterating does."""
        async with self._lease() as lease:
            state: State = await self._run(self._begin(lease.record))
            while True:
                state = await self._run(self._advance(state))
                progress: Progress = state.progress
                if progress.cursor >= progress.head:
                    return progress

    async def progress(self) -> Progress:
        """Return how far the coordinator of this name is, whoever runs it."""
        progress: Progress = await self._run(coordinating.look(self._writer, self._job))
        return progress

    async def _follow(self) -> AsyncIterator[Progress]:
        async with self._lease() as lease:
            state: State = await self._run(self._begin(lease.record))
            while True:
                before, state = state, await self._run(self._advance(state))
                if state.record is not before.record:
                    yield state.progress
                elif state.progress.cursor >= state.progress.head:
                    await self._run(protocol.wait(WATCH_PAUSE, state.progress.head))
                if lease.lost:
                    await lease.renew()  # raises Fenced

    def _lease(self) -> AsyncLease:
        reentry.check_write(self._writer.space, (self._job.into,))
        key = self._job.state
        return AsyncLease(self._driver, self._writer, key, self._ttl, self._wait, self._op_id)

    async def _run(self, steps: Any) -> Any:
        answer = await self._driver.run(steps)
        raise_refused(answer)
        return answer
