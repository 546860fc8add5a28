"""Records and leases as a caller names them that keeps nothing: by version and epoch.

For a server that stands between: its clients come back with what they got, to whichever
process answers.  The store compares both in the end; nothing here is more than a first look.
"""

from __future__ import annotations

from typing import Any

from interlock._async.space import AsyncSpace
from interlock.core import refusals, write
from interlock.core.keys import check_key
from interlock.core.lease import release_lease, renew_lease, take_lease
from interlock.core.plan import Expect
from interlock.core.records import Committed, Record
from interlock.core.refusals import Refusal
from interlock.core.requests import Noted
from interlock.errors import raise_refusal, raise_refused


def difference(record: Record, version: int, epoch: int) -> Refusal | None:
    """Return the refusal of what was computed from another version or epoch of a record."""
    if record.version != version:
        return refusals.conflict(Expect(record.key, version, epoch), record)
    if record.epoch != epoch:
        return refusals.fenced(record.key, epoch, record.epoch)
    return None


def replayed(done: Committed) -> Record:
    """Return the record of the first write of a commit that was made before."""
    return write.records_of(done, "")[0]


async def as_read(space: AsyncSpace, key: str, version: int, epoch: int) -> Record:
    """Return the record of `key`, which is still as its reader names it.

    Raises Conflict, Fenced, which are kept among the space's refusals, or Invalid.
    """
    record = await space.read(key)
    moved = difference(record, version, epoch)
    if moved is not None:
        await space.session.run(Noted(moved, space.agent).__iter__())
        raise_refusal(moved)
    return record


async def take(space: AsyncSpace, key: str, ttl: float, wait: float, op_id: str | None) -> Record:
    """Take the lease of `key`, which nobody renews but the caller; return its record.

    Sent again with the same `op_id` while it is held, it is granted again.  Raises as
    `AsyncLease.acquire` does.
    """
    name = space.session.op_id(op_id)
    steps = take_lease(space.session.writer, (key,), ttl, wait, name)
    return (await space.session.run(steps, ("lease", key), explain=False))[0]


async def renew(space: AsyncSpace, key: str, ttl: float, epoch: int) -> Record:
    """Keep the lease of `key` for another `ttl` seconds.  Raises Fenced if it was lost, Invalid."""
    raise_refused(check_key(key))
    return await space.session.run(renew_lease(space.session.writer, key, ttl, epoch))


async def release(space: AsyncSpace, key: str, epoch: int) -> None:
    """Give up the lease of `key` that was granted at `epoch`.  Raises Invalid."""
    raise_refused(check_key(key))
    await space.session.run(release_lease(key, epoch))


async def write_leased(
    space: AsyncSpace, record: Record, value: Any, op_id: str | None, expires: float | None
) -> Record:
    """Write over a record as the holder of the lease at its epoch.  Raises as `AsyncLease.write`
    does."""
    name = space.session.op_id(op_id)
    steps = write.write_record(
        *(space.session.writer, record, value, name), leased=True, touch=True, expires=expires
    )
    return await space.session.run(steps)


async def delete_leased(space: AsyncSpace, record: Record, op_id: str | None) -> Record:
    """Delete the key of a record as the holder of its lease."""
    writer, name = space.session.writer, space.session.op_id(op_id)
    steps = write.write_one(writer, lambda: write.plan_delete(writer, record, name, leased=True))
    return await space.session.run(steps)


def check(record: Record, version: int, epoch: int) -> None:
    """Raise Conflict or Fenced where a record is at another version or epoch."""
    raise_refused(difference(record, version, epoch))
