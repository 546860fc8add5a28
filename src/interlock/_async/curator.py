"""A curator, which checks many agents' memory events and keeps what they are worth, by scope."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interlock._async.coordinator import AsyncCoordinator
from interlock._async.lease import AsyncLease
from interlock._async.run import AsyncRun
from interlock.core.records import Entry
from interlock.errors import RunFailed
from interlock.session import AsyncSession
from interlock.streams import curator
from interlock.streams.coordinator import Job, State


class AsyncCurator(AsyncCoordinator):
    """Checks, deduplicates and routes memory events to scopes; each has its effect exactly once.

    It is a coordinator that merges into many keys: `async for progress in curator: ...` goes on
    without end; `catch_up` handles what is there; both make it the only writer of its keys.
    """

    def __init__(self, session: AsyncSession, job: Job, ttl: float, wait: float | None) -> None:
        super().__init__(session, job, ttl, wait)
        if job.by_entry and job.validate is not None:
            self._judge = curator.judging(job.validate)
            self._job = replace(job, validate=self._ask)

    async def _begin(self, lease: AsyncLease) -> State:
        session = self._session
        await session.run(curator.take_over(session.writer, self._job, session.op_id()))
        return await super()._begin(lease)

    async def _ask(self, entry: Entry) -> Any:
        """Return the verdict on an event: the recorded one, or what `validate` says."""
        id, found = f"{self.name}-{entry.position}", None
        try:
            async with AsyncRun(self._session, id, ttl=self._ttl, wait=None, attempts=5) as run:
                found = await run.effect(
                    "validate", self._judge, entry.value, key=entry.position, in_doubt="retry"
                )
        except RunFailed as cancelled:  # by a person who gives the event up
            return str(cancelled)
        return found
