"""Taking values away for good: from the log and the caches, then from the bytes of the files."""

from __future__ import annotations

import json
import sqlite3

from interlock.backends.sqlite.commit import Where
from interlock.backends.sqlite.location import Location
from interlock.backends.sqlite.statements import SQL
from interlock.core.requests import Redact, Redacted, Scrub, Scrubbed


def redact(connection: sqlite3.Connection, where: Where, request: Redact) -> Redacted:
    """Answer a Redact, inside a write transaction that the caller opened."""
    execute, space = connection.execute, where.space
    positions, keys = json.dumps(request.positions), json.dumps(request.keys)
    entries = execute(SQL["redact"], (positions, where.first, space, keys)).rowcount
    for key, position, body in request.bases:
        entries += execute(SQL["set_base"], (body, where.first + position, space, key)).rowcount
    folds = 0
    for key in request.folds:
        execute(SQL["raise_epoch"], (space, key))  # what was read before is not what it is now
        folds += execute(SQL["drop_fold"], (space, key)).rowcount
        execute(SQL["restart_fold"], (space, key))
    touched = (*request.positions, *(position for _, position, _ in request.bases))
    since = where.first + min(touched, default=where.last)
    dropped = tuple(key for (key,) in execute(SQL["drop_projections"], (space, since)))
    execute(SQL["count_erasure"], (space,))
    return Redacted(entries, folds, dropped)


def scrub(connection: sqlite3.Connection, place: Location, request: Scrub) -> Scrubbed:
    """Answer a Scrub, on a connection that is outside a transaction.

    With `secure_delete` SQLite overwrites what it frees; the old pages are in the write-ahead log,
    which is emptied here as soon as nobody reads them.
    """
    if place.path is None:
        return Scrubbed(0)
    done = []
    if request.vacuum:
        connection.execute("VACUUM")
        done.append("the file was rewritten (VACUUM)")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    done.append("the write-ahead log was emptied")
    remains = (
        f"copies of {place} made before: backups, file system snapshots, what a disk keeps of"
        " blocks that were overwritten",
    )
    return Scrubbed(int(busy), tuple(done), remains)
