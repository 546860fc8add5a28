"""Trimming the log, inside a write transaction that the caller opened."""

from __future__ import annotations

import sqlite3

from interlock.backends.sqlite.commit import Where, erasures, trimmed
from interlock.backends.sqlite.statements import SQL
from interlock.core.requests import Floor, Trim


def trim(connection: sqlite3.Connection, where: Where, request: Trim) -> Floor:
    """Answer a Trim.

    Of every key the last row up to the cut stays, without its operation id; that of a merged key
    becomes its fold.
    """
    floor = look(connection, where, request)
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


def look(connection: sqlite3.Connection, where: Where, request: Trim) -> Floor:
    """Return where the log is cut, and what consumer groups and projections still need."""
    needed = connection.execute(SQL["needed"], (where.space, where.first)).fetchone()
    position = trimmed(connection, where)
    first, name = needed or (None, "")
    return Floor(position, first, name, erasures=erasures(connection, where))
