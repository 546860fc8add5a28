"""The atomic step: judges plans and applies them inside one transaction that the caller opened."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from interlock.backends.answers import CONTRIBUTIONS, expired
from interlock.backends.contract import dropped
from interlock.backends.sqlite.statements import SQL
from interlock.core import refusals
from interlock.core.keys import prefix_end
from interlock.core.plan import APPEND, DELETE, PUT, Plan, first_difference
from interlock.core.records import Committed, Record, Tail, Written, absent
from interlock.core.refusals import Outcome, Refusal
from interlock.core.rules import RULES_KEY
from interlock.core.write import reused_operation

_POSITION_BITS = 40


def host_clock() -> int:
    """Microseconds since 1970.  Every process on a file is on one host, so this is the store's."""
    return time.time_ns() // 1000


class Where(NamedTuple):
    """A space inside a store.

    `clock` is the store's, in microseconds.  The ids of the space's log rows are above `first`
    and up to `last`.  `place` names the store in messages.
    """

    space: int
    uid: str
    clock: Callable[[], int]
    first: int
    last: int
    place: str


def locate(space: int, uid: str, clock: Callable[[], int] | None, place: str) -> Where:
    """Return where a space is, from its row."""
    first = space << _POSITION_BITS
    return Where(space, uid, clock or host_clock, first, first + (1 << _POSITION_BITS) - 1, place)


_Head = tuple[int, int, int]  # version, epoch, live
_ABSENT: _Head = (0, 0, 0)
_LIVE = {PUT: 1, APPEND: CONTRIBUTIONS, DELETE: 0}
TICKETS, LEASES, INCARNATIONS = 1, 2, 4  # what there is any of


