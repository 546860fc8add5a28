"""From the rows that a server answers to what the protocols are given, for every server alike.

What may be written is judged in the server; how a refusal is told is `core.refusals`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from interlock.core import refusals
from interlock.core.group import Deliveries, Delivery, GroupConsumer, GroupInfo, GroupPending
from interlock.core.keys import decode_many, prefix_end
from interlock.core.plan import DELETE, Plan, Write
from interlock.core.records import (
    Committed,
    Entry,
    Leaseholder,
    Record,
    Snapshot,
    Tail,
    Waiter,
    Written,
    absent,
)
from interlock.core.refusals import Outcome, Pruned, Refusal, Wait
from interlock.core.requests import (
    PAGE_BYTES,
    PAGE_SPAN,
    Entered,
    Floor,
    Grant,
    LoadAt,
    LogPage,
    Place,
    ReadGroup,
    ReadLog,
    ReadValues,
    TakeLease,
    ValuePage,
)
from interlock.core.write import reads_beyond, reused_operation
from interlock.errors import LostCommits

_entry = partial(tuple.__new__, Entry)
CONTRIBUTIONS = 2  # the value of `live` for a merged key
# Position, key, version, epoch, kind, body, agent, time, operation id, what was read, when the
# value expires or 0; from Redis a list of these.
LogRow = tuple[int, str, int, int, str, str | None, str, int, str, str | None, int]


def expired(live: int, now: int) -> bool:
    """Whether the value of a key has expired whose `live` is a time: above CONTRIBUTIONS."""
    return CONTRIBUTIONS < live <= now


_ABSENT: Any = None  # in a column that such a row does not have


class Row(NamedTuple):
    """One row of an answer; `postgres/functions.sql` says what `what` may be and what it has."""

    what: str
    n: int | None = None
    key: str = _ABSENT
    kind: str = _ABSENT
    body: str = _ABSENT
    base: str | None = None
    version: int = _ABSENT
    epoch: int = _ABSENT
    agent: str = _ABSENT
    time: int = _ABSENT
    position: int = _ABSENT
    live: int = _ABSENT
    extra: int = _ABSENT


def record(row: Row, uid: str, rules: int, erasures: int | None = None) -> Record:
    """Return the record of a row; `rules` is the version of the rules at that moment, `erasures`
    how many steps have erased values of the space."""
    if not row.version:
        return absent(row.key, uid, row.epoch or 0)
    plain = (row.version, row.epoch, row.agent, row.time, row.position)
    expires = abs(row.live) if abs(row.live) > CONTRIBUTIONS else 0
    if row.live == CONTRIBUTIONS:
        tail = Tail(row.base, row.body, row.extra, rules, erasures)
        return Record(row.key, tail, *plain, True, uid)
    if row.live <= 0 or row.body is None:
        gone = row.live > 0
        return Record(row.key, None, *plain, False, uid, None, expires, erased=gone)
    return Record(row.key, json.loads(row.body), *plain, True, uid, row.body, expires)


def snapshot(rows: Iterable[Row], uid: str, prefixes: Sequence[str]) -> Snapshot:
    """Return the snapshot of the rows of `load`."""
    now = Row("now", time=0, position=0, extra=0)
    records: dict[str, Record] = {}
    scans: dict[int, list[Record]] = {n: [] for n in range(len(prefixes))}
    queued: dict[str, int] = {}
    leases: dict[str, Leaseholder] = {}
    operation: list[Row] = []
    for row in rows:
        if row.what == "now":
            now = row
        elif row.what == "back":
            raise lost_commits(row.position)
        elif row.what == "key":
            records[row.key] = record(row, uid, now.extra, now.version)
        elif row.what == "scan":
            scans[row.n or 0].append(record(row, uid, now.extra, now.version))
        elif row.what == "queued":
            queued[row.key] = row.extra
        elif row.what == "lease":
            leases[row.key] = Leaseholder(row.agent, row.epoch, row.time / 1e6)
        elif row.what == "op":
            operation.append(row)
    found = {
        prefix: tuple(sorted(scans[n], key=lambda r: r.key)) for n, prefix in enumerate(prefixes)
    }
    applied = _committed(operation) if operation else None
    return Snapshot(now.position, now.time, records, found, queued, applied, leases)


def moment(rows: Sequence[Row], uid: str, request: LoadAt) -> Snapshot | Pruned:
    """Return the snapshot of the rows of `load_at`, or that it is not kept."""
    if rows[0].what == "pruned":
        asked = 0 if request.position is None else request.position
        return refusals.pruned(asked, rows[0].extra)
    return snapshot(rows, uid, request.prefixes)


def floor(position: int, needed: int | None, by: str, cut: int, erasures: int) -> Floor:
    """Return where the log is cut."""
    return Floor(position, needed, "" if needed is None else by, cut, erasures)


def entries_of(rows: Sequence[LogRow]) -> list[Entry]:
    """Return the entries of rows of the log, in the order of an Entry's fields.

    All of them at once: the values are one JSON text, and an Entry is made of its fields in C.
    """
    if not rows:
        return []
    positions, keys, versions, epochs, kinds, bodies, agents, times, ops, reads, expiries = zip(
        *rows, strict=True
    )
    erased: Iterable[bool] = repeat(False)
    if None in bodies:
        pairs = zip(bodies, kinds, strict=True)
        erased = [body is None and kind != DELETE for body, kind in pairs]
        bodies = tuple("null" if body is None else body for body in bodies)
    values = decode_many(bodies)
    traces: Sequence[str | None] = reads
    if any(reads):
        found = decode_many([text or "null" for text in reads])
        traced = [isinstance(each, list) for each in found]
        if any(traced):  # an array of the trace and what was read
            traces = [each[0] if pair else None for each, pair in zip(found, traced, strict=True)]
            found = [each[1] if pair else each for each, pair in zip(found, traced, strict=True)]
        else:
            traces = [None] * len(found)
        reads = tuple(found)
    first = (positions, keys, versions, epochs, kinds, values, agents, times, ops)
    return list(map(_entry, zip(*first, reads, traces, expiries, erased, strict=False)))


def log_page(rows: Sequence[LogRow], end: int, request: ReadLog, erasures: int) -> LogPage:
    """Return a page of the log, whose last position is `end`."""
    return LogPage(entries_of(rows), page_end(rows, end, request), end, erasures)


def value_page(rows: Sequence[LogRow], end: int, request: ReadValues, erasures: int) -> ValuePage:
    """Return the values of a page of the log, whose last position is `end`."""
    return ValuePage(lines_of(rows), page_end(rows, end, request), end, erasures)


def page_end(rows: Sequence[LogRow], end: int, request: ReadLog | ReadValues) -> int:
    """Return what a page of these rows is complete up to, where the log ends at `end`."""
    # A character has up to four bytes: a page that may have ended early counts as one that did.
    full = bool(rows) and (len(rows) == request.limit or 4 * size_of(rows) >= PAGE_BYTES)
    if not full and request.prefix:
        end = min(end, request.after + PAGE_SPAN)
    return rows[-1][0] if full else max(end, request.after)


def lines_of(rows: Sequence[LogRow]) -> str:
    """Return the JSON texts of rows of the log, one a line, without rows that have none."""
    return "\n".join([row[5] for row in rows if row[5] is not None])


def size_of(rows: Sequence[LogRow]) -> int:
    """Return the length of what entries hold, from their rows."""
    return sum([len(row[5] or "") + len(row[9] or "") for row in rows])


def outcomes(plans: Sequence[Plan], rows: Iterable[Row], uid: str) -> list[Outcome]:
    """Return the outcome of each plan out of the rows of `commit`."""
    found: list[list[Row]] = [[] for _ in plans]
    for row in rows:
        if row.what == "back":
            raise lost_commits(row.position)
        found[row.n or 0].append(row)
    return [_outcome(plan, mine, uid) for plan, mine in zip(plans, found, strict=True)]


def waiters(rows: Iterable[Sequence[Any]]) -> tuple[Waiter, ...]:
    """Return who waits, from rows of agent, whether for a lease, and microseconds of silence."""
    return tuple(Waiter(row[0], bool(row[1]), max(row[2], 0) / 1e6) for row in rows)


def place(rows: Sequence[Row], uid: str) -> Place:
    """Return a place in the queue."""
    waits = (Wait(row.agent, row.key, row.body) for row in rows if row.what == "wait")
    return Place(rows[0].position, rows[0].extra, snapshot(rows[1:], uid, ()), tuple(waits))


def entered(rows: Sequence[Row], uid: str) -> Entered:
    """Return what an agent that comes in is told."""
    return Entered(rows[0].version, record(rows[1], uid, 0))


def grant(rows: Sequence[Row], uid: str, request: TakeLease) -> Grant:
    """Return a lease that was granted, or why it was not."""
    row, rules = rows[0], rows[-1].extra
    records = tuple(record(each, uid, rules) for each in rows if each.what == "record")
    if request.epoch > records[0].epoch:
        raise epoch_back(request.keys[0], request.epoch, records[0].epoch)
    if row.what == "replaced":
        return Grant(False, records, refusal=_replaced(request, row.version), key=row.key)
    return Grant(bool(row.live), records, row.agent or "", row.time / 1e6, key=row.key)


def lost_commits(position: int, known: int | None = None) -> LostCommits:
    """The fault of a store whose log ends before a commit that it acknowledged."""
    past = "" if known is None else f", but position {known} was acknowledged"
    return LostCommits(
        f"The store lost acknowledged commits: its log ends at position {position}{past}. It was "
        "restored from a backup, or failed over to a replica that lagged behind. Check what is "
        "missing, then open the space again."
    )


def epoch_back(name: str, held: int, current: int) -> LostCommits:
    """The fault of a store whose epoch or incarnation is below one that it granted."""
    return LostCommits(
        f"The store lost what it granted: {name!r} was held at epoch {held}, and is at "
        f"{current} now. It was restored from a backup, or failed over to a replica that lagged "
        "behind. Open the space again."
    )


def _outcome(plan: Plan, rows: list[Row], uid: str) -> Outcome:
    first = rows[0]
    if first.what == "done":
        writes = tuple(
            written(write, row.version, row.epoch, row.position, row.time)
            for write, row in zip(plan.writes, rows, strict=True)
        )
        return Committed(first.position, first.time, plan.agent, writes)
    if first.what == "op":
        done = _committed(rows)
        if [(w.kind, w.key) for w in done.writes] != [(w.kind, w.key) for w in plan.writes]:
            return reused_operation(plan.op_id, plan.writes[0].key)
        return done
    return _refusal(plan, first, rows[-1], uid)


def written(write: Write, version: int, epoch: int, position: int, time_us: int) -> Written:
    """Return a write that was committed at a time."""
    expires = time_us + write.ttl_us if write.ttl_us else 0
    return Written(write.key, write.kind, version, epoch, position, write.body, expires)


def _refusal(plan: Plan, first: Row, last: Row, uid: str) -> Refusal:
    if first.what == "replaced":
        return _replaced(plan, first.version)
    if first.what == "leased":
        return refusals.leased_to(first.key, first.agent, first.time / 1e6)
    if first.what == "turn":
        return refusals.held(first.key, first.agent, first.time / 1e6)
    if first.what == "fenced":
        held = plan.expects[first.extra].epoch or 0
        if held > first.epoch and first.key in plan.leased:
            raise epoch_back(first.key, held, first.epoch)
        return refusals.fenced(first.key, held, first.epoch)
    fresh = record(last, uid, plan.rules)
    if first.what == "outdated":
        return refusals.outdated(plan.rules, fresh)
    if last.what == "moved":
        return refusals.conflict(plan.expects[first.extra], fresh)
    scan = plan.scans[first.extra]
    expected = {key: version for key, version, _ in scan.members}.get(fresh.key)
    return refusals.scan_conflict(scan.prefix, expected, fresh)


def _replaced(asker: Plan | TakeLease, current: int) -> Refusal:
    if asker.incarnation > current:
        raise epoch_back(asker.agent, asker.incarnation, current)
    return refusals.replaced(asker.agent, asker.incarnation, current)


def _committed(rows: Sequence[Row]) -> Committed:
    writes = tuple(
        Written(row.key, row.kind, row.version, row.epoch, row.position, row.body, row.live or 0)
        for row in rows
    )
    return Committed(rows[0].position, rows[0].time, rows[0].agent, writes, replayed=True)


def scans_of(plan: Plan) -> list[dict[str, object]] | None:
    """Return the scans of a plan as the servers' steps take them."""
    return [
        {
            "prefix": scan.prefix,
            "upto": prefix_end(scan.prefix),
            "keys": [key for key, _, _ in scan.members],
            "versions": [version for _, version, _ in scan.members],
            "epochs": [epoch for _, _, epoch in scan.members],
        }
        for scan in plan.scans
    ] or None


