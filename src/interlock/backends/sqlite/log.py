"""The log and what is kept beside it: snapshots of now and of any moment, pages of the log,
trimming, and the tables of caches (folds, projections) and of refusals.

Each answer is one consistent moment: the caller has opened a transaction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from interlock.backends.answers import log_page, size_of
from interlock.backends.sqlite.commit import (
    LEASES,
    TICKETS,
    Transaction,
    alive,
    applied,
    opening,
    record,
    rules_version,
)
from interlock.backends.sqlite.statements import SQL
from interlock.core.conflict_report import RefusalNote
from interlock.core.keys import prefix_end
from interlock.core.records import KeyInfo, Leaseholder, Record, Snapshot
from interlock.core.refusals import Pruned, pruned
from interlock.core.requests import (
    NEAR,
    PAGE_BYTES,
    DropProjection,
    Floor,
    Kept,
    ListKeys,
    Load,
    LoadAt,
    LoadProjection,
    LogPage,
    ReadLog,
    ReadRefusals,
    SaveFold,
    SaveProjection,
    Trim,
)


def load(tx: Transaction, request: Load) -> Snapshot:
    """Answer a Load."""
    execute, space = tx.execute, tx.space
    now, position, _, flags = opening(tx)
    if len(request.keys) == 1:
        rows = execute(SQL["record"], (space, request.keys[0])).fetchall()
    elif request.keys:
        rows = execute(SQL["records"], (json.dumps(request.keys), space)).fetchall()
    else:
        rows = []
    records = {row[0]: record(tx, row) for row in rows}
    scans = {
        prefix: tuple(
            record(tx, row) for row in execute(SQL["scan"], (space, prefix, prefix_end(prefix)))
        )
        for prefix in request.prefixes
    }
    queued: dict[str, int] = {}
    if flags & TICKETS:
        for key in request.keys:
            (count,) = execute(SQL["queued"], (space, key, now, NEAR)).fetchone()
            if count:
                queued[key] = count
    leases: dict[str, Leaseholder] = {}
    if flags & LEASES:
        for key, epoch, holder, renewed, expires in execute(
            SQL["leases"], (json.dumps(request.keys), space)
        ):
            if alive(renewed, expires, now):
                leases[key] = Leaseholder(holder, epoch, (expires - now) / 1e6)
    done = applied(execute, space, request.op_id) if request.op_id is not None else None
    return Snapshot(position, now, records, scans, queued, done, leases)


def list_keys(tx: Transaction, request: ListKeys) -> tuple[KeyInfo, ...]:
    """Answer a ListKeys."""
    prefix, after = request.prefix, request.after
    bounds = (prefix, prefix_end(prefix), max(prefix, after), after)
    rows = tx.execute(SQL["list_keys"], (tx.space, *bounds, request.limit))
    return tuple(map(KeyInfo._make, rows))


def load_at(tx: Transaction, request: LoadAt) -> Snapshot | Pruned:
    """Answer a LoadAt: the last entry of each key up to a position or a time."""
    floor = trimmed(tx)
    execute, space = tx.execute, tx.space
    now, end, _, _ = opening(tx)
    if request.position is not None:
        position = min(request.position, end)
    else:
        position = _position_at(tx, request.time_us or 0, floor, end)
    if position < floor:
        return pruned(max(position, 0), floor)
    last = tx.first + position
    rows = execute(SQL["records_at"], (json.dumps(request.keys), space, last)).fetchall()
    records: dict[str, Record] = {row[0]: record(tx, row, last) for row in rows}
    scans = {
        prefix: tuple(
            record(tx, row, last)
            for row in execute(SQL["scan_at"], (space, prefix, prefix_end(prefix), last))
        )
        for prefix in request.prefixes
    }
    return Snapshot(position, now, records, scans, {})


def read_log(tx: Transaction, request: ReadLog) -> LogPage | Pruned:
    """Answer a ReadLog."""
    floor = trimmed(tx)
    if request.after < 0:
        request = request.replace(after=floor)
    if request.after < floor:
        return pruned(request.after, floor)
    window = (min(tx.first + request.after, tx.last), tx.last, request.limit)
    head = log_end(tx)
    if request.key is not None:
        rows = tx.execute(SQL["log_page_of_key"], (*window, tx.space, request.key))
    elif request.prefix:
        bounds = (request.prefix, prefix_end(request.prefix))
        rows = tx.execute(SQL["log_page_of_prefix"], (*window, *bounds))
    else:
        rows = tx.execute(SQL["log_page"], window)
    found, size = [], 0
    for row in rows:
        found.append(row)
        size += size_of(row)
        if size >= PAGE_BYTES:
            break
    return log_page(found, head, request)


def save_fold(tx: Transaction, request: SaveFold) -> None:
    """Keep the fold of a merged key, inside a write transaction that the caller opened."""
    if rules_version(tx) == request.rules:
        values = (tx.space, request.key, tx.first + request.position, request.body)
        tx.execute(SQL["save_fold"], values)


def refusals(tx: Transaction, request: ReadRefusals) -> list[RefusalNote]:
    """Answer a ReadRefusals."""
    rows = tx.execute(SQL["refusals"], (tx.space, request.limit))
    return [RefusalNote(*row) for row in rows]


def save_refusals(tx: Transaction, notes: Sequence[RefusalNote], kept: int) -> None:
    """Keep refusals and forget the oldest, inside a write transaction that the caller opened."""
    tx.connection.executemany(SQL["add_refusal"], [(tx.space, *each) for each in notes])
    tx.execute(SQL["trim_refusals"], (tx.space, kept))


def log_end(tx: Transaction) -> int:
    """Return the position of the last entry, 0 where there is none."""
    position: int = tx.execute(SQL["log_end"], (tx.first, tx.last)).fetchone()[0]
    return position


def _position_at(tx: Transaction, time_us: int, floor: int, end: int) -> int:
    """Return the last position committed at or before a time, -1 where that was trimmed.

    Times never fall along the log.
    """
    low, high = floor, end
    while low < high:
        middle = (low + high + 1) // 2
        time: int = tx.execute(SQL["time_at"], (tx.first + middle,)).fetchone()[0]
        low, high = (middle, high) if time <= time_us else (low, middle - 1)
    if low == floor > 0:  # whose row is there: it is the last of its key
        (time,) = tx.execute(SQL["time_at"], (tx.first + floor,)).fetchone()
        return low if time <= time_us else -1
    return low


def trim(tx: Transaction, request: Trim) -> Floor:
    """Answer a Trim.

    Of every key the last row up to the cut stays, without its operation id; that of a merged key
    becomes its fold.
    """
    floor = floor_of(tx, request)
    cut, blocked = request.upto, floor.needed is not None and request.upto >= floor.needed
    if cut <= floor.position or blocked:
        return floor
    execute, space, last = tx.execute, tx.space, tx.first + cut
    folds = dict(request.folds)
    window = (tx.first + floor.position, last)
    for key, entry in execute(SQL["last_of_keys"], window).fetchall():
        execute(SQL["drop_older"], (space, key, entry))
        if key in folds:
            execute(SQL["become_fold"], (folds[key], entry))
            execute(SQL["save_fold"], (space, key, entry, folds[key]))
        else:
            execute(SQL["become_base"], (entry,))
    execute(SQL["set_trimmed"], (cut, space))
    return floor._replace(position=cut, cut=cut - floor.position)


def floor_of(tx: Transaction, request: Trim) -> Floor:
    """Return where the log is cut, and what consumer groups and projections still need."""
    needed = tx.execute(SQL["needed"], (tx.space, tx.first)).fetchone()
    position = trimmed(tx)
    return Floor(position) if needed is None else Floor(position, *needed)


def trimmed(tx: Transaction) -> int:
    """Return the position that the log is cut up to, 0 where it is whole."""
    position: int = tx.execute(SQL["trimmed"], (tx.space,)).fetchone()[0]
    return position


def save_projection(tx: Transaction, request: SaveProjection) -> None:
    """Answer a SaveProjection, inside a write transaction that the caller opened."""
    if trimmed(tx) <= request.position <= log_end(tx):
        values = (tx.space, request.name, tx.first + request.position, request.body)
        tx.execute(SQL["save_fold"], values)


def load_projection(tx: Transaction, request: LoadProjection) -> Kept | None:
    """Answer a LoadProjection."""
    row = tx.execute(SQL["fold"], (tx.space, request.name)).fetchone()
    return None if row is None else Kept(row[0] - tx.first, row[1])


def drop_projection(tx: Transaction, request: DropProjection) -> None:
    """Answer a DropProjection, inside a write transaction that the caller opened."""
    tx.execute(SQL["drop_fold"], (tx.space, request.name))
