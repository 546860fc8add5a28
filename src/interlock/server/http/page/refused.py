"""A write that was refused: beside the record as it is now, to be applied again by an operator."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

from interlock import Conflict, Fenced, Json, Pruned, Record
from interlock._async import fences
from interlock.forensics.changes import Fact, changes, reapplied
from interlock.server.http.call import Call
from interlock.server.http.page.diff import diff
from interlock.server.http.page.sign_in import form_of
from interlock.server.http.problem import invalid, not_found
from interlock.server.http.refused import RefusedWrite


class _Proposal(NamedTuple):
    """What the write changed, made again in the record of now; `left` is what can't be: somebody
    has changed the same since.  `merged`: whether it is known what the write was computed from."""

    value: Json
    left: list[Fact]
    merged: bool


async def show(call: Call) -> dict[str, Any]:
    """Show the write, and what applying it again would change."""
    write = _write(call)
    record = await call.space.read(write.key)
    return await _context(call, write, record)


async def apply(call: Call) -> dict[str, Any]:
    """Apply the write again, to the record that the form was made from."""
    write, form = _write(call), await form_of(call.request)
    numbers = form.get("version", ""), form.get("epoch", "")
    if not all(each.isascii() and each.isdecimal() and len(each) < 19 for each in numbers):
        raise invalid("The form names no version and epoch.")
    try:
        record = await fences.as_read(call.space, write.key, int(numbers[0]), int(numbers[1]))
        proposal = await _proposal(call, write, record)
        written = await call.space.write(record, proposal.value)
    except (Conflict, Fenced):
        return {**await show(call), "moved": True}
    call.service.refused.drop(call.hosted.uid, write.id)
    await call.audit("reapply", key=write.key, of=write.agent, version=written.version)
    done = f"Written as version {written.version}."
    return {**await _context(call, write, written), "done": done}


def _write(call: Call) -> RefusedWrite:
    id = call.request.path_params["id"]
    for each in call.service.refused.of(call.hosted.uid):
        if each.id == id:
            call.own(each.key)
            return each
    raise not_found("This refused write is not kept any more.")


async def _context(call: Call, write: RefusedWrite, record: Record) -> dict[str, Any]:
    proposal = await _proposal(call, write, record)
    return {
        "write": write,
        "record": record,
        "proposal": proposal,
        "changes": diff(record.value if record.exists else None, proposal.value),
        "done": "",
        "moved": False,
    }


async def _proposal(call: Call, write: RefusedWrite, record: Record) -> _Proposal:
    try:
        base = await _computed_from(call, write)
    except Pruned:
        base = None
    if base is None or not base.exists or not record.exists:
        return _Proposal(write.value, [], False)
    value, left = reapplied(deepcopy(record.value), changes(base.value, write.value))
    return _Proposal(value, left, True)


async def _computed_from(call: Call, write: RefusedWrite) -> Record | None:
    """Return the record that a write was computed from, where it is among the last ones."""
    async for entry in call.space.history(write.key, newest_first=True, limit=100):
        if entry.version == write.version:
            return await call.space.at(position=entry.position).read(write.key)
    return None