class Step:
    """One open transaction on one space, in which `plans` are judged one after the other.

    Each is judged against what the store holds and what the plans before it wrote.  Rows are
    gathered and written by `flush`, many at once.
    """

    def __init__(self, connection: sqlite3.Connection, where: Where, plans: Sequence[Plan]) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._where = where
        self._space = where.space
        self.now, self._position, last, self._flags = opening(connection, where)
        self.time = max(self.now, last)  # times never fall along the log, whatever the clock does
        self._heads: dict[str, _Head] = {}
        self._known: set[str] = set()
        self._leases: dict[str, tuple[int, str, int, int]] = {}
        self._incarnations: dict[str, int] = {}
        self._log_rows: list[tuple[object, ...]] = []
        self._head_rows: dict[str, tuple[object, ...]] = {}
        self.wrote = False
        self._prefetch(plans)

    def commit(self, plan: Plan, reads: str | None) -> Outcome:
        """Judge one plan, and apply it where nothing stands against it."""
        answer = self.judge(plan)
        if answer is None:
            return self._apply(plan, reads)
        if plan.ticket and plan.op_id in self._known:
            self._drop_ticket(plan.ticket)  # applied by another sending, which had no ticket
        return answer

    def judge(self, plan: Plan) -> Outcome | None:
        """Return the answer to a plan that need not be applied: refused, or applied before."""
        replayed = self._applied(plan) if plan.op_id in self._known else None
        if replayed is not None:
            return replayed
        refusal = self._replaced(plan) if self._flags & INCARNATIONS else None
        if refusal is None and self._leases:
            refusal = self._leased_away(plan)
        refusal = refusal or self._fenced(plan) or self._outdated(plan) or self._moved(plan)
        if refusal is None and plan.scans:
            refusal = self._scan_moved(plan)
        if refusal is None and self._flags & TICKETS:
            refusal = self._not_in_turn(plan)
        return refusal

    def flush(self) -> None:
        """Write the rows of the plans that were applied."""
        if self._log_rows:
            self._connection.executemany(SQL["append_log"], self._log_rows)
            self._connection.executemany(SQL["set_head"], self._head_rows.values())
            self._log_rows, self._head_rows = [], {}

    def _prefetch(self, plans: Sequence[Plan]) -> None:
        """Read every head and operation id that the plans name."""
        keys = {e.key for plan in plans for e in plan.expects}
        keys.update(w.key for plan in plans for w in plan.writes)
        if len(plans) == len(keys) == 1:
            (key,), op_id = keys, plans[0].op_id
            row = self._execute(SQL["head_and_op"], (self._space, key, op_id)).fetchone()
            version, epoch, live, known, rules = row
            self._heads[key] = _ABSENT if version is None else (version, epoch, live)
            if rules is not None:
                self._heads.setdefault(RULES_KEY, (rules, 0, 1))
            if known:
                self._known.add(op_id)
        else:
            names = json.dumps([*keys, RULES_KEY])
            for key, *head in self._execute(SQL["heads"], (names, self._space)):
                self._heads[key] = tuple(head)
            ops = json.dumps([plan.op_id for plan in plans])
            self._known = {op for (op,) in self._execute(SQL["known_ops"], (ops, self._space))}
        if self._flags & LEASES:
            names = json.dumps([*keys])
            for key, *lease in self._execute(SQL["leases"], (names, self._space)):
                self._leases[key] = tuple(lease)
        if self._flags & INCARNATIONS:
            names = json.dumps([plan.agent for plan in plans])
            self._incarnations = dict(
                self._execute(SQL["incarnations"], (names, self._space)).fetchall()
            )

    def _applied(self, plan: Plan) -> Outcome | None:
        self.flush()
        done = applied(self._execute, self._space, plan.op_id)
        if done is None:
            return None
        if [(w.kind, w.key) for w in done.writes] != [(w.kind, w.key) for w in plan.writes]:
            return reused_operation(plan.op_id, plan.writes[0].key)
        return done

    def _replaced(self, plan: Plan) -> Refusal | None:
        """Compare the incarnation of the agent's name."""
        current = self._incarnations.get(plan.agent, 0)
        if plan.incarnation != current:
            return refusals.replaced(plan.agent, plan.incarnation, current)
        return None

    def _leased_away(self, plan: Plan) -> Refusal | None:
        """Refuse writers without the lease; whoever had it before is told by the epoch."""
        for write in plan.writes:
            lease = self._leases.get(write.key)
            if lease is not None and write.key not in plan.leased:
                _, holder, renewed, expires = lease
                if alive(renewed, expires, self.now):
                    return refusals.leased_to(write.key, holder, (expires - self.now) / 1e6)
        return None

    def _fenced(self, plan: Plan) -> Refusal | None:
        """Compare the epoch of every expected record."""
        for expected in plan.expects:
            epoch = self._heads.get(expected.key, _ABSENT)[1]
            if expected.epoch is not None and expected.epoch != epoch:
                return refusals.fenced(expected.key, expected.epoch, epoch)
        return None

    def _outdated(self, plan: Plan) -> Refusal | None:
        """Compare the version of the rules that the plan was decided under."""
        version = self._heads.get(RULES_KEY, _ABSENT)[0]
        if plan.rules == version:
            return None
        return refusals.outdated(plan.rules, self._record(RULES_KEY))

    def _moved(self, plan: Plan) -> Refusal | None:
        """Compare the version of every expected record."""
        for expected in plan.expects:
            version, _, live = self._heads.get(expected.key, _ABSENT)
            gone = expired(live, self.now)
            live = 0 if gone else live
            moved = live if expected.version is None else version != expected.version
            if expected.version is not None:
                moved = moved or gone != expected.expired
            if moved:
                return refusals.conflict(expected, self._record(expected.key))
        return None

    def _scan_moved(self, plan: Plan) -> Refusal | None:
        self.flush()
        for scan in plan.scans:
            rows = self._execute(
                SQL["scan_versions"],
                (self._space, scan.prefix, prefix_end(scan.prefix), self.now),
            )
            current = {key: (version, epoch) for key, version, epoch in rows}
            members = {key: (version, epoch) for key, version, epoch in scan.members}
            key = first_difference(members, current)
            if key is not None:
                expected = members[key][0] if key in members else None
                return refusals.scan_conflict(scan.prefix, expected, self._record(key))
        return None

    def _not_in_turn(self, plan: Plan) -> Refusal | None:
        for write in plan.writes:
            row = self._execute(SQL["first_ticket"], (self._space, write.key, self.now)).fetchone()
            if row is None:
                continue
            ticket, holder, expires, firm = row
            if ticket != plan.ticket and (plan.gives_way or firm):
                return refusals.held(write.key, holder, (expires - self.now) / 1e6)
        return None

    def _apply(self, plan: Plan, reads: str | None) -> Committed:
        space, agent, op_id, now = self._space, plan.agent, plan.op_id, self.time
        position = self._position
        writes = []
        for kind, key, body, ttl_us in plan.writes:
            version, epoch, _ = self._heads.get(key, _ABSENT)
            version, position, live = version + 1, position + 1, _LIVE[kind]
            expires = now + ttl_us if ttl_us else 0
            live = expires or live
            entry = self._where.first + position
            if key in self._leases:
                epoch = self._written_leased(plan, key, epoch)
            if kind == DELETE and self._heads.get(key, _ABSENT)[2] == CONTRIBUTIONS:
                self._execute(SQL["save_fold"], (space, key, entry, None))
            self._log_rows.append(
                (
                    *(entry, space, key, version, epoch, kind, body, agent, now, op_id, reads),
                    expires or None,
                )
            )
            self._head_rows[key] = (space, key, version, epoch, entry, live)
            self._heads[key] = (version, epoch, live)
            writes.append(Written(key, kind, version, epoch, position, body, expires))
        if plan.ticket:
            self._drop_ticket(plan.ticket)
        self._position = position
        self._known.add(op_id)
        self.wrote = True
        return Committed(writes[0].position, now, agent, tuple(writes))

    def _written_leased(self, plan: Plan, key: str, epoch: int) -> int:
        """Return the epoch of a key that is written.  Writing over a lease that has expired takes
        it away: its holder is fenced from here on."""
        if key in plan.leased:
            return epoch
        leased_at = self._leases.pop(key)[0]
        self._execute(SQL["drop_lease"], (self._space, key, epoch))
        return epoch + 1 if leased_at == epoch else epoch  # a reclaim has raised it already

    def _drop_ticket(self, ticket: int) -> None:
        dropped = drop_ticket(self._connection, self._where, ticket)
        self.wrote = self.wrote or dropped

    def _record(self, key: str) -> Record:
        self.flush()
        return read_record(self._connection, self._where, key, self.now)


