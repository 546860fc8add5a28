"""Decisions: from a command and what it was computed from to a plan, or to a refusal.

Pure functions.  The wording of refusals that the backends find (a moved version, a held turn)
is made here too, so that every backend says the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from interlock.core.keys import check_key
from interlock.core.outcome import Committed, Conflict, Fenced, Held, Invalid, Outcome, Refusal
from interlock.core.plan import DELETE, PUT, Expect, Plan, Scanned, Write
from interlock.core.records import Record, as_datetime
from interlock.core.values import decode, encode


class Writer(NamedTuple):
    """Who asks: the space's unique id, the agent's name, and the limit of a value in bytes."""

    space: str
    agent: str
    max_value_bytes: int


def put(writer: Writer, record: Record, value: Any, op_id: str) -> Plan | Refusal:
    """Plan writing `value` over `record`."""
    wrong = own_record(writer, record)
    if wrong is not None:
        return wrong
    body = encode(value, writer.max_value_bytes)
    if isinstance(body, Invalid):
        return body
    return _single(writer, expect(record), Write(PUT, record.key, body), op_id)


def create(writer: Writer, key: str, value: Any, op_id: str) -> Plan | Refusal:
    """Plan writing `value` to a key that must not exist."""
    wrong = check_key(key)
    if wrong is not None:
        return wrong
    body = encode(value, writer.max_value_bytes)
    if isinstance(body, Invalid):
        return body
    return _single(writer, Expect(key, None, None), Write(PUT, key, body), op_id)


def delete(writer: Writer, record: Record, op_id: str) -> Plan | Refusal:
    """Plan deleting the key of `record`, which must exist."""
    wrong = own_record(writer, record)
    if wrong is not None:
        return wrong
    if not record.exists:
        return nothing_to_delete(record.key)
    return _single(writer, expect(record), Write(DELETE, record.key, None), op_id)


def nothing_to_delete(key: str) -> Invalid:
    """The refusal of deleting a key that does not exist."""
    return Invalid(f"{key!r} does not exist, so there is nothing to delete", key)


def expect(record: Record) -> Expect:
    """The expectation that `record` has not moved."""
    return Expect(record.key, record.version, record.epoch)


def scanned(prefix: str, records: tuple[Record, ...]) -> Scanned:
    """The expectation that a scan of `prefix` would return the same again."""
    return Scanned(prefix, tuple((r.key, r.version, r.epoch) for r in records))


def own_record(writer: Writer, record: object) -> Invalid | None:
    """Return why `record` cannot be written here: not a record, or of another space."""
    if not isinstance(record, Record):
        return Invalid(
            f"expected a Record as space.read() returns it, got {type(record).__name__}; "
            "a write names the record it was computed from"
        )
    if record.space != writer.space:
        return Invalid(f"the record of {record.key!r} was read from another space", record.key)
    return check_key(record.key)


def reads_beyond(plan: Plan) -> dict[str, Any] | None:
    """Return what the plan was computed from besides the keys it writes, as the log keeps it."""
    written = {write.key for write in plan.writes}
    reads: dict[str, Any] = {
        e.key: e.version for e in plan.expects if e.key not in written and e.version is not None
    }
    for scan in plan.scans:
        reads[scan.prefix + "*"] = {key: version for key, version, _ in scan.members}
    return reads or None


def result(outcome: Committed, space: str) -> list[Record]:
    """Return the records that a commit made."""
    return [
        Record(
            w.key,
            decode(w.body),
            w.version,
            w.epoch,
            outcome.agent,
            outcome.time_us,
            w.position,
            w.kind != DELETE,
            space,
        )
        for w in outcome.writes
    ]


def same_operation(plan: Plan, outcome: Outcome) -> Outcome:
    """Refuse a replayed answer that belongs to a plan with other values: one id, two operations."""
    if isinstance(outcome, Committed) and outcome.replayed:
        for asked, done in zip(plan.writes, outcome.writes, strict=True):
            if asked.body != done.body:
                return reused_operation(plan.op_id, asked.key)
    return outcome


def reused_operation(op_id: str, key: str) -> Invalid:
    """The refusal of an operation id that already stands for another operation."""
    return Invalid(
        f"operation id {op_id!r} was already used for another operation; "
        "use a fresh id for each new operation",
        key,
    )


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a record that has moved."""
    if expected.version is None:
        wanted = "expected not to exist"
    elif expected.version == 0:
        wanted = "expected never to have been written"
    else:
        wanted = f"expected at version {expected.version}"
    state = (
        f"is at version {record.version}"
        if record.exists
        else (f"was deleted (version {record.version})" if record.version else "was never written")
    )
    by = f", written by {record.writer!r} at {as_datetime(record.time_us):%Y-%m-%d %H:%M:%S.%f}"
    message = f"{record.key!r} was {wanted} but {state}{by if record.version else ''}"
    return Conflict(message, record.key, expected.version, record.version, record)


def scan_conflict(prefix: str, expected: int | None, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a scan which would now return something else."""
    was = "was not there" if not expected else f"was at version {expected}"
    now = f"is at version {record.version}" if record.exists else "is gone"
    message = f"the scan of {prefix!r} has changed: {record.key!r} {was} and {now}"
    return Conflict(message, record.key, expected or 0, record.version, record, prefix)


def fenced(key: str, held: int, current: int) -> Fenced:
    """The refusal of a writer that was replaced."""
    return Fenced(
        f"{key!r} was read at epoch {held}, but its epoch is now {current}", key, held, current
    )


def held(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a plan that gives way to the agent whose turn it is."""
    return Held(
        f"it is {holder!r}'s turn to write {key!r}, for {seconds:.1f} s unless renewed",
        key,
        holder,
        seconds,
    )


def first_difference(
    members: Mapping[str, tuple[int, int]], current: Mapping[str, tuple[int, int]]
) -> str | None:
    """Return the first key that differs between a scan as expected and as it is, or None."""
    for key in sorted(members.keys() | current.keys()):
        if members.get(key) != current.get(key):
            return key
    return None


def _single(writer: Writer, expected: Expect, write: Write, op_id: str) -> Plan:
    return Plan(op_id, writer.agent, (expected,), (), (write,))
