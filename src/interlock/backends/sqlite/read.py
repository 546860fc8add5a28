"""Reading: snapshots of now and of any moment, and pages of the log, each one consistent moment."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from interlock.backends.sqlite.commit import Where, applied, opening, record
from interlock.backends.sqlite.statements import SQL
from interlock.core.keys import prefix_end
from interlock.core.records import Entry, Record, Snapshot
from interlock.core.requests import Load, LoadAt, LogPage, ReadLog
from interlock.core.values import decode_many


@contextmanager
def one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """Let every statement inside see the same moment.  Joins a transaction that is already open."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def load(connection: sqlite3.Connection, where: Where, request: Load) -> Snapshot:
    """Answer a Load."""
    execute, (space, uid, _) = connection.execute, where
    with one_moment(connection):
        now, position, _, queues = opening(connection, where)
        keys = json.dumps(request.keys)
        if len(request.keys) == 1:
            rows = execute(SQL["record"], (space, request.keys[0])).fetchall()
        else:
            rows = execute(SQL["records"], (keys, space)).fetchall() if request.keys else []
        records = {row[0]: record(row, uid) for row in rows}
        scans = {
            prefix: tuple(
                record(row, uid)
                for row in execute(SQL["scan"], (space, prefix, prefix_end(prefix)))
            )
            for prefix in request.prefixes
        }
        queued: dict[str, int] = {}
        if queues:
            queued = dict(execute(SQL["queued"], (keys, space, now)).fetchall())
        done = applied(execute, space, request.op_id) if request.op_id is not None else None
    return Snapshot(position, now, records, scans, queued, done)


def load_at(connection: sqlite3.Connection, where: Where, request: LoadAt) -> Snapshot:
    """Answer a LoadAt: the last entry of each key up to a position or a time."""
    execute, (space, uid, _) = connection.execute, where
    with one_moment(connection):
        now, end, _, _ = opening(connection, where)
        if request.position is not None:
            position = min(request.position, end)
        else:
            position = _position_at(connection, space, request.time_us or 0, end)
        rows = execute(SQL["records_at"], (json.dumps(request.keys), space, position)).fetchall()
        records: dict[str, Record] = {row[0]: record(row, uid) for row in rows}
        scans = {
            prefix: tuple(
                record(row, uid)
                for row in execute(SQL["scan_at"], (space, prefix, prefix_end(prefix), position))
            )
            for prefix in request.prefixes
        }
    return Snapshot(position, now, records, scans, {})


def read_log(connection: sqlite3.Connection, space: int, request: ReadLog) -> LogPage:
    """Answer a ReadLog."""
    window = (space, request.after, request.limit)
    with one_moment(connection):
        head = log_end(connection, space)
        if request.key is not None:
            rows = connection.execute(SQL["log_page_of_key"], (*window, request.key)).fetchall()
        elif request.prefix:
            bounds = (request.prefix, prefix_end(request.prefix))
            rows = connection.execute(SQL["log_page_of_prefix"], (*window, *bounds)).fetchall()
        else:
            rows = connection.execute(SQL["log_page"], window).fetchall()
    upto = rows[-1][0] if len(rows) == request.limit else max(head, request.after)
    return LogPage(_entries(rows), upto, head)


def _entries(rows: list[tuple[Any, ...]]) -> list[Entry]:
    values = decode_many(["null" if row[5] is None else row[5] for row in rows])
    return [
        Entry(
            position,
            key,
            version,
            epoch,
            kind,
            value,
            agent,
            time,
            op,
            None if reads is None else json.loads(reads),
        )
        for (position, key, version, epoch, kind, _, agent, time, op, reads), value in zip(
            rows, values, strict=True
        )
    ]


def log_end(connection: sqlite3.Connection, space: int) -> int:
    """Return the position of the last entry, 0 where there is none."""
    row = connection.execute(SQL["log_end"], (space,)).fetchone()
    return row[0] if row else 0


def _position_at(connection: sqlite3.Connection, space: int, time_us: int, end: int) -> int:
    """Return the last position committed at or before a time.  Times never fall along the log."""
    low, high = 0, end
    while low < high:
        middle = (low + high + 1) // 2
        time: int = connection.execute(SQL["time_at"], (space, middle)).fetchone()[0]
        low, high = (middle, high) if time <= time_us else (low, middle - 1)
    return low
