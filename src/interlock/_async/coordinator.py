"""A coordinator, which merges many agents' contributions into one shared value."""

from __future__ import annotations

from collections.abc import AsyncIterator

from interlock._async import concurrency
from interlock._async.lease import AsyncLease
from interlock.core import read
from interlock.session import AsyncSession
from interlock.settings import WATCH_PAUSE
from interlock.streams import coordinator
from interlock.streams.coordinator import Job, Progress, State


class AsyncCoordinator:
    """Merges many agents' contributions into one shared value, each exactly once in effect.

    `async for progress in coordinator: ...` goes on without end; `catch_up` merges what is there.
    Only the holder of its lease merges: a second coordinator of the same name stands by, and takes
    over when the first one dies.  One that was replaced gets Fenced.
    """

    def __init__(self, session: AsyncSession, job: Job, ttl: float, wait: float | None) -> None:
        self._session = session
        self._job = job
        self._ttl = ttl
        self._wait = wait
        for fn in filter(callable, (job.merge, job.validate, job.dedupe, job.route)):
            concurrency.check_function(fn, f"{fn!r:.60}")

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

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Take the lease and merge what comes; yield the progress after every commit.

        Raises Held if `wait` has passed, Fenced if this coordinator was replaced, and what
        the functions raise that is no fault of a contribution, with nothing of that batch merged.
        """
        async with self._lease() as lease:
            state = await self._begin(lease)
            while True:
                before, state = state, await self._advance(state)
                if state.record is not before.record:
                    yield state.progress
                elif state.progress.cursor >= state.progress.head:
                    await self._session.run(read.wait(WATCH_PAUSE, state.progress.head))
                if lease.lost:
                    await lease.renew()  # raises Fenced

    async def catch_up(self) -> Progress:
        """Take the lease, merge what is there, give the lease up.  Raises what iterating does."""
        async with self._lease() as lease:
            state = await self._begin(lease)
            while True:
                state = await self._advance(state)
                if state.progress.cursor >= state.progress.head:
                    return state.progress

    async def progress(self) -> Progress:
        """Return how far the coordinator of this name is, whoever runs it."""
        steps = coordinator.look(self._session.writer, self._job)
        return await self._session.run(steps)

    def _lease(self) -> AsyncLease:
        self._session.check_write(self._job.into)
        return AsyncLease(self._session, self._job.state, self._ttl, self._wait)

    async def _begin(self, lease: AsyncLease) -> State:
        session = self._session
        steps = coordinator.start(session.writer, self._job, lease.record, session.op_id())
        return await session.run(steps)

    async def _advance(self, state: State) -> State:
        session = self._session
        steps = coordinator.advance(session.writer, self._job, state, session.draw)
        return await session.run(steps)
