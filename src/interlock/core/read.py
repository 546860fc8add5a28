"""Reading: records of now or of a moment, the log, what an operation id did, refusals counted."""

from __future__ import annotations

from interlock.core.conflict_report import ConflictReport, report
from interlock.core.fold import ask, fold_snapshot
from interlock.core.keys import check_all, check_key, check_prefix
from interlock.core.records import Committed, KeyInfo, Queue, Snapshot
from interlock.core.refusals import Invalid, Pruned
from interlock.core.requests import (
    ListKeys,
    ListWaiters,
    Load,
    LoadAt,
    LogPage,
    Pause,
    ReadLog,
    ReadRefusals,
    Steps,
)
from interlock.core.rules import RULES_KEY
from interlock.core.writer import Writer

_COMMIT_PAGE = 100  # entries of a commit whose end is looked for
MOST_LISTED = 10_000  # keys in one answer
MOST_WAITERS = 200
_OLDEST = -1  # after this position: from the oldest that is kept


def load(
    writer: Writer, keys: tuple[str, ...], prefixes: tuple[str, ...] = ()
) -> Steps[Snapshot | Invalid]:
    """Read records and scans of one moment.  Returns a Snapshot or Invalid."""
    wrong = check_all(keys, prefixes)
    if wrong is not None:
        return wrong
    return (yield from ask(writer, Load(keys, prefixes)))


def list_keys(
    prefix: str, after: str | None, limit: int, deleted: bool = False
) -> Steps[tuple[KeyInfo, ...] | Invalid]:
    """List existing keys, without their values.  Returns a tuple of KeyInfo, or Invalid."""
    wrong = check_all((), (prefix,)) or (None if after is None else check_key(after))
    if wrong is not None:
        return wrong
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        return Invalid(f"limit={limit!r:.60} must be a whole number above 0.")
    most = min(limit, MOST_LISTED)
    return (yield from ListKeys(prefix, after or "", limit=most, deleted=bool(deleted)))


def queue(key: str) -> Steps[Queue | Invalid]:
    """Say who has the lease of a key and who waits for it.  Returns a Queue, or Invalid."""
    wrong = check_key(key)
    if wrong is not None:
        return wrong
    leases = (yield from Load((key,))).leases
    return Queue(key, leases.get(key), (yield from ListWaiters(key, MOST_WAITERS)))


def load_at(
    writer: Writer,
    position: int | None,
    time_us: int | None,
    keys: tuple[str, ...],
    prefixes: tuple[str, ...] = (),
) -> Steps[Snapshot | Invalid | Pruned]:
    """Read records and scans as of a position or a time.

    A position inside a commit is read as of the end of that commit: nothing else was ever there.
    Returns a Snapshot, Invalid or Pruned.
    """
    wrong = check_all(keys, prefixes)
    if wrong is not None:
        return wrong
    if position is not None:
        wrong = check_position("position", position)
        if wrong is not None:
            return wrong
        position = yield from _end_of_commit(position)
    snapshot = yield from LoadAt(
        position=position, time_us=time_us, keys=(*keys, RULES_KEY), prefixes=prefixes
    )
    if isinstance(snapshot, Pruned):
        return snapshot
    wrong = check_reached(position or 0, snapshot.position)
    if wrong is not None:
        return wrong
    records = dict(snapshot.records)
    rules, past = records.pop(RULES_KEY), writer.book.rules
    if rules.version != past.version:
        past = writer.book.read(rules.version, rules.value)
    return (yield from fold_snapshot(writer, snapshot._replace(records=records), past))


def _end_of_commit(position: int) -> Steps[int]:
    """Return the position of the last entry of the commit that the entry at `position` is of."""
    limit, op_id = 2, None
    while position:
        page = yield from ReadLog(after=position - 1, limit=limit)
        entries = [] if isinstance(page, Pruned) else page.entries
        for entry in entries:
            if op_id not in (None, entry.op_id):
                return position
            op_id, position = entry.op_id, entry.position
        if len(entries) < limit:
            break
        limit = _COMMIT_PAGE
    return position


def log_page(prefix: str, after: int | None, limit: int) -> Steps[LogPage | Invalid | Pruned]:
    """Read a page of the log after a position (None: from the oldest that is kept).

    Returns a LogPage, Invalid or Pruned.
    """
    wrong = check_prefix(prefix) or check_after(after)
    if wrong is not None:
        return wrong
    return (
        yield from ReadLog(after=_OLDEST if after is None else after, prefix=prefix, limit=limit)
    )


def wait(seconds: float, position: int) -> Steps[None]:
    """Wait for news after `position`, at most `seconds`."""
    yield Pause(seconds, position)


def outcome(op_id: str) -> Steps[Committed | None]:
    """Ask what an operation id did.  Returns Committed or None."""
    return (yield from Load((), (), op_id)).applied


def check_position(name: str, position: object) -> Invalid | None:
    """Return why `position` is not a place in a log."""
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < 2**63:
        return Invalid(f"{name}={position!r} is not a position: a whole number from 0.")
    return None


def check_after(after: object) -> Invalid | None:
    """Return why one cannot read after `after`."""
    return None if after is None else check_position("after", after)


def check_reached(position: int, head: int) -> Invalid | None:
    """Return why nothing can be read as of `position`: the log has not come so far."""
    if position > head:
        return Invalid(f"The log ends at {head}, before position {position}.")
    return None


def conflicts(limit: int) -> Steps[ConflictReport | Invalid]:
    """Return the last refusals, counted, as a ConflictReport."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        return Invalid(f"limit={limit!r} must be a whole number from 1.")
    return report((yield from ReadRefusals(limit)))
