"""What operators do to a space, for the JSON operations and the forms of the page alike: each is
checked against the caller's keys, and leaves an audit entry."""

from __future__ import annotations

from typing import Any

import interlock
from interlock import Erasure, Json, Record, Rule, Trimmed
from interlock.server.http.call import Call
from interlock.server.http.problem import invalid


async def reclaim(call: Call, key: str) -> Record:
    """Take the lease of a key away; return its record at the new epoch."""
    record = await call.space.reclaim(call.own(key))
    await call.audit("reclaim", key=key, epoch=record.epoch)
    return record


async def restore(call: Call, key: str, position: int) -> Record:
    """Write the value that a key had at a position as a new version; return the record."""
    record = await call.space.read(call.own(key))
    was = await call.space.at(position=position).read(key)
    if not was.exists:
        raise invalid(f"{key} did not exist at position {position}.")
    written = await call.space.write(record, was.value)
    await call.audit("restore", key=key, position=position)
    return written


async def erase(call: Call, key: str | None, prefix: str | None, dry_run: bool) -> Erasure:
    """Erase the values of a key, or of a prefix, for good; or say what would be."""
    if (key is None) == (prefix is None):
        raise invalid("Name either a key or a prefix.")
    if key is not None:
        call.own(key)
    else:
        call.identity.need_prefix(prefix or "")
    found = await call.space.erase(key, prefix=prefix, dry_run=dry_run)
    if not dry_run:
        call.service.refused.forget(call.hosted.uid, key, prefix)
        await call.audit("erase", key=key, prefix=prefix)
    return found


async def trim(call: Call, keep: float | None, before: int | None = None) -> Trimmed:
    """Cut off the oldest part of the log that nobody needs."""
    call.identity.need_all()
    found = await call.space.trim(keep=keep, before=before)
    await call.audit("trim", keep=keep, before=before)
    return found


async def apply_rules(call: Call, rules: dict[str, Any], dry_run: bool) -> dict[str, Rule]:
    """Store rules in place of those that the space has, or only check them; return what holds."""
    declared = interlock.rules_from_json(rules)
    found = await call.space.apply_rules(declared, dry_run=dry_run)
    if not dry_run:
        patterns: list[Json] = [*sorted(declared)]
        await call.audit("apply rules", patterns=patterns)
    return found
