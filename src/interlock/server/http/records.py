"""Records: read, written from what was read, changed in parts; several in one transaction."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from starlette.responses import Response

import interlock
from interlock import AsyncTx, Committed, Conflict, Fenced, Json, KeyInfo, Record
from interlock._async import fences
from interlock.server.http.call import MOST_LISTED, Call, answer, key_dict, precondition, streamed
from interlock.server.http.call import record_answer as shown
from interlock.server.http.problem import Problem, invalid, not_found
from interlock.server.http.relay import need_lease

_STEP = 500  # keys that are looked at together
_STEP_THEN = 100  # the same with their values
_MOST_THEN = 2000
_MOST_LOOKED_AT = 20_000  # keys of others, for one page
LEASE = "interlock-lease"  # a header: the epoch of the lease that the caller holds


_Found = KeyInfo | Record


async def read(call: Call) -> Response:
    """Read one record, now or as it was."""
    key, at = call.key, moment(call)
    record = await (call.space if at is None else at).read(key)
    if not record.exists:
        why = f"{key!r} does not exist."
        raise not_found(why, key=key, version=record.version, epoch=record.epoch)
    found = shown(record)
    if at is None and found.headers["etag"] in call.request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": found.headers["etag"]})
    return found


def moment(call: Call) -> interlock.AsyncMoment | None:
    """Return the moment that a call asks about, None for now.  Raises Problem."""
    position, text = call.number("position", None), call.query.get("time")
    if position is None and text is None:
        return None
    try:
        time = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"time={text!r:.60} is not a time in ISO 8601.") from None
    return call.space.at(position=position, time=time)


async def put(call: Call) -> Response:
    """Write a value over the record that was read, or create it."""
    value, key, headers = await call.value(), call.key, call.request.headers
    expires, op_id = call.seconds("expires"), call.op_id
    if headers.get("if-none-match", "").strip() == "*":
        made = await call.space.create(key, value, op_id=op_id, expires=expires)
        return created(call, made)
    version, epoch = _required(call)
    try:
        record = await fences.as_read(call.space, key, version, epoch)
        if await _leased(call, key, epoch):
            written = await fences.write_leased(call.space, record, value, op_id, expires)
        else:
            written = await call.space.write(
                record, value, op_id=op_id, expires=expires, touch=True
            )
    except (Conflict, Fenced) as refused:
        done = await _done_before(call, key, "put", value)
        if done is None:
            if isinstance(refused, Conflict):
                call.keep_refused(call.agent, key, msgspec.json.encode(value), version)
            raise
        return shown(done)
    return shown(written)


async def delete(call: Call) -> Response:
    """Delete the record that was read."""
    key = call.key
    version, epoch = _required(call)
    try:
        record = await fences.as_read(call.space, key, version, epoch)
        if await _leased(call, key, epoch):
            gone = await fences.delete_leased(call.space, record, call.op_id)
        else:
            gone = await call.space.delete(record, op_id=call.op_id)
    except (Conflict, Fenced):
        done = await _done_before(call, key, "delete", None)
        if done is None:
            raise
        return shown(done)
    return shown(gone)


async def patch(call: Call) -> Response:
    """Change fields of an object, by a JSON Merge Patch; no other field is lost."""
    changes = await call.value()
    if not isinstance(changes, dict):
        raise invalid("A merge patch is an object: the fields that change.")
    target: str | Record = call.key
    if "if-match" in call.request.headers:
        target = await fences.as_read(call.space, call.key, *_required(call))
    return shown(await call.space.patch(target, changes, op_id=call.op_id))


class Transition(msgspec.Struct, forbid_unknown_fields=True):
    """A move of a state machine to the state `to`, with changes of other fields."""

    to: str
    changes: dict[str, Any] = {}


async def transition(call: Call) -> Response:
    """Move the state machine of a key."""
    asked = await call.json(Transition)
    target: str | Record = call.key
    if "if-match" in call.request.headers:
        target = await fences.as_read(call.space, call.key, *_required(call))
    changes = {name: value for name, value in asked.changes.items() if name != "op_id"}
    if len(changes) < len(asked.changes):
        raise invalid("A field named op_id can't be changed with a transition: use patch.")
    return shown(await call.space.transition(target, asked.to, op_id=call.op_id, **changes))


async def append(call: Call) -> Response:
    """Add a contribution to a merged key; it never conflicts."""
    item = await call.value()
    entry = await call.space.append(call.key, item, id=call.op_id)
    return answer(entry.to_dict(), 201)


async def listed(call: Call) -> Response:
    """List records, or keys alone, page by page; as NDJSON all of them, however many."""
    prefix, after = call.query.get("prefix", ""), call.query.get("after") or None
    values = call.flag("values", "true")
    at = moment(call)
    if "application/x-ndjson" in call.request.headers.get("accept", ""):
        return streamed(_lines(call, at, prefix, after, values), "application/x-ndjson")
    limit = call.number("limit", 100, 1, MOST_LISTED)
    found, upto = await _visible(call, at, prefix, after, limit)
    shown = await _shown(call, found, values)
    return answer({"records": shown, "next_after": upto, "more": upto is not None})


async def _shown(call: Call, found: list[_Found], values: bool) -> list[dict[str, Json]]:
    if not values:
        return [key_dict(each) for each in found]
    keys = [each.key for each in found if isinstance(each, KeyInfo)]
    fresh = await call.space.read_many(keys)
    records = [fresh[each.key] if isinstance(each, KeyInfo) else each for each in found]
    return [record.to_dict() for record in records if record.exists]


async def _visible(
    call: Call, at: interlock.AsyncMoment | None, prefix: str, after: str | None, limit: int
) -> tuple[list[_Found], str | None]:
    """Return a page of what the caller sees, and after which key the next one begins.

    Of a moment: whichever key there ever was may have existed then, and is looked up.
    """
    found: list[_Found] = []
    step, most = (_STEP, _MOST_LOOKED_AT) if at is None else (_STEP_THEN, _MOST_THEN)
    for _ in range(most // step):
        page = await call.space.list_keys(prefix, after=after, limit=step, deleted=at is not None)
        seen: Iterable[_Found] = [info for info in page if call.sees(info.key)]
        if at is not None:
            then = await at.read_many([info.key for info in seen])
            seen = [record for record in then.values() if record.exists]
        for each in seen:
            if len(found) == limit:
                return found, found[-1].key
            found.append(each)
        if len(page) < step:
            return found, None
        after = page[-1].key
    return found, after


async def _lines(
    call: Call,
    at: interlock.AsyncMoment | None,
    prefix: str,
    after: str | None,
    values: bool,
) -> AsyncGenerator[bytes]:
    while True:
        found, upto = await _visible(call, at, prefix, after, _STEP)
        for line in await _shown(call, found, values):
            yield msgspec.json.encode(line) + b"\n"
        if upto is None:
            return
        after = upto


def created(call: Call, record: Record) -> Response:
    """Return a record that was made, and where it is."""
    found = shown(record, 201)
    space = quote(call.hosted.name, safe="")
    root = call.request.scope.get("root_path", "")
    found.headers["Location"] = f"{root}/v1/spaces/{space}/records/{quote(record.key)}"
    return found


def _required(call: Call) -> tuple[int, int]:
    text = call.request.headers.get("if-match")
    if text is None:
        raise Problem(
            428,
            "PreconditionRequired",
            "Say which version it was computed from: If-Match with the ETag of the record that you "
            "read, or If-None-Match: * to create it.",
        )
    return precondition(text)


async def _leased(call: Call, key: str, epoch: int) -> bool:
    """Whether the caller writes as the holder of the lease.  Raises Problem."""
    text = call.request.headers.get(LEASE)
    if text is not None and text != str(epoch):
        raise invalid(f"Interlock-Lease {text!r:.40} is not the epoch that If-Match names.")
    if text is None:
        return False
    await need_lease(call, key, epoch)
    return True


async def _done_before(call: Call, key: str, kind: str, value: Json) -> Record | None:
    """Return the record that the same operation wrote when it was sent before, None where it was
    not.  Raises Problem where another one was."""
    done = None if call.op_id is None else await call.space.outcome(call.op_id)
    if done is None:
        return None
    (written,) = done.writes if len(done.writes) == 1 else (None,)
    if (
        written is None
        or (written.key, written.kind, done.agent) != (key, kind, call.agent)
        or (kind == "put" and msgspec.json.decode(written.body or "null") != value)
    ):
        raise _reused(call)
    return fences.replayed(done)


def _reused(call: Call) -> Problem:
    return invalid(f"Idempotency-Key {call.op_id!r} already belongs to another operation.")


# Transactions


class Expected(msgspec.Struct, forbid_unknown_fields=True):
    """A record that the transaction was computed from."""

    key: str
    version: int
    epoch: int


class Change(msgspec.Struct, forbid_unknown_fields=True):
    """One write.  A `put` or a `delete` is of a record that was read, at `version` and `epoch`."""

    kind: Literal["put", "create", "delete", "append"]
    key: str
    value: Any = None
    version: int | None = None
    epoch: int | None = None
    expires: float | None = None


class Transaction(msgspec.Struct, forbid_unknown_fields=True):
    """What it was computed from, and what it writes: all of it or nothing."""

    writes: list[Change]
    expect: list[Expected] = []


async def transact(call: Call) -> Response:
    """Commit several writes, if nothing that they were computed from has changed."""
    asked: Transaction = await call.json(Transaction)
    read = {each.key: (each.version, each.epoch) for each in asked.expect}
    for change in asked.writes:
        call.own(change.key)
        if change.kind in ("put", "delete"):
            if change.version is None or change.epoch is None:
                raise Problem(
                    428, "PreconditionRequired", f"Say which version of {change.key!r} you read."
                )
            read[change.key] = (change.version, change.epoch)
    for key in read:
        call.own(key)
    tx = call.space.transaction(op_id=call.op_id)
    try:
        async with tx:
            await _fill(tx, asked, read)
    except (Conflict, Fenced):
        done = None if call.op_id is None else await call.space.outcome(call.op_id)
        if done is None:
            raise
        if done.agent != call.agent or _names(done) != [
            ("put" if each.kind == "create" else each.kind, each.key) for each in asked.writes
        ]:
            raise _reused(call) from None
        return _committed(done._replace(replayed=True))
    return _committed(tx.committed)


async def _fill(tx: AsyncTx, asked: Transaction, read: dict[str, tuple[int, int]]) -> None:
    records = await tx.read_many(read)
    for key, (version, epoch) in read.items():
        fences.check(records[key], version, epoch)
    for change in asked.writes:
        match change.kind:
            case "put":
                tx.write(records[change.key], change.value, expires=change.expires)
            case "create":
                tx.create(change.key, change.value, expires=change.expires)
            case "delete":
                tx.delete(records[change.key])
            case "append":
                tx.append(change.key, change.value)


def _names(done: Committed) -> list[tuple[str, str]]:
    return [(each.kind, each.key) for each in done.writes]


def _committed(done: Committed | None) -> Response:
    writes = [] if done is None else done.writes
    return answer(
        {
            "position": 0 if done is None else done.position,
            "replayed": done is not None and done.replayed,
            "writes": [
                {
                    "key": each.key,
                    "kind": each.kind,
                    "version": each.version,
                    "epoch": each.epoch,
                    "position": each.position,
                }
                for each in writes
            ],
        }
    )
