"""Leases: the right to write a key, which its holder names by the epoch and renews itself."""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.responses import Response

from interlock import Record
from interlock._async import fences
from interlock.server.http import upkeep
from interlock.server.http.call import Call, answer
from interlock.server.http.problem import etag, invalid
from interlock.server.http.relay import holds, need_lease, need_owner

_LONGEST_WAIT = 25.0  # seconds


class Acquire(msgspec.Struct, forbid_unknown_fields=True):
    """Take the lease for `ttl` seconds; wait for it in the queue for `wait` seconds at most."""

    ttl: float = 30.0
    wait: float = 0.0


class Renew(msgspec.Struct, forbid_unknown_fields=True):
    """Keep the lease that was granted at `epoch` for another `ttl` seconds."""

    epoch: Annotated[int, msgspec.Meta(ge=1)]
    ttl: float = 30.0


async def acquire(call: Call) -> Response:
    """Take the lease of a key.  Write with its record's ETag and `Interlock-Lease: EPOCH`."""
    asked: Acquire = await call.json(Acquire)
    if not 0 <= asked.wait <= _LONGEST_WAIT:
        raise invalid(f"wait={asked.wait} must be from 0 to {_LONGEST_WAIT:g} seconds: ask again.")
    key = call.key
    need_owner(call, [key], call.agent)
    record = await fences.take(call.space, key, asked.ttl, asked.wait, call.op_id)
    return _held(record, asked.ttl, 201)


async def renew(call: Call) -> Response:
    """Keep a lease."""
    asked: Renew = await call.json(Renew)
    key = call.key
    await need_lease(call, key, asked.epoch)
    record = await fences.renew(call.space, key, asked.ttl, asked.epoch)
    return _held(record, asked.ttl)


async def release(call: Call) -> Response:
    """Give a lease up.  Giving up one that was lost does nothing."""
    epoch = call.number("epoch", 0, 1)
    if not epoch:
        raise invalid("Name the lease by its epoch: ?epoch=N.")
    key = call.key
    if await holds(call, key, epoch, call.agent):
        await fences.release(call.space, key, epoch)
    return Response(status_code=204)


async def queue(call: Call) -> Response:
    """Show who holds the lease of a key, and who waits for it or for a turn."""
    found = await call.space.queue(call.key)
    lease = None if found.lease is None else found.lease._asdict()
    return answer(
        {"key": found.key, "lease": lease, "waiters": [each._asdict() for each in found.waiters]}
    )


async def reclaim(call: Call) -> Response:
    """Take the lease of a key away from whoever holds it, who is fenced."""
    record = await upkeep.reclaim(call, call.key)
    return answer(record.to_dict(), headers={"ETag": etag(record)})


def _held(record: Record, ttl: float, status: int = 200) -> Response:
    lease = {"key": record.key, "epoch": record.epoch, "ttl": ttl, "record": record.to_dict()}
    return answer(lease, status, {"ETag": etag(record)})
