"""The refusals of a space, counted: which keys collide, between whom, how closely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from interlock.core.records import as_datetime
from interlock.core.refusals import (
    Conflict,
    Contended,
    Fenced,
    Forbidden,
    Held,
    IllegalTransition,
    Invalid,
    Outdated,
    Refusal,
)

CLOSE_US = 100_000
DROPPED = "dropped"  # the reason of a note that stands for many, which could not be kept
_RETRYABLE = frozenset(
    kind.__name__
    for kind in (Conflict, Held, Contended, Fenced, Forbidden, IllegalTransition, Invalid)
    if kind.retryable
)


class RefusalNote(NamedTuple):
    """One refusal: `reason` is its name, `other` who stood in the way, as far as is known.

    `behind_us`: microseconds since that other agent wrote; None if nobody did.
    """

    key: str
    agent: str
    reason: str
    other: str | None
    behind_us: int | None
    time_us: int
    op_id: str

    @property
    def at(self) -> datetime:
        """When it was refused (store's clock, UTC)."""
        return as_datetime(self.time_us)


class KeyConflicts(NamedTuple):
    """The refusals of one key.

    `pairs`: how often each agent met each other one.  `close`: within 100 ms of the other's write.
    `retries`: those after which the agent could try again.
    """

    key: str
    refusals: int
    reasons: dict[str, int]
    pairs: dict[tuple[str, str], int]
    close: int
    retries: int


class ConflictReport(NamedTuple):
    """The last refusals of a space, newest first, and the keys they were about, worst first.

    `dropped`: how many more there were meanwhile of which nothing is known, because they came
    faster than they could be kept, or the store was away.
    """

    refusals: tuple[RefusalNote, ...]
    keys: tuple[KeyConflicts, ...]
    dropped: int = 0


def note(refusal: Refusal, agent: str, op_id: str, now_us: int) -> RefusalNote | None:
    """Return what to keep of a refusal; None for one that the caller never sees."""
    key = str(getattr(refusal, "key", "") or "")
    if isinstance(refusal, Outdated) or key.startswith("$"):
        return None  # the protocols of the library's own keys decide again
    other: str | None = None
    behind = None
    if isinstance(refusal, Conflict):
        other = refusal.record.writer
        behind = max(now_us - refusal.record.time_us, 0) if refusal.record.version else None
    elif isinstance(refusal, Held):
        other = refusal.holder
    return RefusalNote(key, agent, type(refusal).__name__, other, behind, now_us, op_id)


def dropped_note(last: RefusalNote, count: int) -> RefusalNote:
    """Return what to keep of `count` refusals that are not kept themselves; `last` was one."""
    return last._replace(key="", reason=DROPPED, other=None, behind_us=count, op_id="")


def report(refusals: Iterable[RefusalNote]) -> ConflictReport:
    """Count refusals by key."""
    found = tuple(refusals)
    notes = tuple(each for each in found if each.reason != DROPPED)
    dropped = sum(each.behind_us or 0 for each in found if each.reason == DROPPED)
    by_key: dict[str, list[RefusalNote]] = {}
    for each in notes:
        by_key.setdefault(each.key, []).append(each)
    keys = [_of_key(key, found) for key, found in by_key.items()]
    worst_first = tuple(sorted(keys, key=lambda k: (-k.refusals, k.key)))
    return ConflictReport(notes, worst_first, dropped)


def _of_key(key: str, notes: list[RefusalNote]) -> KeyConflicts:
    return KeyConflicts(
        key,
        len(notes),
        dict(Counter(each.reason for each in notes)),
        dict(Counter((each.agent, each.other) for each in notes if each.other is not None)),
        sum(each.behind_us is not None and each.behind_us <= CLOSE_US for each in notes),
        sum(each.reason in _RETRYABLE for each in notes),
    )
