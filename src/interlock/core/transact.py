"""The state of one transaction: what it read, what it will write, and the plan that follows.

Reads of a transaction are one consistent moment.  A later read that finds the space moved asks
for everything again in one snapshot; if nothing read so far has changed, the moment moves
forward, otherwise the commit could only be refused and the conflict is reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, wraps
from itertools import chain
from typing import Any, NamedTuple

from interlock.core import refusals
from interlock.core.document import expected_place, folders_of, in_the_way
from interlock.core.fold import Unfoldable, ask
from interlock.core.keys import check_all, decode
from interlock.core.merge import fold_items
from interlock.core.plan import (
    APPEND,
    DELETE,
    PUT,
    Expect,
    Plan,
    Write,
    expect,
    first_difference,
    scanned,
)
from interlock.core.records import Committed, Record, Snapshot, absent
from interlock.core.refusals import Conflict, Fenced, Held, Invalid, Outcome, Refusal
from interlock.core.requests import LeaveTurn, Load, LogPage, ReadLog, Steps, Think
from interlock.core.struct import Json
from interlock.core.turn import P, Turn, kept, renewal, with_turn
from interlock.core.types import Misfit, Shape
from interlock.core.update import Limits, check_limits, final_refusal, wait_turn
from interlock.core.write import (
    Decision,
    commit,
    forbidden_by_rule,
    forgot_write,
    nothing_to_delete,
    others_operation,
    own_record,
    records_of,
    reused_operation,
    write_over,
    write_to,
)
from interlock.core.writer import Writer

ENDED = Invalid("The transaction has ended. Begin another one.")


class Transaction:
    """What one transaction has read and will write.  Pure; one thread at a time.

    `recorded`: it is kept that it was done, so that one around it which runs again finds it done.
    """

    recorded = False

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.read_records: dict[str, Record] = {}
        self.read_scans: dict[str, tuple[Record, ...]] = {}
        self.foreign: dict[str, Expect] = {}
        self.writes: dict[str, Write] = {}
        self.appends: list[Write] = []
        self.bases: dict[str, Record] = {}
        self.position: int | None = None
        self.doomed: Conflict | None = None
        self.ended = False
        self.shown: list[tuple[Record, Shape[Any]]] = []  # typed, as they were given out
        self.turns: frozenset[str] = frozenset()  # the keys that it is this transaction's turn for

    def load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> Steps[Refusal | None]:
        """Protocol: read what is not read yet, at one moment with the rest."""
        if self.ended:
            return ENDED
        wrongs = (self.writer.check_key(key) for key in keys)
        wrong = next((each for each in wrongs if each), None) or check_all((), prefixes)
        if wrong is not None:
            return wrong
        keys = tuple(key for key in keys if key not in self.read_records)
        prefixes = tuple(prefix for prefix in prefixes if prefix not in self.read_scans)
        if not keys and not prefixes:
            return None
        snapshot = yield from ask(self.writer, Load(keys, prefixes))
        if self.position is not None and snapshot.position != self.position:
            everything = tuple(dict.fromkeys((*self.read_records, *keys)))
            snapshot = yield from ask(self.writer, Load(everything, (*self.read_scans, *prefixes)))
            self.doomed = self._moved(snapshot)
            if self.doomed is not None:
                return self.doomed
        self.position = snapshot.position
        self.read_records.update((key, snapshot.records[key]) for key in keys)
        self.read_scans.update((prefix, snapshot.scans[prefix]) for prefix in prefixes)
        return None

    def view(self, key: str) -> Record:
        """Return `key` as the transaction sees it: with its own pending write."""
        return self._overlaid(self.read_records[key])

    def view_scan(self, prefix: str) -> dict[str, Record]:
        """Return a scan as the transaction sees it: with its own pending writes."""
        seen = {record.key: record for record in self.read_scans[prefix]}
        for key in (*self.writes, *(write.key for write in self.appends)):
            if key.startswith(prefix) and key not in seen:
                seen[key] = self.read_records.get(key, absent(key, self.writer.space))
        views = (self._overlaid(seen[key]) for key in sorted(seen))
        return {view.key: view for view in views if view.exists}

    def expect(self, record: Record) -> Refusal | None:
        """Expect at the commit that `record`, read outside the transaction, has not moved."""
        if self.ended:
            return ENDED
        return own_record(self.writer, record) or self._expect(record)

    def write(self, record: Record, value: Json, expires: float | None = None) -> Refusal | None:
        """Write `value` over `record` when the transaction commits."""
        if self.ended:
            return ENDED
        write = write_over(self.writer, record, value, expires)
        if isinstance(write, Invalid):
            return write
        refused = self._appended(record.key) or self._expect(record)
        if refused is None:
            self.writes[record.key] = write
        return refused

    def create(self, key: str, value: Json, expires: float | None = None) -> Refusal | None:
        """Write `value` to a key that must not exist when the transaction commits."""
        if self.ended:
            return ENDED
        write = write_to(self.writer, PUT, key, value, expires)
        if isinstance(write, Invalid):
            return write
        known = self.read_records.get(key)
        base = self.bases.get(key, absent(key, self.writer.space)) if known is None else known
        view = self._overlaid(base)
        if view.exists:
            self.doomed = refusals.conflict(Expect(key, None, None), view)
            return self.doomed
        if known is None and key not in self.foreign:
            self.foreign[key] = Expect(key, None, None)
        self.writes[key] = write
        return None

    def delete(self, record: Record) -> Refusal | None:
        """Delete the key of `record` when the transaction commits."""
        if self.ended:
            return ENDED
        wrong = own_record(self.writer, record)
        if wrong is None and not record.exists:
            wrong = nothing_to_delete(record.key)
        if wrong is not None:
            return wrong
        refused = self._appended(record.key) or self._expect(record)
        if refused is None:
            stored = self.read_records.get(record.key, self.bases[record.key])
            if record.key in self.writes and not stored.exists:
                del self.writes[record.key]  # it was created here: nothing is left to do
            else:
                self.writes[record.key] = Write(DELETE, record.key, None)
        return refused

    def append(self, key: str, item: Json) -> Refusal | None:
        """Add a contribution to a merged key when the transaction commits."""
        if self.ended:
            return ENDED
        write = write_to(self.writer, APPEND, key, item)
        if isinstance(write, Invalid):
            return write
        if key in self.writes:
            return _mixed(key)
        self.appends.append(write)
        return None

    def touches(self, key: object) -> bool:
        """Whether the commit will be computed from `key`, or write it, or has the turn for it."""
        return isinstance(key, str) and (
            key in self.read_records
            or key in self.foreign
            or key in self.writes
            or key in self.turns
            or any(write.key == key for write in self.appends)
            or any(key.startswith(prefix) for prefix in self.read_scans)
        )

    def changed_in_place(self) -> str | None:
        """Return the first key that is not written though its value was changed after it was read;
        None if there is none."""
        for record in (*self.read_records.values(), *chain(*self.read_scans.values())):
            value = record.value
            if record.body is None or not isinstance(value, dict | list):
                continue  # nothing that could be changed
            if record.key not in self.writes and decode(record.body) != value:
                return record.key
        for record, shape in self.shown:
            if record.key not in self.writes and not _is_as_read(record, shape):
                return record.key
        return None

    def is_over(self, refusal: Refusal) -> bool:
        """Whether thinking again could not help, whoever moved what was read."""
        return False

    @property
    def changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.writes or self.appends)

    def decision(self, op_id: str) -> Decision:
        """Return the plan, or what the rules of the keys say against it, or a forgotten write."""
        forgotten = self.changed_in_place()
        if forgotten is not None:
            return forgot_write(forgotten)
        for write in (*self.writes.values(), *self.appends):
            base = self.bases.get(write.key, absent(write.key, self.writer.space))
            refused = forbidden_by_rule(self.writer, base, write)
            if refused is not None:
                return refused
        return self._misplaced() or self.plan(op_id)

    def plan(self, op_id: str) -> Plan:
        """Return the plan: every record and prefix read is an expectation, and so is the place of
        every new document."""
        expects = {key: expect(record) for key, record in self.read_records.items()}
        for key, expected in self.foreign.items():
            expects[key] = expected
        scans = {prefix: scanned(prefix, found) for prefix, found in self.read_scans.items()}
        members = {record.key for records in self.read_scans.values() for record in records}
        deleted = {key: expects[key] for key, each in self.writes.items() if each.kind == DELETE}
        for key in self._new_documents():
            folders, inside = expected_place(key, deleted)
            for folder in folders:
                expects.setdefault(folder.key, folder)
            for scan in inside:
                scans.setdefault(scan.prefix, scan)
        return self.writer.plan(
            op_id,
            expects=(e for key, e in expects.items() if key not in members or key in self.writes),
            scans=scans.values(),
            writes=(*(self.writes[key] for key in sorted(self.writes)), *self.appends),
            transaction=True,
        )

    def _new_documents(self) -> list[str]:
        """Return the keys of the documents that are made where none is stored."""
        return [
            write.key
            for write in self.writes.values()
            if write.kind == PUT
            and self.writer.is_document(write.key)
            and not self._stored(write.key)
        ]

    def _stored(self, key: str) -> bool:
        """Whether a key is known to exist in the store."""
        known = self.bases.get(key, self.read_records.get(key))
        return known is not None and known.body is not None

    def _misplaced(self) -> Invalid | None:
        """Return why a new document cannot be where it is to be, for all that is known here."""
        new = self._new_documents()
        if not new:
            return None
        scanned = (record.key for record in chain(*self.read_scans.values()))
        known = {key for key in (*self.read_records, *self.bases) if self._stored(key)}
        known = known.union(scanned, self.writes)
        known -= {write.key for write in self.writes.values() if write.kind == DELETE}
        for key in sorted(known):
            for folder in folders_of(key):
                if folder in known and (key in new or folder in new):
                    return in_the_way(key, folder)
        return None

    def _expect(self, record: Record) -> Conflict | None:
        """Expect `record`; two versions of one key in a transaction can only conflict."""
        expected, key = expect(record), record.key
        read, foreign = self.read_records.get(key), self.foreign.get(key)
        before = expect(read) if read is not None else foreign
        if before is None:
            self.foreign[key] = expected
        elif before.version is None:
            if record.version and record.exists:  # it was created here, and exists elsewhere
                self.doomed = refusals.conflict(before, record)
        elif before != expected and (record.expires_us or _differ(before, expected)):
            # But for what this transaction will write itself over a value that has expired.
            self.doomed = refusals.conflict(before, record)
        if read is None:
            read = record if before is None else absent(key, record.space)
        self.bases.setdefault(key, read)
        return self.doomed

    def _appended(self, key: str) -> Invalid | None:
        """Return why a key cannot be written here: contributions to it are pending."""
        return _mixed(key) if any(write.key == key for write in self.appends) else None

    def _overlaid(self, record: Record) -> Record:
        pending = self.writes.get(record.key)
        items = [decode(write.body) for write in self.appends if write.key == record.key]
        reducer = self.writer.book.rules.reducer(record.key) if items else None
        if reducer is not None:
            value = fold_items(reducer, items, record.value, record.exists)
            return record._replace(value=value, exists=True, expires_us=0)
        if pending is None:
            return record
        exists = pending.kind == PUT
        return record._replace(value=decode(pending.body), exists=exists, expires_us=0)

    def _moved(self, snapshot: Snapshot) -> Conflict | None:
        for key, record in self.read_records.items():
            now = snapshot.records[key]
            if expect(now) != expect(record):
                return refusals.conflict(expect(record), now)
        for prefix, records in self.read_scans.items():
            was = {r.key: (r.version, r.epoch) for r in records}
            found = {r.key: r for r in snapshot.scans[prefix]}
            now_there = {k: (r.version, r.epoch) for k, r in found.items()}
            changed = first_difference(was, now_there)
            if changed is not None:
                expected = was[changed][0] if changed in was else None
                fresh = found.get(changed, absent(changed, self.writer.space))
                return refusals.scan_conflict(prefix, expected, fresh)
        return None


def _differ(one: Expect, other: Expect) -> bool:
    return one._replace(expired=False) != other._replace(expired=False)


def _is_as_read(record: Record, shape: Shape[Any]) -> bool:
    """Whether a typed value is still the one that it was read as."""
    if record.body is None or not record.exists:
        return True
    try:
        return bool(shape.encode(record.value) == shape.encode(shape.decode(decode(record.body))))
    except Misfit:
        return False


def _mixed(key: str) -> Invalid:
    return Invalid(f"A transaction can append to {key!r} or delete it, not both.", key)


def commit_transaction(state: Transaction, op_id: str) -> Steps[Outcome]:
    """Commit a transaction once.  Returns Committed, or a Refusal."""
    if state.doomed is not None:
        return state.doomed
    if not state.changes:
        forgotten = state.changed_in_place()
        if forgotten is not None:
            return forgot_write(forgotten)
        return Committed(state.position or 0, 0, state.writer.agent, ())
    return (yield from commit(state.writer, lambda: state.decision(op_id)))


def write_all(
    writer: Writer, fill: Callable[[Transaction], Iterable[Refusal | None]], op_id: str
) -> Steps[dict[str, Record] | Refusal]:
    """Protocol: commit what `fill(transaction)` writes, in one commit.  Returns the new records."""
    state = Transaction(writer)
    for refused in fill(state):
        if refused is not None:
            return refused
    outcome = yield from commit_transaction(state, op_id)
    if isinstance(outcome, Refusal):
        return outcome
    return {record.key: record for record in records_of(outcome, writer.space)}


def _stopping(protocol: Callable[P, Steps[object]]) -> Callable[P, Steps[object]]:
    """Make a key that cannot be folded here a refusal, and not an answer of `fn`."""

    @wraps(protocol)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Steps[object]:
        try:
            return (yield from protocol(*args, **kwargs))
        except Unfoldable as problem:
            return Stopped(problem.refusal)

    return steps


@_stopping
@with_turn
def transact(
    turn: Turn,
    writer: Writer,
    begin: Callable[[Transaction], object],
    fn: Callable[[Any], object],
    limits: Limits,
    op_id: str,
    resumable: bool,
    new: Callable[[Writer], Transaction] = Transaction,
) -> Steps[object]:
    """Run `fn` in a transaction and commit; run it again if what it read has moved.

    Returns what `fn` returned, or a Refusal wrapped in `Stopped`.  `begin` makes the object that
    `fn` is given out of the transaction's state, and `new` that state.
    """
    wrong = check_limits(limits)
    if wrong is not None:
        return Stopped(wrong)
    turn.patience = limits.patience
    if resumable or limits.patience is not None:
        snapshot = yield from Load((), (), op_id if resumable else None)
        if snapshot.applied is not None:
            return (yield from _transacted_before(writer, op_id, snapshot.applied))
        turn.began_us = snapshot.time_us
    queue: set[str] = set()
    ticket = attempts = 0
    while True:
        if queue and not ticket:
            turn.name, keys = f"{op_id}/{attempts}", tuple(sorted(queue))
            place = yield from wait_turn(writer, keys, turn, attempts)
            if isinstance(place, Refusal):
                return Stopped(place)
            ticket = place.ticket
        attempts += 1
        state = new(writer)
        state.turns = frozenset(queue)
        renew = renewal(writer, tuple(sorted(queue)), turn, ticket) if ticket else None
        answer = None
        try:
            answer = yield Think(fn, (begin(state),), renew)
        except Exception:
            if state.doomed is None:
                raise  # otherwise it comes of a read that was refused: think again
        finally:
            state.ended = True
        outcome = state.doomed or (
            yield from _commit_thought(state, answer, op_id, ticket, limits.turns != "never")
        )
        if isinstance(outcome, Committed):
            if ticket and not outcome.writes:
                yield LeaveTurn(ticket)
            return answer if _is_ours(state, op_id, outcome) else None
        key = getattr(outcome, "key", "")
        give_up = (
            outcome if state.is_over(outcome) else final_refusal(key, outcome, limits, attempts)
        )
        if give_up is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return Stopped(give_up)
        assert isinstance(outcome, Conflict | Held | Fenced)
        if ticket and (outcome.key not in queue or isinstance(outcome, Held)):
            yield LeaveTurn(ticket)
            ticket = 0
        if ticket:
            place = yield from renewal(writer, tuple(sorted(queue)), turn, ticket, firm=True)
            ticket, _ = kept(place, outcome.key, None)
        elif limits.turns != "never":
            queue.add(outcome.key)


def _transacted_before(writer: Writer, op_id: str, applied: Committed) -> Steps[Stopped | None]:
    """Return None for what was applied under an operation id; Stopped if that is no transaction
    of this writer's."""
    other = others_operation(writer, op_id, applied)
    if other is None and len(applied.writes) == 1:
        page = yield from ReadLog(after=applied.position - 1, limit=1)
        if isinstance(page, LogPage) and page.entries and page.entries[0].reads is None:
            other = reused_operation(op_id, applied.writes[0].key)
    return None if other is None else Stopped(other)


class Stopped(NamedTuple):
    """A transaction that ended in a refusal; told apart from any value that `fn` may return."""

    refusal: Refusal


def _commit_thought(
    state: Transaction, answer: object, op_id: str, ticket: int, gives_way: bool
) -> Steps[Outcome]:
    if not state.changes:
        forgotten = state.changed_in_place() if answer is None else None
        if forgotten is not None:
            return forgot_write(forgotten)
        return Committed(0, 0, state.writer.agent, ())
    decision = partial(state.decision, op_id)
    return (yield from commit(state.writer, decision, False, ticket, gives_way))


def _is_ours(state: Transaction, op_id: str, outcome: Committed) -> bool:
    """Whether what was committed is this thought, and not another one under the same id."""
    if not outcome.replayed:
        return True
    bodies = [write.body for write in state.plan(op_id).writes]
    done = outcome.writes
    return len(bodies) == len(done) and all(
        body == each.body or each.erased for body, each in zip(bodies, done, strict=True)
    )
