"""The leases that an agent's MCP connections hold, under ids that only whoever took them knows.

A language model forgets to give a lease up, so each has an end that was asked for.  Until then it
is renewed every few seconds: if this process dies, others wait no longer than `TTL`.
"""

from __future__ import annotations

import asyncio
import secrets
from contextvars import Context, ContextVar
from dataclasses import dataclass

from interlock import AsyncLease, AsyncSpace, Invalid, Record

TTL = 30.0  # seconds
LONGEST_LEASE = 3600.0  # seconds
LONGEST_WAIT = 30.0  # seconds in the queue: MCP clients give up on an answer after a minute or so

# The session that calls: None where there is only one connection, "" where it is not known.
calling: ContextVar[str | None] = ContextVar("interlock_mcp_session", default="")


@dataclass
class Hold:
    """A lease that is held until `ends`, in the time of the event loop."""

    id: str
    lease: AsyncLease
    named: str | None
    session: str | None = ""
    ends: float = 0.0
    ending: asyncio.Task[None] | None = None

    @property
    def record(self) -> Record:
        """The record of its key, as the holder knows it."""
        return self.lease.record

    @property
    def seconds(self) -> float:
        """Seconds until it is given up."""
        return max(self.ends - asyncio.get_running_loop().time(), 0.0)


class Leases:
    """The leases of one agent."""

    def __init__(self, space: AsyncSpace) -> None:
        self._space = space
        self._held: dict[str, Hold] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __getitem__(self, lease_id: str) -> Hold:
        """Return a lease that is held.  Raises Invalid."""
        try:
            return self._held[lease_id]
        except KeyError:
            raise Invalid(
                f"you hold no lease with lease_id {lease_id!r}: it was never yours, was given up, "
                "or its time was over"
            ) from None

    def of_key(self, lease_id: str, key: str) -> Hold:
        """Return the lease of `key` that is held under this id.  Raises Invalid."""
        hold = self[lease_id]
        if hold.lease.key != key:
            raise Invalid(f"lease_id {lease_id!r} is for {hold.lease.key!r}, not for {key!r}")
        return hold

    async def take(self, key: str, seconds: float, wait: float, named: str | None) -> Hold:
        """Take the lease of `key`; the one that was taken under the same name is returned again.

        Raises Held, Fenced, Invalid.
        """
        session = calling.get()
        for hold in self._held.values():
            if named is not None and (hold.named, hold.lease.key) == (named, key):
                return hold
        for hold in self._held.values() if wait and session != "" else ():
            if (hold.session, hold.lease.key) == (session, key) and not hold.lease.lost:
                raise Invalid(
                    f"you hold the lease of {key!r} and would wait for yourself: pass the lease_id "
                    "that take_lease returned, or release it first"
                )
        lease = self._space.lease(key, ttl=TTL, wait=wait)
        # It outlives this call, whose context does not hold it.
        await asyncio.create_task(lease.acquire(), context=Context())
        hold = Hold(secrets.token_hex(8), lease, named, session)
        self._held[hold.id] = hold
        self._end_after(hold, seconds)
        return hold

    async def renew(self, lease_id: str, seconds: float) -> Hold:
        """Hold a lease for `seconds` from now.  Raises Fenced where it was taken away, Invalid."""
        hold = self[lease_id]
        await hold.lease.renew()
        self._end_after(hold, seconds)
        return hold

    async def release(self, lease_id: str) -> Hold:
        """Give a lease up.  Raises Invalid where it is not held."""
        hold = self[lease_id]
        del self._held[lease_id]
        if hold.ending is not None:
            hold.ending.cancel()
        await hold.lease.release()
        return hold

    async def release_all(self) -> None:
        """Give all of them up."""
        await asyncio.gather(*map(self.release, list(self._held)), return_exceptions=True)

    def _end_after(self, hold: Hold, seconds: float) -> None:
        if hold.ending is not None:
            hold.ending.cancel()
        hold.ends = asyncio.get_running_loop().time() + seconds
        hold.ending = asyncio.create_task(self._end(hold, seconds))

    async def _end(self, hold: Hold, seconds: float) -> None:
        await asyncio.sleep(seconds)
        hold.ending = None  # `release` is not to cancel the task that it runs in
        if hold.id in self._held:
            await self.release(hold.id)
