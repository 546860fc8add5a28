"""Checks a store against itself: what an edit by hand, a bad disk or a bad restore leaves behind.

The log is read once, from the oldest entry that is kept, through the same requests that everybody
uses.  Positions must be gapless, the versions of a key consecutive, epochs and times must not
fall, an operation id stands for one commit, and what a commit says that it was computed from must
have been there.  Then every key must be as its last entry left it, and every operation must answer
as it is logged.

An edit that keeps all this, such as another text in a value, shows only against a digest of the
log that was taken before: pass an earlier report as `against`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from interlock import Json, Space
from interlock.core.merge import fold_items
from interlock.core.records import Entry, Record, Tail
from interlock.core.refusals import Pruned, text_of
from interlock.core.requests import Load, LogPage, ReadLog
from interlock.errors import Corrupt, Invalid

_PAGE = 1000
_KEYS = 200  # of one request
_CATCH_UPS = 50  # while others go on committing
_OF_DIGEST = 10  # fields of an entry
_MOST = 100  # problems that are kept; the others are counted
_KINDS = ("put", "append", "delete")


class Problem(NamedTuple):
    """One disagreement: `position` and `key` are those of the entry, where there is one."""

    message: str
    key: str | None = None
    position: int | None = None


class StoreReport(NamedTuple):
    """What was found.  `digest` is the SHA-256 of the entries from `first` to `position`.

    `found` counts the problems, `problems` holds the first hundred.  `undecided` says what could
    not be checked, and why.
    """

    space: str
    first: int
    position: int
    keys: int
    digest: str
    found: int
    problems: tuple[Problem, ...]
    undecided: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was checked and agrees."""
        return not self.found and not self.undecided

    def to_json(self) -> dict[str, Json]:
        """Return the report as an object that `check_store` takes as `against`."""
        problems = [problem._asdict() for problem in self.problems]
        return {**self._asdict(), "ok": self.ok, "problems": problems}


def check_store(
    space: Space,
    against: Mapping[str, Json] | None = None,
    told: Callable[[int, int], None] | None = None,
) -> StoreReport:
    """Check that the log of `space`, its keys and its operations agree.

    `against` is an earlier report of the same space (`StoreReport.to_json`), whose digest must
    still be that of the entries it was made of.  `told` is called with how many entries are
    checked and how many there are.  Others may go on committing.

    Raises Invalid where `against` is no report of this space, and the faults.
    """
    return _Check(space, against, told or (lambda done, all: None)).report()


