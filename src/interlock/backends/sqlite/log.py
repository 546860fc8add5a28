"""The log and what is kept beside it: snapshots of now and of any moment, pages of the log,
trimming, and the tables of caches (folds, projections) and of refusals.

Each answer is one consistent moment: the caller has opened a transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from interlock.backends.answers import LogRow, log_page, size_of, value_page
from interlock.backends.sqlite.commit import (
    LEASES,
    TICKETS,
    Where,
    alive,
    applied,
    erasures,
    opening,
    record,
    rules_version,
    trimmed,
)
from interlock.backends.sqlite.statements import SQL
from interlock.core.conflict_report import RefusalNote
from interlock.core.keys import prefix_end
from interlock.core.records import KeyInfo, Leaseholder, Record, Snapshot
from interlock.core.refusals import Pruned, pruned
from interlock.core.requests import (
    NEAR,
    PAGE_BYTES,
    PAGE_SPAN,
    DropProjection,
    Floor,
    Kept,
    ListExpired,
    ListKeys,
    Load,
    LoadAt,
    LoadProjection,
    LogPage,
    ReadLog,
    ReadRefusals,
    ReadValues,
    SaveFold,
    SaveProjection,
    Trim,
    ValuePage,
)

_FETCHED = 16  # rows of the log at once: what a page may hold in memory beyond its bytes


def load(connection: sqlite3.Connection, where: Where, request: Load) -> Snapshot:
    """Answer a Load."""
    execute, space = connection.execute, where.space
    now, position, _, flags = opening(connection, where)
    if len(request.keys) == 1:
        rows = execute(SQL["record"], (space, request.keys[0])).fetchall()
    elif request.keys:
        rows = execute(SQL["records"], (json.dumps(request.keys), space)).fetchall()
    else:
        rows = []
    records = {row[0]: record(connection, where, row, now) for row in rows}
    scans = {
        prefix: tuple(
            record(connection, where, row, now)
            for row in execute(SQL["scan"], (space, prefix, prefix_end(prefix), now))
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


def list_keys(
    connection: sqlite3.Connection, where: Where, request: ListKeys
) -> tuple[KeyInfo, ...]:
    """Answer a ListKeys."""
    prefix, after = request.prefix, request.after
    bounds = (prefix, prefix_end(prefix), max(prefix, after), after)
    rows = connection.execute(
        SQL["list_keys"], (where.space, *bounds, request.limit, where.clock(), request.deleted)
    )
    return tuple(map(KeyInfo._make, rows))


def list_expired(
    connection: sqlite3.Connection, where: Where, request: ListExpired
) -> tuple[KeyInfo, ...]:
    """Answer a ListExpired."""
    values = (where.space, where.clock(), request.limit)
    return tuple(map(KeyInfo._make, connection.execute(SQL["list_expired"], values)))


def load_at(connection: sqlite3.Connection, where: Where, request: LoadAt) -> Snapshot | Pruned:
    """Answer a LoadAt: the last entry of each key up to a position or a time."""
    floor = trimmed(connection, where)
    execute, space = connection.execute, where.space
    now, end, _, _ = opening(connection, where)
    if request.position is not None:
        position = min(request.position, end)
    else:
        position = _position_at(connection, where, request.time_us or 0, floor, end)
    if position < floor:
        return pruned(max(position, 0), floor)
    last, time_us = where.first + position, request.time_us or 0
    rows = execute(SQL["records_at"], (json.dumps(request.keys), space, last)).fetchall()
    records: dict[str, Record] = {
        row[0]: record(connection, where, row, time_us, last) for row in rows
    }
    scans = {
        prefix: tuple(
            record(connection, where, row, time_us, last)
            for row in execute(SQL["scan_at"], (space, prefix, prefix_end(prefix), last, time_us))
        )
        for prefix in request.prefixes
    }
    return Snapshot(position, now, records, scans, {})


def read_log(
    connection: sqlite3.Connection, where: Where, request: ReadLog | ReadValues
) -> LogPage | ValuePage | Pruned:
    """Answer a ReadLog, or a ReadValues."""
    floor = trimmed(connection, where)
    if request.after < 0:
        request = request.replace(after=floor)
    if request.after < floor:
        return pruned(request.after, floor)
    head, erased = log_end(connection, where), erasures(connection, where)
    if isinstance(request, ReadLog):
        return log_page(_rows(connection, where, request), head, request, erased)
    page = _joined(connection, where, request, head, erased)
    return page or value_page(_rows(connection, where, request), head, request, erased)


def _joined(
    connection: sqlite3.Connection, where: Where, request: ReadValues, head: int, erased: int
) -> ValuePage | None:
    """Return values that SQLite has joined, which is faster than to fetch row by row; None where
    the page would be too long."""
    values = (*_window(where, request), where.space, request.key)
    before = connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, PAGE_BYTES)
    try:
        lines, last, count = connection.execute(SQL["values_of_key"], values).fetchone()
    except sqlite3.DataError:
        return None
    finally:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)
    upto = last if count == request.limit else max(head, request.after)
    return ValuePage(lines or "", upto, head, erased)


def _rows(
    connection: sqlite3.Connection, where: Where, request: ReadLog | ReadValues
) -> list[LogRow]:
    """Return the rows of a page of the log."""
    window = _window(where, request)
    if request.key is not None:
        rows = connection.execute(SQL["log_page_of_key"], (*window, where.space, request.key))
    elif request.prefix:
        bounds = (request.prefix, prefix_end(request.prefix))
        window = (window[0], min(window[1], window[0] + PAGE_SPAN), window[2])
        rows = connection.execute(SQL["log_page_of_prefix"], (*window, *bounds))
    else:
        rows = connection.execute(SQL["log_page"], window)
    found: list[LogRow] = []
    size = 0
    while some := rows.fetchmany(_FETCHED):
        found += some
        size += size_of(some)
        if size >= PAGE_BYTES:
            while len(some) > 1 and size - size_of(some[-1:]) >= PAGE_BYTES:
                size -= size_of([some.pop()])
                found.pop()
            break
    return found


def _window(where: Where, request: ReadLog | ReadValues) -> tuple[int, int, int]:
    """Return the last id before those that are asked for, the last of the space, and how many."""
    return min(where.first + request.after, where.last), where.last, request.limit


def save_fold(connection: sqlite3.Connection, where: Where, request: SaveFold) -> None:
    """Keep the fold of a merged key, inside a write transaction that the caller opened."""
    same = rules_version(connection, where) == request.rules
    if same and erasures(connection, where) == request.erasures:
        values = (where.space, request.key, where.first + request.position, request.body)
        connection.execute(SQL["save_fold"], values)


def refusals(
    connection: sqlite3.Connection, where: Where, request: ReadRefusals
) -> list[RefusalNote]:
    """Answer a ReadRefusals."""
    rows = connection.execute(SQL["refusals"], (where.space, request.limit))
    return [RefusalNote(*row) for row in rows]


def save_refusals(
    connection: sqlite3.Connection, where: Where, notes: Sequence[RefusalNote], kept: int
) -> None:
    """Keep refusals and forget the oldest, inside a write transaction that the caller opened."""
    connection.executemany(SQL["add_refusal"], [(where.space, *each) for each in notes])
    connection.execute(SQL["trim_refusals"], (where.space, kept))


def log_end(connection: sqlite3.Connection, where: Where) -> int:
    """Return the position of the last entry, 0 where there is none."""
    position: int = connection.execute(SQL["log_end"], (where.first, where.last)).fetchone()[0]
    return position


def _position_at(
    connection: sqlite3.Connection, where: Where, time_us: int, floor: int, end: int
) -> int:
    """Return the last position committed at or before a time, -1 where that was trimmed.

    Times never fall along the log.
    """
    low, high = floor, end
    while low < high:
        middle = (low + high + 1) // 2
        time: int = connection.execute(SQL["time_at"], (where.first + middle,)).fetchone()[0]
        low, high = (middle, high) if time <= time_us else (low, middle - 1)
    if low == floor > 0:  # whose row is there: it is the last of its key
        (time,) = connection.execute(SQL["time_at"], (where.first + floor,)).fetchone()
        return low if time <= time_us else -1
    return low


def trim(connection: sqlite3.Connection, where: Where, request: Trim) -> Floor:
    """Answer a Trim.

    Of every key the last row up to the cut stays, without its operation id; that of a merged key
    becomes its fold.
    """
    floor = floor_of(connection, where, request)
    cut, blocked = request.upto, floor.needed is not None and request.upto >= floor.needed
    if cut <= floor.position or blocked or request.erasures != floor.erasures:
        return floor
    execute, space, last = connection.execute, where.space, where.first + cut
    folds = dict(request.folds)
    window = (where.first + floor.position, last)
    for key, entry in execute(SQL["last_of_keys"], window).fetchall():
        execute(SQL["drop_older"], (space, key, entry))
        if key in folds:
            execute(SQL["become_fold"], (folds[key], entry))
            execute(SQL["save_fold"], (space, key, entry, folds[key]))
        else:
            execute(SQL["become_base"], (entry,))
    execute(SQL["set_trimmed"], (cut, space))
    return floor._replace(position=cut, cut=cut - floor.position)


def floor_of(connection: sqlite3.Connection, where: Where, request: Trim) -> Floor:
    """Return where the log is cut, and what consumer groups and projections still need."""
    needed = connection.execute(SQL["needed"], (where.space, where.first)).fetchone()
    position = trimmed(connection, where)
    first, name = needed or (None, "")
    return Floor(position, first, name, erasures=erasures(connection, where))


def save_projection(connection: sqlite3.Connection, where: Where, request: SaveProjection) -> None:
    """Answer a SaveProjection, inside a write transaction that the caller opened."""
    now = erasures(connection, where)
    kept = trimmed(connection, where) <= request.position <= log_end(connection, where)
    if kept and request.erasures in (None, now):
        values = (where.space, request.name, where.first + request.position, request.body)
        connection.execute(SQL["save_fold"], values)


def load_projection(
    connection: sqlite3.Connection, where: Where, request: LoadProjection
) -> Kept | None:
    """Answer a LoadProjection."""
    row = connection.execute(SQL["fold"], (where.space, request.name)).fetchone()
    if row is None:
        return None
    return Kept(row[0] - where.first, row[1], erasures(connection, where))


def drop_projection(connection: sqlite3.Connection, where: Where, request: DropProjection) -> None:
    """Answer a DropProjection, inside a write transaction that the caller opened."""
    connection.execute(SQL["drop_fold"], (where.space, request.name))