def reads_of(plan: Plan) -> str | None:
    """Return what a plan was computed from besides what it writes, as the log keeps it: an object,
    or where the plan was traced an array of the trace and that."""
    reads = reads_beyond(plan)
    if plan.trace:
        return json.dumps([plan.trace, reads], ensure_ascii=False)
    return None if reads is None else json.dumps(reads, ensure_ascii=False)


def deliveries(rows: Sequence[tuple[Any, ...]]) -> Deliveries:
    """Return what a consumer is given; `postgres/groups.sql` says what its first row tells."""
    (upto, prefix, head, _, _, _, _, time_us, *_), *dealt = rows
    items = zip(entries_of([row[:11] for row in dealt]), dealt, strict=True)
    return Deliveries(
        tuple(Delivery(entry, row[11]) for entry, row in items), upto, head, time_us, prefix
    )


def dealt(rows: Sequence[tuple[Any, ...]], request: ReadGroup) -> Deliveries | Pruned:
    """Return what a consumer is given, or that the group would begin before what is kept."""
    floor = rows[0][3]
    return refusals.pruned(request.start, floor) if floor else deliveries(rows)


def group_info(rows: Sequence[Row], name: str) -> GroupInfo | None:
    """Return a group as it is, None where there is none."""
    if not rows:
        return None
    group, *others = rows
    consumers = tuple(
        GroupConsumer(row.agent, row.extra, row.time, bool(row.live))
        for row in others
        if row.what == "consumer"
    )
    pending = tuple(
        GroupPending(row.position, row.key, row.agent, row.extra)
        for row in others
        if row.what == "pending"
    )
    return GroupInfo(name, group.key, group.position, group.extra, consumers, pending)
