"""A curator, which checks many agents' memory events and keeps what they are worth, by scope."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial

from interlock._async import concurrency
from interlock._async.coordinator import AsyncCoordinator
from interlock._async.lease import AsyncLease
from interlock._async.run import AsyncRun
from interlock.core.records import Entry
from interlock.errors import InterlockError, RunFailed
from interlock.session import AsyncSession
from interlock.streams import curator
from interlock.streams.coordinator import Job, State


class AsyncCurator(AsyncCoordinator):
    """Checks, deduplicates and routes memory events to scopes; each has its effect exactly once.

    It is a coordinator that merges into many keys: `async for progress in curator: ...` goes on
    without end; `catch_up` handles what is there; both make it the only writer of its keys.
    """

    def __init__(
        self, session: AsyncSession, job: Job, ttl: float, wait: float | None, slots: int
    ) -> None:
        super().__init__(session, job, ttl, wait)
        self._slots = slots
        self._looked_at = 0  # the position up to which verdicts were asked for ahead
        self._verdicts: dict[int, str | None] = {}  # of those events, by position
        if job.by_entry and job.validate is not None:
            self._judge = curator.judging(job.validate)
            self._job = replace(job, validate=self._verdict)

    async def _begin(self, lease: AsyncLease) -> State:
        self._looked_at = 0
        self._verdicts.clear()
        session = self._session
        await session.run(curator.take_over(session.writer, self._job, session.op_id()))
        return await super()._begin(lease)

    async def _advance(self, state: State) -> State:
        if self._slots > 1 and state.progress.cursor >= self._looked_at:
            await self._look_ahead(state.progress.cursor)
        return await super()._advance(state)

    async def _look_ahead(self, cursor: int) -> None:
        """Ask for the verdicts on the next events at the same time."""
        steps = curator.ahead(self._session.writer, self._job, cursor, self._slots)
        self._looked_at, entries = await self._session.run(steps)
        await concurrency.together([partial(self._ask_early, entry) for entry in entries])

    async def _ask_early(self, entry: Entry) -> None:
        with suppress(InterlockError):  # its turn comes, and says so if it fails again
            self._verdicts[entry.position] = await self._ask(entry)

    async def _verdict(self, entry: Entry) -> str | None:
        if entry.position in self._verdicts:
            return self._verdicts.pop(entry.position)
        return await self._ask(entry)

    async def _ask(self, entry: Entry) -> str | None:
        """Return the verdict on an event: the recorded one, or what `validate` says."""
        id = f"{self.name}-{entry.position}"
        found: str | None = None
        try:
            async with AsyncRun(self._session, id, ttl=self._ttl, wait=None, attempts=5) as run:
                found = await run.effect(
                    "validate", self._judge, entry.value, key=entry.position, in_doubt="retry"
                )
        except RunFailed as cancelled:  # by a person who gives the event up
            return str(cancelled)
        return found
