"""Erasing: values gone for good, while positions, versions, agents and times stay.

1. Look through the log, and what keys were where it is cut, for values that are to go.
2. Commit what makes everybody notice: each key whose present value goes is deleted, and a merged
   key that loses single contributions gets one that is erased from the start.  So versions move,
   and nothing that was computed from such a value can be committed any more.  The first of these
   commits says under `$erasures/` who erases what.
3. Take the values out of the log and of every cache, some at a time, each in one atomic step,
   which raises the epoch of a merged key: its fold could still be read until then.
4. Have the store's files forget them, and log that all is done.

Whoever is killed on the way runs the same erasure again: what is done is not found any more.  No
cache can bring a value back: each is refused if an erasure came between reading and keeping.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from interlock.core.fold import LARGEST, reload
from interlock.core.keys import check_key, check_prefix, decode, encode
from interlock.core.plan import APPEND, DELETE, PUT, Expect, Write, expect
from interlock.core.records import Committed, Entry, Record, Tail
from interlock.core.refusals import Conflict, Contended, Fenced, Invalid, Outdated, Pruned, Refusal
from interlock.core.requests import (
    Commit,
    Load,
    LoadAt,
    Pause,
    ReadLog,
    Redact,
    Scrub,
    Steps,
    T,
    Think,
    Trim,
)
from interlock.core.struct import Json
from interlock.core.trim import READERS_KEY
from interlock.core.writer import Writer

ERASURES = "$erasures/"
PAGE = 1000  # entries that are looked at together
STEP = 500  # entries that one step takes away
KEYS = 100  # of one commit
_LAST = 1 << 62  # a position that no log reaches
_ATTEMPTS = 100  # times that one commit is decided again because its keys have moved
_PAUSE = 0.05  # seconds until the files are looked at again
_PAUSES = 400
_COORDINATOR = "/coordinator"

Where = Callable[[Entry], Any]
Progress = Callable[[int, int], object]
_ALWAYS = (
    "names of keys and agents, operation ids (one made by dedupe=True is a digest of its item)",
    "copies in programs' memory, exports, traces (INTERLOCK_RECORD), and files that "
    "space.files() shows, until their next sync",
    "vectors that were added to Chroma or Qdrant",
)


class Own(NamedTuple):
    """The library's own records that hold values of the user's: what their keys begin with.

    They are not deleted: `blanked` returns one without the values.  `in_use` returns the key that
    exists while a record is needed as it is, None if it never is.
    """

    prefixes: tuple[str, ...] = ()
    blanked: Callable[[str, Json], Json] = lambda key, value: value
    in_use: Callable[[str], str | None] = lambda key: None


class Erasure(NamedTuple):
    """What was erased, or (`dry_run`) what would be.

    Up to log position `upto`, `looked_at` values were looked at.  `keys` are those that lost any;
    `removed` counts the values by where they were: the log, the present values of keys, folds,
    projections (whose names are in `projections`; they are folded again).  `done` says what was
    done to the store's files, and `remains` where copies may be that the erasure cannot reach.
    The log has it under `$erasures/<name>`; "" if there was nothing to erase.
    """

    name: str
    dry_run: bool
    upto: int
    looked_at: int
    keys: tuple[str, ...]
    removed: dict[str, int]
    projections: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()


class Selection(NamedTuple):
    """What to erase: of `key`, or (None) of keys under `prefix`, the entries that `where` picks."""

    key: str | None
    prefix: str
    where: Where | None
    own: Own

    def covers(self, key: str) -> bool:
        """Whether values of a key may be erased: of the library's own, those of the user's."""
        return not key.startswith("$") or key.startswith(self.own.prefixes or "$ ")

    def worth(self, key: str, value: Json) -> bool:
        """Whether there is anything to erase in a value."""
        return not key.startswith("$") or self.own.blanked(key, value) != value


@dataclass
class _Found:
    """The positions of what is to go, by key; and for what keys were at the cut, the new texts.

    `merged` are the keys that lose contributions."""

    entries: dict[str, list[int]] = field(default_factory=dict)
    bases: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    merged: set[str] = field(default_factory=set)
    looked_at: int = 0

    @property
    def keys(self) -> list[str]:
        return sorted(self.entries.keys() | self.bases.keys())

    @property
    def count(self) -> int:
        return sum(map(len, self.entries.values())) + len(self.bases)

    def add(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.entries.setdefault(entry.key, []).append(entry.position)
            if entry.kind == APPEND:
                self.merged.add(entry.key)


def selection(key: object, prefix: object, where: object, own: Own) -> Selection | Invalid:
    """Return what is to be erased, or what is malformed."""
    if key is not None and prefix is not None:
        return Invalid("Give a key or prefix=, not both.")
    wrong = check_key(key) if key is not None else check_prefix("" if prefix is None else prefix)
    if wrong is not None:
        return wrong
    if where is not None and (not callable(where) or inspect.iscoroutinefunction(where)):
        return Invalid(f"where={where!r:.60} must be a plain function of an Entry.")
    if key is None and not prefix and where is None:
        return Invalid("Name a key, a prefix= or where=: this would erase the whole space.")
    assert key is None or isinstance(key, str)
    assert where is None or callable(where)
    return Selection(key, str(prefix or ""), where, own)


def _unseen(done: int, total: int) -> None:
    """Report progress to nobody."""


def erase(
    writer: Writer,
    chosen: Selection,
    dry_run: bool,
    vacuum: bool,
    draw: Callable[[], str],
    progress: Progress | None = None,
) -> Steps[Erasure | Refusal]:
    """Erase.  Returns an Erasure, or a Refusal.  `draw` returns fresh operation ids.

    `progress` is called with how many positions were looked at, and of how many; then with those
    and how many values were taken away, of all."""
    found, report = _Found(), progress or _unseen
    upto = yield from _look(chosen, found, 0, report)
    if isinstance(upto, Refusal):
        return upto
    yield from _add_copies(found)
    refused = yield from _check_use(chosen, found)
    if refused is not None:
        return refused
    live = yield from _live(found)
    if dry_run or not found.count:
        would = {"log": found.count, "heads": len(live)} if dry_run else {}
        # An erasure that was killed may have left the files to do.
        files = ((), _ALWAYS) if dry_run else (yield from _scrub(vacuum))
        if isinstance(files, Refusal):
            return files
        keys = tuple(found.keys)
        return Erasure("", dry_run, upto, found.looked_at, keys, would, (), *files)
    name = draw()
    heads = yield from _bury(writer, chosen, found, upto, name, draw)
    if isinstance(heads, Refusal):
        return heads
    removed = {"log": 0, "heads": heads, "folds": 0, "projections": 0}
    projections: set[str] = set()
    taken = upto
    for request in _redactions(found):
        report(taken, upto + found.count)
        step = yield request
        taken += len(request.positions) + len(request.bases)
        removed["log"] += step.entries
        removed["folds"] += step.folds
        projections.update(step.projections)
    report(taken, taken)
    removed["projections"] = len(projections)
    scrubbed = yield from _scrub(vacuum)
    if isinstance(scrubbed, Refusal):
        return scrubbed
    payload: dict[str, Json] = {"state": "done", "upto": upto, "removed": removed}
    audited = yield from _audit(writer, name, payload, draw())
    if isinstance(audited, Refusal):
        return audited
    return Erasure(
        *(name, False, upto, found.looked_at, tuple(found.keys), removed),
        *(tuple(sorted(projections)), *scrubbed),
    )


# Looking


def _look(
    chosen: Selection, found: _Found, after: int, report: Progress = _unseen
) -> Steps[int | Refusal]:
    """Protocol: add what is to go after a position, and (`after` 0) at the cut; return up to where
    the log was read."""
    if not after:
        while True:
            floor = yield from Trim(0, ())
            after = floor.position
            missed = (yield from _look_at_cut(chosen, found, after)) if after else None
            if missed is None:
                break
    while True:
        page = yield from ReadLog(after=after, limit=PAGE, prefix=chosen.prefix, key=chosen.key)
        if isinstance(page, Pruned):
            return page
        entries = [
            entry
            for entry in page.entries
            if entry.kind != DELETE
            and not entry.erased
            and chosen.covers(entry.key)
            and chosen.worth(entry.key, entry.value)
        ]
        found.looked_at += len(entries)
        found.add((yield from _matching(chosen, entries)))
        after = page.upto
        report(after, page.head)
        if after >= page.head:
            return after


def _matching(chosen: Selection, entries: Sequence[Entry]) -> Steps[list[Entry]]:
    """Protocol: those entries that `where` chooses."""
    where = chosen.where
    if where is None or not entries:
        return [*entries]
    chosen_ones = yield Think(lambda each: [bool(where(entry)) for entry in each], (entries,))
    return [entry for entry, yes in zip(entries, chosen_ones, strict=True) if yes]


def _look_at_cut(chosen: Selection, found: _Found, floor: int) -> Steps[Pruned | None]:
    """Protocol: add what is to go of what keys were where the log is cut."""
    keys = () if chosen.key is None else (chosen.key,)
    prefixes = () if keys else (chosen.prefix, *chosen.own.prefixes)[: 1 if chosen.prefix else None]
    snapshot = yield from LoadAt(position=floor, time_us=None, keys=keys, prefixes=prefixes)
    if isinstance(snapshot, Pruned):
        return snapshot
    records = [*snapshot.records.values(), *(r for scan in snapshot.scans.values() for r in scan)]
    for record in records:
        if not record.exists or not chosen.covers(record.key):
            continue
        found.looked_at += 1
        if isinstance(record.value, Tail):
            yield from _look_at_fold(chosen, found, record, record.value)
        elif chosen.worth(record.key, record.value):
            for entry in (yield from _matching(chosen, [_as_entry(record, PUT, record.value)])):
                found.bases[entry.key] = (entry.position, None)
    return None


def _look_at_fold(chosen: Selection, found: _Found, record: Record, tail: Tail) -> Steps[None]:
    """Protocol: the same of a merged key: the contributions that were cut stand in one fold."""
    value = decode(tail.base)
    if tail.base is None:
        return
    items = value if isinstance(value, list) and chosen.where is not None else [value]
    entries = [_as_entry(record, APPEND, item) for item in items]
    gone = yield from _matching(chosen, entries)
    if not gone:
        return
    left = [entry.value for entry in entries if not any(entry is each for each in gone)]
    body = encode(left, LARGEST) if left else None
    assert not isinstance(body, Invalid)  # it is part of a value
    found.bases[record.key] = (record.position, body)
    found.merged.add(record.key)


def _batches(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items, so many at a time."""
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def _as_entry(record: Record, kind: str, value: Json) -> Entry:
    written = (record.version, record.epoch, kind, value, record.writer or "", record.time_us)
    return Entry(record.position, record.key, *written, "", None)


