"""Folds merged keys: from what a store answers to the value that a reader gets.

A store answers a Tail; the reducer is code.  A fold that took long is handed back to the store as
a cache.
"""

from __future__ import annotations

from typing import Any

from interlock.core.keys import decode, encode
from interlock.core.merge import fold_items
from interlock.core.records import Record, Snapshot, Tail
from interlock.core.refusals import Conflict, Invalid, Refusal, described
from interlock.core.requests import A_co, Grant, Load, Place, Request, SaveFold, Steps
from interlock.core.rules import RULES_KEY, RuleSet, UnknownRule, unknown_reducer
from interlock.core.sealed import BEGINNING, is_sealed, no_cipher
from interlock.core.writer import Writer

SAVE_AFTER = 200  # contributions since the last saved fold
LARGEST = 1 << 30  # bytes of a fold


class Unfoldable(Exception):
    """A merged key was met whose reducer this process does not have.  Drivers return `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def ask(writer: Writer, request: Request[A_co]) -> Steps[A_co]:
    """Protocol: a request, its answer with every merged key folded."""
    answer: Any = yield request
    folded = answer
    if isinstance(answer, Snapshot):
        folded = yield from fold_snapshot(writer, answer)
    elif isinstance(answer, Place):
        folded = answer._replace(snapshot=(yield from fold_snapshot(writer, answer.snapshot)))
    elif isinstance(answer, Grant):
        records = []
        for record in answer.records:
            records.append((yield from fold_record(writer, record)))
        folded = answer._replace(records=tuple(records))
    elif isinstance(answer, Conflict):
        folded = yield from fold_conflict(writer, answer)
    typed: A_co = folded
    return typed


def fold_snapshot(
    writer: Writer, snapshot: Snapshot, past: RuleSet | None = None
) -> Steps[Snapshot]:
    """Protocol: a snapshot with every merged key folded, by the rules of then (`past`) or now."""
    records, scans = dict(snapshot.records), dict(snapshot.scans)
    found = False
    for key, record in records.items():
        if isinstance(record.value, Tail):
            records[key], found = (yield from fold_record(writer, record, past)), True
    for prefix, members in scans.items():
        if any(isinstance(record.value, Tail) for record in members):
            folded = []
            for record in members:
                folded.append((yield from fold_record(writer, record, past)))
            scans[prefix], found = tuple(folded), True
    return snapshot._replace(records=records, scans=scans) if found else snapshot


def fold_conflict(writer: Writer, refusal: Conflict) -> Steps[Conflict]:
    """Protocol: a conflict whose fresh record is folded."""
    if not isinstance(refusal.record.value, Tail):
        return refusal
    return refusal.replace(record=(yield from fold_record(writer, refusal.record)))


def fold_record(writer: Writer, record: Record, past: RuleSet | None = None) -> Steps[Record]:
    """Protocol: the record of a merged key with its value; any other as it is."""
    tail = record.value
    if not isinstance(tail, Tail):
        return record
    if past is None and tail.rules != writer.book.rules.version:
        yield from reload(writer)
    rules = writer.book.rules if past is None else past
    reducer = rules.reducer(record.key)
    if reducer is None:
        raise Unfoldable(unknown_reducer(record.key, *rules.match(record.key)))
    started = tail.base is not None
    start = decode(tail.base)
    items = decode(tail.items)
    if BEGINNING in tail.items and any(map(is_sealed, items)):
        raise Unfoldable(no_cipher(record.key))
    try:
        whole = started and not items  # also where it is encrypted
        value = start if whole else fold_items(reducer, items, start, started)
    except Exception as problem:
        raise Unfoldable(not_foldable(record.key, reducer.name, problem)) from problem
    large = past is None and tail.length >= SAVE_AFTER
    unknown = isinstance(rules.match(record.key)[1], UnknownRule)  # who knows it may differ
    if large and not unknown and tail.erasures is not None:
        body = encode(value, LARGEST)
        if isinstance(body, str):
            yield SaveFold(
                record.key,
                position=record.position,
                body=body,
                rules=tail.rules,
                erasures=tail.erasures,
            )
    return record._replace(value=value)


def reload(writer: Writer) -> Steps[bool]:
    """Protocol: go by the rules in force.  Returns whether they were others than before."""
    snapshot = yield from Load((RULES_KEY,))
    record = snapshot.records[RULES_KEY]
    if record.version == writer.book.rules.version:
        return False
    writer.book.load(record.version, record.value)
    return True


def not_foldable(key: str, reducer: str, problem: Exception) -> Invalid:
    """The refusal of reading a merged key whose reducer fails on its contributions."""
    return Invalid(
        f"Can't merge the contributions to {key!r}: reducer {reducer!r} raised "
        f"{described(problem)}",
        key,
    )
