"""The state of one transaction: what it read, what it will write, and the plan that follows.

Reads of a transaction are one consistent moment.  A later read that finds the space moved asks
for everything again in one snapshot; where nothing read so far has changed the moment moves
forward, otherwise the commit could only be refused and the conflict is reported at once.
"""

from __future__ import annotations

from itertools import chain

from interlock.core import decide
from interlock.core.documents import FILES, folders_of, in_the_way
from interlock.core.folding import ask
from interlock.core.keys import check_all, check_key
from interlock.core.merges import fold_items
from interlock.core.outcome import Conflict, Invalid, Refusal
from interlock.core.plan import APPEND, DELETE, PUT, Expect, Plan, Write
from interlock.core.records import Record, Snapshot, absent
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.values import decode

ENDED = Invalid("The transaction has ended. Begin another one.")


class Transaction:
    """What one transaction has read and will write.  Pure; one thread at a time.

    `recorded`: it is kept that it was done, so that one around it which runs again finds it done.
    """

    recorded = False

    def __init__(self, writer: decide.Writer) -> None:
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
        self.turns: frozenset[str] = frozenset()  # the keys that it is this transaction's turn for

    def load(self, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()) -> Steps[Refusal | None]:
        """Protocol: read what is not read yet, at one moment with the rest."""
        if self.ended:
            return ENDED
        wrong = check_all(keys, prefixes)
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
                seen[key] = self.read_records.get(key) or absent(key, self.writer.space)
        views = (self._overlaid(seen[key]) for key in sorted(seen))
        return {view.key: view for view in views if view.exists}

    def expect(self, record: Record) -> Refusal | None:
        """Expect at the commit that `record`, read outside the transaction, has not moved."""
        if self.ended:
            return ENDED
        return decide.own_record(self.writer, record) or self._expect(record)

    def write(self, record: Record, value: Json) -> Refusal | None:
        """Write `value` over `record` when the transaction commits."""
        if self.ended:
            return ENDED
        wrong = decide.own_record(self.writer, record)
        if wrong is not None:
            return wrong
        write = decide.write_of(self.writer, PUT, record.key, value)
        if isinstance(write, Invalid):
            return write
        refused = self._appended(record.key) or self._expect(record)
        if refused is None:
            self.writes[record.key] = write
        return refused

    def create(self, key: str, value: Json) -> Refusal | None:
        """Write `value` to a key that must not exist when the transaction commits."""
        if self.ended:
            return ENDED
        wrong = check_key(key)
        if wrong is not None:
            return wrong
        write = decide.write_of(self.writer, PUT, key, value)
        if isinstance(write, Invalid):
            return write
        known = self.read_records.get(key)
        view = self._overlaid(known or self.bases.get(key) or absent(key, self.writer.space))
        if view.exists:
            self.doomed = decide.conflict(Expect(key, None, None), view)
            return self.doomed
        if known is None and key not in self.foreign:
            self.foreign[key] = Expect(key, None, None)
        self.writes[key] = write
        return None

    def delete(self, record: Record) -> Refusal | None:
        """Delete the key of `record` when the transaction commits."""
        if self.ended:
            return ENDED
        wrong = decide.own_record(self.writer, record)
        if wrong is None and not record.exists:
            wrong = decide.nothing_to_delete(record.key)
        if wrong is not None:
            return wrong
        refused = self._appended(record.key) or self._expect(record)
        if refused is None:
            stored = self.read_records.get(record.key) or self.bases[record.key]
            if record.key in self.writes and not stored.exists:
                del self.writes[record.key]  # it was created here: nothing is left to do
            else:
                self.writes[record.key] = Write(DELETE, record.key, None)
        return refused

    def append(self, key: str, item: Json) -> Refusal | None:
        """Add a contribution to a merged key when the transaction commits."""
        if self.ended:
            return ENDED
        wrong = check_key(key)
        if wrong is not None:
            return wrong
        write = decide.write_of(self.writer, APPEND, key, item)
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
        None where there is none."""
        for record in (*self.read_records.values(), *chain(*self.read_scans.values())):
            value = record.value
            if record.body is None or not isinstance(value, dict | list):
                continue  # nothing that could be changed
            if record.key not in self.writes and decode(record.body) != value:
                return record.key
        return None

    def is_over(self, refusal: Refusal) -> bool:
        """Whether thinking again could not help, whoever moved what was read."""
        return False

    @property
    def changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.writes or self.appends)

    def decision(self, op_id: str) -> decide.Decision:
        """Return the plan, or what the rules of the keys say against it, or a forgotten write."""
        forgotten = self.changed_in_place()
        if forgotten is not None:
            return decide.forgot_write(forgotten)
        for write in (*self.writes.values(), *self.appends):
            base = self.bases.get(write.key) or absent(write.key, self.writer.space)
            item = decode(write.body) if write.kind == APPEND else None
            refused = decide.allowed(self.writer, base, write, item=item)
            if refused is not None:
                return refused
        return self._misplaced() or self.plan(op_id)

    def plan(self, op_id: str) -> Plan:
        """Return the plan: every record and prefix read is an expectation, and so is the place of
        every new document."""
        expects = {key: decide.expect(record) for key, record in self.read_records.items()}
        for key, expected in self.foreign.items():
            expects[key] = expected
        scans = {prefix: decide.scanned(prefix, found) for prefix, found in self.read_scans.items()}
        members = {record.key for records in self.read_scans.values() for record in records}
        deleted = {key: expects[key] for key, each in self.writes.items() if each.kind == DELETE}
        for key in self._new_documents():
            folders, inside = decide.place(key, deleted)
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
            if write.kind == PUT and write.key.startswith(FILES) and not self._stored(write.key)
        ]

    def _stored(self, key: str) -> bool:
        """Whether a key is known to exist in the store."""
        known = self.bases.get(key) or self.read_records.get(key)
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
        expected, key = decide.expect(record), record.key
        read, foreign = self.read_records.get(key), self.foreign.get(key)
        before = decide.expect(read) if read is not None else foreign
        if before is None:
            self.foreign[key] = expected
        elif before.version is None:
            if record.version and record.exists:  # it was created here, and exists elsewhere
                self.doomed = decide.conflict(before, record)
        elif before != expected:
            self.doomed = decide.conflict(before, record)
        self.bases.setdefault(
            key, read or (record if before is None else absent(key, record.space))
        )
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
            return record._replace(value=value, exists=True)
        if pending is None:
            return record
        exists = pending.kind == PUT
        return record._replace(value=decode(pending.body), exists=exists)

    def _moved(self, snapshot: Snapshot) -> Conflict | None:
        for key, record in self.read_records.items():
            now = snapshot.records[key]
            if (now.version, now.epoch) != (record.version, record.epoch):
                return decide.conflict(decide.expect(record), now)
        for prefix, records in self.read_scans.items():
            was = {r.key: (r.version, r.epoch) for r in records}
            found = {r.key: r for r in snapshot.scans[prefix]}
            now_there = {k: (r.version, r.epoch) for k, r in found.items()}
            changed = decide.first_difference(was, now_there)
            if changed is not None:
                expected = was[changed][0] if changed in was else None
                fresh = found.get(changed, absent(changed, self.writer.space))
                return decide.scan_conflict(prefix, expected, fresh)
        return None


def _mixed(key: str) -> Invalid:
    return Invalid(f"A transaction can append to {key!r} or delete it, not both.", key)