def _add_copies(found: _Found) -> Steps[None]:
    """Protocol: add the copies that coordinators keep of contributions that they rejected."""
    snapshot = yield from Load((READERS_KEY,))
    sources: dict[str, str] = snapshot.records[READERS_KEY].value or {}
    copies = [
        f"{state.removesuffix(_COORDINATOR)}/rejected/{position:012}"
        for state, source in sources.items()
        for key, positions in found.entries.items()
        if key.startswith(source)
        for position in positions
    ]
    for some in _batches(copies, KEYS):
        loaded = yield from Load(some)
        for key, record in loaded.records.items():
            if record.version:
                yield from _look(Selection(key, "", None, Own()), found, 0)


def _check_use(chosen: Selection, found: _Found) -> Steps[Invalid | None]:
    """Protocol: refuse to erase what a run still needs."""
    users = {chosen.own.in_use(key): key for key in found.keys if key.startswith("$")}
    users.pop(None, None)
    for some in _batches(users, KEYS):
        snapshot = yield from Load(tuple(key for key in some if key is not None))
        for using, record in snapshot.records.items():
            if record.exists:
                run = using.rpartition("/")[2]
                return Invalid(
                    f"Run {run!r} is not finished, and would repeat what it forgets. "
                    "Complete or cancel it first.",
                    users[using],
                )
    return None


