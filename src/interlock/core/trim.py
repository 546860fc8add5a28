"""Trimming: cutting off the oldest part of a log, never what somebody still needs.

What is cut is the log up to one position, the floor: every entry after it is kept, and of every key
what it was at the floor, so that any moment from there on can be read.  An entry is kept as long as

- the rule of its key says (`keep=` days; the keys whose names begin with `$` have no rule),
- its operation id must be known: a day,
- a consumer group has not dealt and acknowledged it, or what is kept of a projection does not
  include it: the store judges both in the atomic step,
- a coordinator has not merged it.

Whoever trims also sweeps: the keys whose values have expired are deleted, each with an entry in the
log.  Readers and writers go by the expiry alone, so nothing waits for a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import NamedTuple

from interlock.core.fold import LARGEST, Unfoldable, ask
from interlock.core.keys import encode
from interlock.core.plan import APPEND, DELETE, Expect, Plan, Write
from interlock.core.read import check_position, load_at
from interlock.core.records import SWEEP, Committed, Entry, KeyInfo
from interlock.core.refusals import Conflict, Invalid, Pruned, Refusal
from interlock.core.requests import (
    PROJECTIONS,
    Floor,
    ListExpired,
    Load,
    LogPage,
    ReadLog,
    Steps,
    Trim,
)
from interlock.core.rules import RULES_KEY, RuleSet, UnknownRule, unknown_rule
from interlock.core.write import commit, plan_values
from interlock.core.writer import Writer

READERS_KEY = "$readers"  # {key of a coordinator's state: the prefix that it reads}
PAGE = 200  # entries that one step cuts, at most, beside the rest of a commit
SWEPT = 100  # keys that one commit deletes
KEPT_AT_LEAST = 24 * 3600.0  # seconds that an operation id is known
DAY_US = 24 * 3600 * 1_000_000


class Trimmed(NamedTuple):
    """What trimming did: it has cut `cut` entries, and `oldest` is the first position that is kept
    (one after the log's end if nothing is).  `held` says why that one is kept.  `expired` keys were
    deleted."""

    oldest: int
    cut: int
    held: str
    expired: int = 0


class _Reader(NamedTuple):
    """A coordinator: it has handled what is under `source` up to position `cursor`."""

    state: str
    source: str
    cursor: int


def trim(
    writer: Writer, keep: float | None, before: int | None, op_id: str
) -> Steps[Trimmed | Refusal]:
    """Delete the keys that have expired, and cut the log.  Returns Trimmed, Invalid, or another
    Refusal.

    `keep`: days that entries are kept whose rule does not say (None: forever).  `before`: the
    entry at that position and those after it are kept (None: as the rules say).
    """
    wrong = _check(keep, before)
    if wrong is not None:
        return wrong
    expired = yield from sweep(writer, op_id)
    readers = yield from _readers(writer)
    floor = yield from Trim(0, ())
    cut = 0  # others may trim at the same time
    while True:
        now = yield from ask(writer, Load((RULES_KEY,)))
        record = now.records[RULES_KEY]
        if record.version != writer.book.rules.version:
            writer.book.load(record.version, record.value)
        page = yield from _page(floor.position)
        if isinstance(page, Pruned):  # somebody else trims, too
            floor = yield from Trim(0, ())
            continue
        wanted = _Wanted(writer.book.rules, keep, before, now.time_us, readers, floor)
        step = yield from _step(writer, _unneeded(page.entries, wanted))
        if isinstance(step, Pruned):
            floor = yield from Trim(0, ())
        elif isinstance(step, Refusal):
            return step
        elif step.upto > floor.position:
            floor = yield from Trim(step.upto, step.folds, floor.erasures)
            cut += floor.cut
        else:
            why = step.held or (wanted.why(page.entries[0]) if page.entries else "")
            return Trimmed(floor.position + 1, cut, why, expired)


def sweep(writer: Writer, op_id: str) -> Steps[int]:
    """Protocol: delete the keys that have expired.  Returns how many.

    Rules don't matter: to readers these keys don't exist.  One that moves meanwhile, or that
    somebody has the turn for, is left.
    """
    swept, refused, number = 0, set[KeyInfo](), 0
    while True:
        found = yield from ListExpired(limit=SWEPT + len(refused))
        batches = [[info for info in found if info not in refused]]
        if not batches[0]:
            return swept
        while batches:
            batch, number = batches.pop(), number + 1
            outcome = yield from commit(
                writer, partial(_deletion, writer, batch, f"{SWEEP}{op_id}/{number}")
            )
            if isinstance(outcome, Committed):
                swept += len(batch)
            elif len(batch) > 1:
                batches += [[info] for info in batch]
            elif getattr(outcome, "key", None) == batch[0].key:
                refused.add(batch[0])
            else:  # this process was replaced
                return swept


def _deletion(writer: Writer, expired: Sequence[KeyInfo], op_id: str) -> Plan:
    return writer.plan(
        op_id,
        expects=(Expect(info.key, info.version, info.epoch, expired=True) for info in expired),
        writes=(Write(DELETE, info.key, None) for info in expired),
    )


def register(writer: Writer, state: str, source: str, op_id: str) -> Steps[Refusal | None]:
    """Have the log kept for a coordinator.  Returns None, or a Refusal."""
    while True:
        snapshot = yield from ask(writer, Load((READERS_KEY,)))
        record = snapshot.records[READERS_KEY]
        known = record.value or {}
        if known.get(state) == source:
            return None
        plan = partial(plan_values, writer, [(record, {**known, state: source})], op_id)
        outcome = yield from commit(writer, plan)
        if isinstance(outcome, Committed):
            return None
        if not isinstance(outcome, Conflict):
            return outcome


class _Wanted(NamedTuple):
    """Says of entries whether somebody still needs them."""

    rules: RuleSet
    keep: float | None
    before: int | None
    now_us: int
    readers: tuple[_Reader, ...]
    floor: Floor

    def why(self, entry: Entry) -> str:
        """Return why an entry is kept, "" if nobody needs it."""
        age_us = self.now_us - entry.time_us
        if self.before is not None and entry.position >= self.before:
            return f"position {self.before} was to be kept"
        if self.floor.needed is not None and entry.position >= self.floor.needed:
            return _needs(self.floor.by)
        if age_us < KEPT_AT_LEAST * 1e6:
            return "entries younger than 24 h are kept for retries"
        if entry.key.startswith("$"):
            return ""
        for reader in self.readers:
            if entry.key.startswith(reader.source) and entry.position > reader.cursor:
                return f"the coordinator of {reader.state!r} has not merged it"
        pattern, rule = self.rules.match(entry.key)
        if isinstance(rule, UnknownRule):
            return unknown_rule(pattern, rule)
        days = rule.keep
        days = self.keep if days is None else days
        if days is None:
            return f"no rule says how long {entry.key!r} is kept (keep=)"
        return f"{entry.key!r} is kept for {days:g} days" if age_us < days * DAY_US else ""


def _needs(name: str) -> str:
    """Return why the store itself keeps an entry."""
    if not name.startswith(PROJECTIONS):
        return f"group {name!r} has not finished it"
    projection, _, version = name.removeprefix(PROJECTIONS).rpartition("/")
    return f"projection {projection!r} (version {version}) has no snapshot that includes it"


def _check(keep: object, before: object) -> Invalid | None:
    if keep is not None and (
        isinstance(keep, bool) or not isinstance(keep, int | float) or not keep >= 0
    ):
        return Invalid(f"keep={keep!r} must be a number of days from 0.")
    return None if before is None else check_position("before", before)


def _readers(writer: Writer) -> Steps[tuple[_Reader, ...]]:
    """Protocol: the coordinators of the space, and how far each of them is."""
    snapshot = yield from ask(writer, Load((READERS_KEY,)))
    sources: Mapping[str, str] = snapshot.records[READERS_KEY].value or {}
    if not sources:
        return ()
    snapshot = yield from ask(writer, Load(tuple(sources)))
    records = {state: snapshot.records[state] for state in sources}
    return tuple(
        _Reader(state, sources[state], record.value["cursor"] if record.exists else 0)
        for state, record in records.items()
        if record.exists or not record.version  # one that was deleted is not needed any more
    )


def _page(after: int) -> Steps[LogPage | Pruned]:
    """Protocol: the next entries, up to the end of a commit."""
    entries: list[Entry] = []
    while True:
        page = yield from ReadLog(after=after, limit=PAGE)
        if isinstance(page, Pruned):
            return page
        entries += page.entries
        if page.upto >= page.head:
            return page._replace(entries=entries)
        whole = [entry for entry in entries if entry.op_id != entries[-1].op_id]
        if whole:
            return LogPage(whole, whole[-1].position, page.head)
        after = page.upto


def _unneeded(entries: list[Entry], wanted: _Wanted) -> list[Entry]:
    """Return the first entries that nobody needs; of a commit all or none."""
    found = list(takewhile(lambda entry: not wanted.why(entry), entries))
    return _without(found, entries[len(found)]) if len(found) < len(entries) else found


def _without(entries: list[Entry], first: Entry) -> list[Entry]:
    """Return those of whole commits before an entry."""
    return [e for e in entries if e.position < first.position and e.op_id != first.op_id]


class _Step(NamedTuple):
    """Where to cut, the folds of the merged keys there, and what kept it from going further."""

    upto: int
    folds: tuple[tuple[str, str], ...] = ()
    held: str = ""


def _step(writer: Writer, entries: list[Entry]) -> Steps[_Step | Refusal]:
    """Protocol: a _Step that cuts `entries`, or a Refusal.

    A key whose reducer this process does not have keeps its contributions.
    """
    held = ""
    while entries:
        kinds = {entry.key: entry.kind for entry in entries}
        merged = tuple(key for key, kind in kinds.items() if kind == APPEND)
        if not merged:
            return _Step(entries[-1].position, (), held)
        try:
            snapshot = yield from load_at(writer, entries[-1].position, None, merged)
        except Unfoldable as problem:
            held, key = problem.refusal.message, getattr(problem.refusal, "key", None)
            entries = _without(entries, next(e for e in entries if e.key == key))
            continue
        if isinstance(snapshot, Refusal):
            return snapshot
        folds = []
        for key in merged:
            body = encode(snapshot.records[key].value, LARGEST)
            if isinstance(body, Invalid):
                return body
            folds.append((key, body))
        return _Step(entries[-1].position, tuple(folds), held)
    return _Step(0, (), held)
