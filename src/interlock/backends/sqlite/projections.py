"""What is kept of projections: a table of caches, beside the log."""

from __future__ import annotations

import sqlite3

from interlock.backends.sqlite.commit import Where, erasures, trimmed
from interlock.backends.sqlite.read import log_end
from interlock.backends.sqlite.statements import SQL
from interlock.core.requests import DropProjection, Kept, LoadProjection, SaveProjection


def save(connection: sqlite3.Connection, where: Where, request: SaveProjection) -> None:
    """Answer a SaveProjection, inside a write transaction that the caller opened."""
    now = erasures(connection, where)
    kept = trimmed(connection, where) <= request.position <= log_end(connection, where)
    if kept and request.erasures in (None, now):
        values = (where.space, request.name, where.first + request.position, request.body)
        connection.execute(SQL["save_fold"], values)


def load(connection: sqlite3.Connection, where: Where, request: LoadProjection) -> Kept | None:
    """Answer a LoadProjection."""
    row = connection.execute(SQL["fold"], (where.space, request.name)).fetchone()
    if row is None:
        return None
    return Kept(row[0] - where.first, row[1], erasures(connection, where))


def drop(connection: sqlite3.Connection, where: Where, request: DropProjection) -> None:
    """Answer a DropProjection, inside a write transaction that the caller opened."""
    connection.execute(SQL["drop_fold"], (where.space, request.name))