def _live(found: _Found) -> Steps[list[str]]:
    """Protocol: the keys whose present values are among what is to go, or are folded from it."""
    live = []
    for some in _batches(found.keys, KEYS):
        snapshot = yield from Load(some)
        live += [key for key, record in snapshot.records.items() if _loses(found, record)]
    return live


def _loses(found: _Found, record: Record) -> bool:
    base = found.bases.get(record.key)
    gone = record.position in found.entries.get(record.key, ()) or (
        base is not None and base[0] == record.position
    )
    return record.exists and (gone or isinstance(record.value, Tail))


# Committing


def _bury(
    writer: Writer,
    chosen: Selection,
    found: _Found,
    upto: int,
    name: str,
    draw: Callable[[], str],
) -> Steps[int | Refusal]:
    """Protocol: commit what makes everybody notice; add what was written meanwhile and is to go.

    Return how many keys lose their present value, or a part of it."""
    heads = 0
    until: dict[str, int] = {}  # what was written to a key before it was marked is to go, too
    begun = {
        **({"prefix": chosen.prefix} if chosen.key is None else {"key": chosen.key}),
        **({} if chosen.where is None else {"where": True}),
        "state": "begun",
        "entries": found.count,
    }
    first: tuple[Write, ...]
    first = (Write(PUT, f"{ERASURES}{name}", json.dumps(begun, ensure_ascii=False)),)
    for keys in _batches(found.keys, KEYS):
        after = upto
        for _ in range(_ATTEMPTS):
            snapshot = yield from Load(keys)
            lost = [r for r in snapshot.records.values() if _loses(found, r)]
            writes = [_mark(chosen, record) for record in lost]
            if not writes and not first:
                break
            expects = [e for r in lost for e in _expected(chosen, r)]
            outcome = yield from Commit(
                writer.plan(draw(), writes=(*writes, *first), expects=expects)
            )
            if isinstance(outcome, Committed):
                heads += len(lost)
                first = ()
                until |= {done.key: done.position for done in outcome.writes}
                break
            if isinstance(outcome, Outdated):
                yield from reload(writer)
            elif isinstance(outcome, Conflict | Fenced) and outcome.key in snapshot.records:
                every = dict.fromkeys(keys, _LAST)
                after = yield from _look_again(chosen, found, after, every)
            else:
                return outcome
        else:
            return Contended(
                f"{keys[0]!r} or a key after it moved {_ATTEMPTS} times while it was erased.",
                keys[0],
                _ATTEMPTS,
            )
    yield from _look_again(chosen, found, upto, until)
    return heads