def opening(connection: sqlite3.Connection, where: Where) -> tuple[int, int, int, int]:
    """Return the time now, position and time of the log's end, and what there is any of."""
    row = connection.execute(SQL["opening"], (where.first, where.last)).fetchone()
    if row is None:  # an empty log, or that of a space that was dropped
        flags = connection.execute(SQL["first_opening"], (where.space,)).fetchone()
        if flags is None:
            raise dropped(where.place)
        return where.clock(), 0, 0, flags[0]
    return where.clock(), row[0] - where.first, row[1], row[2]


def trimmed(connection: sqlite3.Connection, where: Where) -> int:
    """Return the position that the log is cut up to, 0 where it is whole.  Raises Dropped."""
    row = connection.execute(SQL["trimmed"], (where.space,)).fetchone()
    if row is None:
        raise dropped(where.place)
    position: int = row[0]
    return position


def alive(renewed: int, expires: int, now: int) -> bool:
    """Whether a lease or a ticket holds.  One renewed in the future is dead: the clock stepped
    back."""
    return expires > now and renewed <= now + 1_000_000


def record(
    connection: sqlite3.Connection,
    where: Where,
    row: tuple[Any, ...],
    now: int,
    last: int | None = None,
) -> Record:
    """Return the record of a row of the `record` family of statements, at the time `now`, as of log
    row `last`."""
    key, body, version, epoch, agent, time, position, live = row
    if not version:
        return absent(key, where.uid, epoch or 0)
    if live == CONTRIBUTIONS:
        tail = contributions(connection, where, key, last)
        return Record(key, tail, version, epoch, agent, time, position, True, where.uid)
    plain = (version, epoch, agent, time, position)
    expires = live if live > CONTRIBUTIONS else 0
    if not live or expired(live, now):
        return Record(key, None, *plain, False, where.uid, None, expires)
    if body is None:
        return Record(key, None, *plain, False, where.uid, None, expires, erased=True)
    return Record(key, json.loads(body), *plain, True, where.uid, body, expires)


