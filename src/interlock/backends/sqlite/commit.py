"""The atomic step: judges plans and applies them inside one transaction that the caller opened."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple

from interlock.backends.sqlite.statements import SQL
from interlock.core import decide
from interlock.core.keys import prefix_end
from interlock.core.outcome import Committed, Outcome, Refusal, Written
from interlock.core.plan import DELETE, Plan
from interlock.core.records import Record, absent


class Where(NamedTuple):
    """A space inside a store.  `clock` stands in for SQLite's own, in microseconds."""

    space: int
    uid: str
    clock: Callable[[], int] | None = None


_ABSENT = (0, 0, 0)  # version, epoch, live


class Step:
    """One open write transaction on one space: its clock, its log's end, whether it wrote."""

    def __init__(self, connection: sqlite3.Connection, where: Where) -> None:
        self._execute = connection.execute
        self._space = where.space
        self._uid = where.uid
        now, self._position, last, self._queues = opening(connection, where)
        self.now: int = now
        self.time: int = max(now, last)  # times never fall along the log, whatever the clock does
        self._heads: dict[str, tuple[int, ...]] = {}  # of the plan judged last
        self.wrote = False

    def commit(self, plan: Plan) -> Outcome:
        """Judge one plan, and apply it where nothing stands against it."""
        return self.judge(plan) or self._apply(plan)

    def judge(self, plan: Plan) -> Outcome | None:
        """Return the answer to a plan that need not be applied: refused, or applied before."""
        key = plan.expects[0].key if plan.expects else ""
        *head, known = self._execute(SQL["head_and_op"], (self._space, key, plan.op_id)).fetchone()
        replayed = self._applied(plan) if known else None
        if replayed is not None:
            return replayed
        self._heads = {key: _ABSENT if head[0] is None else tuple(head)}
        refusal = self._moved(plan) or self._scan_moved(plan)
        if refusal is None and self._queues:
            refusal = self._not_in_turn(plan)
        return refusal

    def _applied(self, plan: Plan) -> Outcome | None:
        done = applied(self._execute, self._space, plan.op_id)
        if done is None:
            return None
        if [(w.kind, w.key) for w in done.writes] != [(w.kind, w.key) for w in plan.writes]:
            return decide.reused_operation(plan.op_id, plan.writes[0].key)
        return done

    def _moved(self, plan: Plan) -> Refusal | None:
        """Compare every expected record; the epoch decides before the version."""
        for expected in plan.expects:
            version, epoch, live = self._head(expected.key)
            if expected.epoch is not None and expected.epoch != epoch:
                return decide.fenced(expected.key, expected.epoch, epoch)
            moved = live if expected.version is None else version != expected.version
            if moved:
                return decide.conflict(expected, self._record(expected.key))
        return None

    def _scan_moved(self, plan: Plan) -> Refusal | None:
        for scan in plan.scans:
            rows = self._execute(
                SQL["scan_versions"], (self._space, scan.prefix, prefix_end(scan.prefix))
            )
            current = {key: (version, epoch) for key, version, epoch in rows}
            members = {key: (version, epoch) for key, version, epoch in scan.members}
            key = decide.first_difference(members, current)
            if key is not None:
                expected = members[key][0] if key in members else None
                return decide.scan_conflict(scan.prefix, expected, self._record(key))
        return None

    def _not_in_turn(self, plan: Plan) -> Refusal | None:
        for write in plan.writes:
            row = self._execute(SQL["first_ticket"], (self._space, write.key, self.now)).fetchone()
            if row is None:
                continue
            ticket, holder, expires, firm = row
            if ticket != plan.ticket and (plan.yields or firm):
                return decide.held(write.key, holder, (expires - self.now) / 1e6)
        return None

    def _apply(self, plan: Plan) -> Committed:
        reads = decide.reads_beyond(plan)
        reads_text = None if reads is None else json.dumps(reads, ensure_ascii=False)
        first = self._position + 1
        writes = []
        for write in plan.writes:
            version, epoch, _ = self._head(write.key)
            version, position = version + 1, self._position + 1
            self._execute(
                SQL["append_log"],
                (
                    self._space,
                    position,
                    write.key,
                    version,
                    epoch,
                    write.kind,
                    write.body,
                    plan.agent,
                    self.time,
                    plan.op_id,
                    reads_text,
                ),
            )
            live = int(write.kind != DELETE)
            self._execute(SQL["set_head"], (self._space, write.key, version, epoch, position, live))
            writes.append(Written(write.key, write.kind, version, epoch, position, write.body))
            self._position = position
        if plan.ticket:
            self._execute(SQL["drop_ticket"], (plan.ticket,))
            self._execute(SQL["drop_ticket_keys"], (self._space, plan.ticket))
        self.wrote = True
        return Committed(first, self.time, plan.agent, tuple(writes))

    def _head(self, key: str) -> tuple[int, ...]:
        """Version, epoch and whether the key exists, read once a plan."""
        head = self._heads.get(key)
        if head is None:
            head = self._execute(SQL["head"], (self._space, key)).fetchone() or _ABSENT
            self._heads[key] = head
        return head

    def _record(self, key: str) -> Record:
        row = self._execute(SQL["record"], (self._space, key)).fetchone()
        return record(row, self._uid)


def opening(connection: sqlite3.Connection, where: Where) -> tuple[int, int, int, int]:
    """Return the time now, position and time of the log's end, and whether any queue stands."""
    row = connection.execute(SQL["opening"], (where.space,)).fetchone()
    now, position, last, queues = row or connection.execute(SQL["first_opening"]).fetchone()
    return (now if where.clock is None else where.clock()), position, last, queues


def record(row: tuple[Any, ...], uid: str) -> Record:
    """Return the record of a row of the `record` family of statements."""
    key, body, version, epoch, agent, time, position, live = row
    if version is None:
        return absent(key, uid)
    value = json.loads(body) if live else None
    return Record(key, value, version, epoch, agent, time, position, bool(live), uid)


def applied(execute: Any, space: int, op_id: str) -> Committed | None:
    """Return the commit that an operation id already made, if it did."""
    rows = execute(SQL["entries_of_op"], (space, op_id)).fetchall()
    if not rows:
        return None
    writes = tuple(
        Written(key, kind, version, epoch, position, body)
        for key, kind, version, epoch, position, body, _, _ in rows
    )
    return Committed(rows[0][4], rows[0][6], rows[0][7], writes, replayed=True)