def _mark(chosen: Selection, record: Record) -> Write:
    """Return the write that moves the version of a key which loses its value."""
    if record.key.startswith("$"):
        blank = encode(chosen.own.blanked(record.key, record.value), LARGEST)
        assert isinstance(blank, str)
        return Write(PUT, record.key, blank)
    if isinstance(record.value, Tail) and chosen.where is not None:
        return Write(APPEND, record.key, None)
    return Write(DELETE, record.key, None)


def _expected(chosen: Selection, record: Record) -> tuple[Expect, ...]:
    """Return what is expected of the record: it decides what is written, or whether it goes."""
    decided = chosen.where is not None and not isinstance(record.value, Tail)
    return (expect(record),) if decided or record.key.startswith("$") else ()


def _look_again(chosen: Selection, found: _Found, after: int, until: dict[str, int]) -> Steps[int]:
    """Protocol: add what was written after a position and is to go, of each key up to another
    position; return up to where the log was read."""
    more = _Found()
    seen = yield from _look(chosen, more, after)
    for key, positions in more.entries.items():
        known = set(found.entries.get(key, ()))
        fresh = [p for p in positions if p <= until.get(key, 0) and p not in known]
        if fresh:
            found.entries.setdefault(key, []).extend(fresh)
            found.merged.update(more.merged & {key})
    return after if isinstance(seen, Refusal) else seen  # cut: that is only done after a day


def _audit(
    writer: Writer, name: str, payload: dict[str, Json], op_id: str
) -> Steps[Committed | Refusal]:
    """Protocol: log how the erasure ended, over what was logged at its beginning."""
    key = f"{ERASURES}{name}"
    while True:
        snapshot = yield from Load((key,))
        begun = snapshot.records[key]
        body = json.dumps({**begun.value, **payload}, ensure_ascii=False)
        plan = writer.plan(op_id, writes=(Write(PUT, key, body),), expects=(expect(begun),))
        outcome = yield from Commit(plan)
        if not isinstance(outcome, Outdated):
            return outcome
        yield from reload(writer)


# Taking away


def _redactions(found: _Found) -> Iterator[Redact]:
    """Yield the steps that take the values away."""
    for bases in _batches(found.bases.items(), STEP):
        folds = tuple(key for key, _ in bases if key in found.merged)
        found_bases = tuple((key, *base) for key, base in bases)
        yield Redact(keys=(), positions=(), bases=found_bases, folds=folds)
    pairs = ((key, p) for key in sorted(found.entries) for p in sorted(found.entries[key]))
    for some in _batches(pairs, STEP):
        keys = tuple(dict.fromkeys(key for key, _ in some))
        folds = tuple(key for key in keys if key in found.merged)
        positions = tuple(position for _, position in some)
        yield Redact(keys=keys, positions=positions, folds=folds)


def _scrub(vacuum: bool) -> Steps[tuple[tuple[str, ...], tuple[str, ...]] | Refusal]:
    """Protocol: have the store's files forget what was taken away."""
    done: list[str] = []
    for rewriting in (False, True) if vacuum else (False,):
        pauses, before = 0, None
        scrubbed = yield from Scrub(vacuum=rewriting)
        while scrubbed.left:
            if before is not None and scrubbed.left >= before:
                pauses += 1
                if pauses > _PAUSES:
                    return Contended(
                        "The values are erased, but somebody keeps an old snapshot of the store "
                        "open, with which they stay in its files. End it and erase again.",
                        "",
                        pauses,
                        limit="patience",
                    )
                yield Pause(_PAUSE)
            before = scrubbed.left
            scrubbed = yield from Scrub()
        done += [each for each in scrubbed.done if each not in done]
    return tuple(done), (*scrubbed.remains, *_ALWAYS)