class _Check:
    def __init__(
        self, space: Space, against: Mapping[str, Json] | None, told: Callable[[int, int], None]
    ) -> None:
        self._perform = space.session.driver.answer
        self._rules = space.session.writer.book.rules
        self._uid = space.session.writer.space
        self._told = told
        self._problems: list[Problem] = []
        self._found = 0
        self._undecided: list[str] = []
        self._first: int | None = None
        self._upto = 0
        self._time_us = 0
        self._last: dict[str, Entry] = {}
        self._folds: dict[str, Json] = {}  # of merged keys whose first contribution is kept
        self._operations: dict[str, list[Entry]] = {}
        self._digest = hashlib.sha256()
        self._any_erased = False
        self._expected = self._earlier(against)

    def report(self) -> StoreReport:
        try:
            for _ in self._read(None):
                pass
            if self._expected is not None and self._expected[1] > self._upto:
                self._wrong(f"the log ended at {self._expected[1]} before, now at {self._upto}")
            for keys in _some(sorted(self._last), _KEYS):
                self._check_keys(keys)
            self._check_others()
            for op_id, entries in self._operations.items():
                self._check_operation(op_id, entries)
        except (Corrupt, ValueError, TypeError) as problem:  # no JSON, or nothing at all
            self._wrong(f"after position {self._upto} something cannot be read: {problem}")
        return StoreReport(
            self._uid,
            1 if self._first is None else self._first,
            self._upto,
            len(self._last),
            self._digest.hexdigest(),
            self._found,
            tuple(self._problems),
            tuple(self._undecided),
        )

    def _wrong(self, message: str, entry: Entry | None = None, key: str | None = None) -> None:
        self._found += 1
        if len(self._problems) < _MOST:
            key = key if entry is None else entry.key
            self._problems.append(Problem(message, key, None if entry is None else entry.position))

    # The log

    def _read(self, upto: int | None) -> Iterator[None]:
        """Check the entries that were not read yet, up to position `upto` (None: as far as the
        log goes now)."""
        while upto is None or self._upto < upto:
            after = -1 if self._first is None else self._upto
            page: LogPage = self._perform(ReadLog(after=after, limit=_PAGE))
            if isinstance(page, Pruned):
                self._undecided.append("the log was trimmed while it was read; check again")
                return
            if upto is None:
                upto = page.head
            for entry in page.entries:
                self._check_entry(entry)
            if not page.entries or self._upto > page.head:
                if self._upto < page.head:
                    self._wrong(f"the log ends at {self._upto}, but should at {page.head}")
                return
            self._told(self._upto, page.head)
            yield

    def _check_entry(self, entry: Entry) -> None:
        if self._first is None:
            self._first = entry.position
            if self._expected is not None and self._first != self._expected[0]:
                self._undecided.append("the log was trimmed since the earlier report was made")
                self._expected = None
        elif entry.position != self._upto + 1:
            self._wrong(f"position {self._upto} is followed by {entry.position}", entry)
        if entry.kind not in _KINDS:
            self._wrong(f"{entry.kind!r} is no kind of an entry", entry)
        if entry.time_us < self._time_us:
            self._wrong("the time is before that of the entry before", entry)
        before = self._last.get(entry.key)
        version = 0 if before is None else before.version
        if entry.version != version + 1 and (before is not None or self._first == 1):
            self._wrong(f"version {version} of {entry.key!r} is followed by {entry.version}", entry)
        if before is not None and entry.epoch < before.epoch:
            self._wrong(f"the epoch of {entry.key!r} falls to {entry.epoch}", entry)
        self._check_operation_id(entry)
        self._check_reads(entry)
        self._fold(entry, before)
        self._last[entry.key] = entry
        self._upto, self._time_us = entry.position, entry.time_us
        text = json.dumps(entry[:_OF_DIGEST], sort_keys=True, separators=(",", ":"))
        self._digest.update(text.encode())
        self._any_erased = self._any_erased or entry.erased
        if self._expected is not None and self._upto == self._expected[1]:
            if self._digest.hexdigest() == self._expected[2]:
                pass
            elif self._any_erased:
                self._undecided.append("values were erased since the earlier report, perhaps")
            else:
                self._wrong(f"entries up to {self._upto} were changed since the earlier report")
            self._expected = None

    def _check_operation_id(self, entry: Entry) -> None:
        same = self._operations.setdefault(entry.op_id, [])
        if same:
            last = same[-1]
            if (last.position + 1, last.agent, last.time_us) != (
                entry.position,
                entry.agent,
                entry.time_us,
            ):
                self._wrong(f"operation id {entry.op_id!r} stands for two commits", entry)
        same.append(entry)

    def _check_reads(self, entry: Entry) -> None:
        """What the commit was computed from, besides the keys that it wrote, was there then."""
        for name, read in (entry.reads or {}).items():
            for key, version in read.items() if isinstance(read, dict) else ((name, read),):
                last = self._before(key, entry.op_id)
                if last is not None and last != version:
                    self._wrong(f"it was computed from version {version} of {key!r}", entry)

    def _before(self, key: str, op_id: str) -> int | None:
        """The version of a key before a commit, None where that is not known."""
        last = self._last.get(key)
        if last is not None and last.op_id != op_id:
            return last.version
        return 0 if last is None and self._first == 1 else None

    def _fold(self, entry: Entry, before: Entry | None) -> None:
        """Fold a merged key along with its entries."""
        if entry.kind != "append":
            self._folds.pop(entry.key, None)
            return
        reducer = self._rules.reducer(entry.key)
        begins = entry.version == 1 if before is None else before.kind == "delete"
        started = entry.key in self._folds
        if reducer is not None and (begins or started):
            try:
                items = [] if entry.erased else [entry.value]
                fold = fold_items(reducer, items, self._folds.get(entry.key), started)
            except Exception as problem:
                self._wrong(f"{reducer.name!r} cannot fold it: {text_of(problem)}", entry)
                self._folds.pop(entry.key, None)
            else:
                self._folds[entry.key] = fold

    # The keys

    def _check_keys(self, keys: tuple[str, ...]) -> None:
        for _ in range(_CATCH_UPS):
            found = self._perform(Load(keys))
            if found.position <= self._upto:
                break
            for _ in self._read(found.position):
                pass
        else:
            self._undecided.append(
                f"{keys[0]!r} and others: commits came faster than they are read"
            )
            return
        if found.position < self._upto:
            self._wrong(f"the log should end at {found.position}, but ends at {self._upto}")
        for key in keys:
            self._check_key(found.records[key], self._last[key])

    def _check_key(self, record: Record, last: Entry) -> None:
        is_ = (record.version, record.position, record.exists, record.writer, record.time_us)
        was = (last.version, last.position, _exists(last), last.agent, last.time_us)
        erased = (record.erased, last.erased and last.kind == "put")
        for name, now, logged in (
            *zip(("version", "position", "existence", "writer", "time"), is_, was, strict=True),
            ("erasure", *erased),
        ):
            if now != logged:
                self._wrong(f"{name} of {record.key!r} is {now!r}, by the log {logged!r}", last)
        if record.epoch < last.epoch:
            self._wrong(f"epoch of {record.key!r} is {record.epoch}, in the log {last.epoch}", last)
        if last.kind == "put" and record.exists and record.value != last.value:
            self._wrong(f"the value of {record.key!r} is not what was logged", last)
        if last.kind == "append" and isinstance(record.value, Tail):
            self._check_fold(record, record.value, last)

    def _check_fold(self, record: Record, tail: Tail, last: Entry) -> None:
        reducer = self._rules.reducer(record.key)
        if reducer is None:
            self._undecided.append(
                f"{record.key!r}: open the space with the rules that hold its reducer"
            )
        elif record.key in self._folds:
            try:
                base = None if tail.base is None else json.loads(tail.base)
                value = fold_items(reducer, json.loads(tail.items), base, tail.base is not None)
            except Exception as problem:
                self._wrong(f"the fold of {record.key!r} cannot be read: {text_of(problem)}", last)
            else:
                if value != self._folds[record.key]:
                    self._wrong(f"{record.key!r} is not the fold of its contributions", last)

    def _check_others(self) -> None:
        """Keys that have a value and no entry: those that were trimmed, and none else.  Keys that
        have an entry with a value: a scan finds them all."""
        found = self._perform(Load((), ("",)))
        scanned = {record.key for record in found.scans[""]}
        for key, last in self._last.items():
            existed = _exists(last) and not key.startswith("$")
            if existed and key not in scanned and found.position == self._upto:
                self._wrong(f"{key!r} is in the log, but a scan does not find it", last)
        for record in found.scans[""]:
            if not record.exists:
                self._wrong(f"a scan finds {record.key!r}, which does not exist", key=record.key)
            if record.key not in self._last and (self._first or 1) <= record.position <= self._upto:
                self._wrong(f"{record.key!r} exists without an entry in the log", key=record.key)

    # The operations

    def _check_operation(self, op_id: str, entries: list[Entry]) -> None:
        done = self._perform(Load((), (), op_id)).applied
        found = [] if done is None else [(w.position, w.key, w.version) for w in done.writes]
        if found != [(e.position, e.key, e.version) for e in entries]:
            self._wrong(f"operation {op_id!r} does not answer as it is logged", entries[0])

    def _earlier(self, against: Mapping[str, Json] | None) -> tuple[int, int, str] | None:
        """First and last position and digest of an earlier report."""
        if against is None:
            return None
        try:
            expected = int(against["first"]), int(against["position"]), str(against["digest"])
            space = against["space"]
        except (KeyError, TypeError, ValueError):
            raise Invalid("the earlier report is none that `check-store --json` printed") from None
        if space != self._uid:
            raise Invalid(f"the earlier report is of another space ({space})")
        return expected if expected[1] else None


def _exists(last: Entry) -> bool:
    """Whether a key exists whose last entry this is."""
    return last.kind == "append" or (last.kind == "put" and not last.erased)


def _some(keys: list[str], most: int) -> Iterator[tuple[str, ...]]:
    for at in range(0, len(keys), most):
        yield tuple(keys[at : at + most])