def read_record(
    connection: sqlite3.Connection, where: Where, key: str, now: int | None = None
) -> Record:
    """Return the record of a key as it is now."""
    row = connection.execute(SQL["record"], (where.space, key)).fetchone()
    found = record(connection, where, row, where.clock() if now is None else now)
    if isinstance(found.value, Tail):  # as servers answer it: such a fold is not kept
        found = found._replace(value=found.value._replace(erasures=None))
    return found


def drop_ticket(connection: sqlite3.Connection, where: Where, ticket: int) -> bool:
    """Give up a place in the queues; say whether it was there."""
    dropped = connection.execute(SQL["drop_ticket"], (ticket,)).rowcount
    connection.execute(SQL["drop_ticket_keys"], (where.space, ticket))
    connection.execute(SQL["drop_ticket_holds"], (ticket,))
    return dropped > 0


def contributions(connection: sqlite3.Connection, where: Where, key: str, last: int | None) -> Tail:
    """Return what the value of a merged key is folded from, now or as of log row `last`."""
    execute, space = connection.execute, where.space
    base, after = None, where.first
    saved = execute(SQL["fold"], (space, key)).fetchone()
    if saved is not None and (last is None or saved[0] <= last):
        after, base = saved
    elif last is not None:
        started = execute(SQL["fold_start"], (space, key, last)).fetchone()
        after, base = started or (after, base)
    window = (space, key, after, where.last if last is None else last)
    items, length = execute(SQL["contributions"], window).fetchone()
    return Tail(base, items, length, rules_version(connection, where), erasures(connection, where))


def erasures(connection: sqlite3.Connection, where: Where) -> int:
    """Return the number of steps that have erased values of the space."""
    found: int = connection.execute(SQL["erasures"], (where.space,)).fetchone()[0]
    return found


def rules_version(connection: sqlite3.Connection, where: Where) -> int:
    """Return the version of the rules in force."""
    row = connection.execute(SQL["head"], (where.space, RULES_KEY)).fetchone()
    return row[0] if row else 0


def applied(
    execute: Callable[[str, tuple[int, str]], sqlite3.Cursor], space: int, op_id: str
) -> Committed | None:
    """Return the commit that an operation id already made, if it did."""
    rows = execute(SQL["entries_of_op"], (space, op_id)).fetchall()
    if not rows:
        return None
    writes = tuple(
        Written(key, kind, version, epoch, position, body, expires)
        for key, kind, version, epoch, position, body, expires, _, _ in rows
    )
    return Committed(rows[0][4], rows[0][7], rows[0][8], writes, replayed=True)


def judge_all(
    connection: sqlite3.Connection, where: Where, plans: Sequence[tuple[int, Plan]]
) -> dict[int, Outcome]:
    """Return the refusals of those plans that would be refused, by number."""
    step = Step(connection, where, [plan for _, plan in plans])
    found = {index: step.judge(plan) for index, plan in plans}
    return {index: answer for index, answer in found.items() if isinstance(answer, Refusal)}


def apply_all(
    connection: sqlite3.Connection,
    where: Where,
    plans: Callable[[], Sequence[tuple[Plan, str | None]]],
) -> list[Outcome]:
    """Judge and apply plans one after the other, each on its own.

    With each comes `answers.reads_of` it: what takes long is done before the lock is taken.
    """
    step = Step(connection, where, [plan for plan, _ in plans()])
    answers = [step.commit(plan, reads) for plan, reads in plans()]
    if step.wrote:
        step.flush()
    else:
        connection.execute("ROLLBACK")
    return answers
