"""How a worker performs the operations of the plan that are about leases, the log and groups."""

from __future__ import annotations

import asyncio
import time
import zlib
from contextlib import suppress

import interlock
from interlock.verify.torture import plan
from interlock.verify.torture.acting import Actor, Noted, seen
from interlock.verify.torture.plan import Op

GROUP = "workers"
GROUP_PREFIX = "jobs/"
_WAIT = 0.3  # seconds for a lease
_WORK = 0.02  # seconds with a lease in hand, at most
_FOLLOWED = 1000  # entries at once
_TAKEN = 20


def stamp(entry: interlock.Entry) -> int:
    """Return a number that stands for an entry; those of a stretch of the log are summed up."""
    text = f"{entry.position} {entry.key} {entry.version} {entry.op_id}"
    return zlib.crc32(text.encode())


class Worker(Actor):
    """Performs all operations."""

    def __init__(self, space: interlock.AsyncSpace) -> None:
        super().__init__(space)
        self.ways |= {
            "lease": self.lease,
            "reclaim": self.reclaim,
            "follow": self.follow,
            "consume": self.consume,
        }
        self._position = 0
        self._following = asyncio.Lock()
        self._consuming = asyncio.Lock()
        self._group = space.group(GROUP, prefix=GROUP_PREFIX, ttl=plan.GROUP_TTL)

    async def lease(self, op: Op, noted: Noted) -> None:
        """Take a lease, write a few times with some work in between, give it up."""
        key = op.key("leases", plan.LEASED)
        lease = self.space.lease(key, ttl=plan.LEASE_TTL, wait=_WAIT)
        began = time.monotonic()
        async with lease:
            noted.facts["grant"] = [key, lease.epoch, began, time.monotonic()]
            noted.read(began, {key: lease.record})
            for turn in range(1 + op.b % 3):
                await asyncio.sleep(_WORK * (op.c % 16) / 16)
                name, before, began = f"{op.id}.{turn}", lease.record, time.monotonic()
                made = await lease.write({"by": name}, op_id=name)
                noted.commit(began, name, {key: seen(before)}, {key: seen(made)})

    async def reclaim(self, op: Op, noted: Noted) -> None:
        """Take a lease away from whoever has it."""
        key, began = op.key("leases", plan.LEASED), time.monotonic()
        record = await self.space.reclaim(key)
        noted.facts["grant"] = [key, record.epoch, began, time.monotonic()]

    async def follow(self, op: Op, noted: Noted) -> None:
        """Read the log on from where this worker was."""
        async with self._following:
            after, total = self._position, 0
            entries = self.space.log(after=after)
            async for entry in entries:
                self._position += 1
                if entry.position != self._position:
                    noted.facts["gap"] = [self._position, entry.position]
                    self._position = entry.position
                total += stamp(entry)
                if self._position - after >= _FOLLOWED:
                    break
            noted.facts["log"] = [after, self._position, total]

    async def consume(self, op: Op, noted: Noted) -> None:
        """Take entries of the group and acknowledge them; sometimes give them back instead."""
        async with self._consuming:
            began = time.monotonic()
            taken = await self._group.take(_TAKEN)
            # Who dies between the acknowledgement and its answer was given them all the same.
            noted.record({"taken": [began, [each.entry.position for each in taken]]})
            if op.c % 8 == 0:
                await self._group.close()
            elif taken:
                began = time.monotonic()
                done = await self._group.ack(*taken)
                noted.facts["acked"] = [began, time.monotonic(), done]

    async def close(self) -> None:
        """Give back what was taken of the group and not acknowledged."""
        with suppress(interlock.InterlockError):  # what stays away is claimed by others in time
            await self._group.close()
