"""What is to be said of the health of a store in SQLite."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

from interlock.backends.sqlite import health, location
from interlock.backends.sqlite.commit import host_clock, locate
from interlock.backends.sqlite.connect import DURABILITY, SCHEMA_VERSION, SQLiteOptions
from interlock.backends.sqlite.health import LOG_LIMIT, log_size
from interlock.backends.sqlite.statements import load
from interlock.core.health import GroupLag, QueueState, SpaceState, bytes_of, of_spaces
from interlock.core.spaces import Finding

_SQL = load("spaces.sql")
_CHECKED = 256 << 20  # bytes up to which the whole file is checked
_FREE = 0.5  # of the pages


def examine(
    connection: sqlite3.Connection, place: location.Location, options: SQLiteOptions
) -> tuple[Finding, ...]:
    """Answer an Examine, in a transaction that only reads."""
    return (*_of_file(connection, place, options), *of_spaces(_states(connection)))


def _of_file(
    connection: sqlite3.Connection, place: location.Location, options: SQLiteOptions
) -> Iterator[Finding]:
    def pragma(name: str) -> int:
        return int(connection.execute(f"PRAGMA {name}").fetchone()[0])

    yield Finding("server", "ok", f"SQLite {sqlite3.sqlite_version}")
    yield Finding("schema", "ok", f"version {pragma('user_version')} of {SCHEMA_VERSION}")
    mode = DURABILITY[options.durability]
    if options.durability == "full":
        yield Finding("durability", "ok", "synchronous=FULL: a commit is on the disk")
    else:
        advice = "Open it with durability='full', unless you can lose the last commits."
        yield Finding("durability", "note", f"synchronous={mode}", advice)
    size, free = pragma("page_count"), pragma("freelist_count")
    taken = bytes_of(size * pragma("page_size"))
    if size and free / size > _FREE:
        advice = "To give it back to the disk, close the store everywhere and run VACUUM."
        yield Finding("space", "note", f"{taken}, {100 * free // size} % of it unused", advice)
    else:
        yield Finding("space", "ok", taken)
    if place.path is None:
        return
    log = log_size(place.path)
    if log > LOG_LIMIT:
        who = " and ".join(map(str, health.readers_of(place.path))) or "a process"
        found = f"the write-ahead log has {bytes_of(log)}"
        yield Finding("log", "wrong", found, f"End the transaction that {who} keeps open.")
    kind = location.file_system(place.path.parent)
    yield Finding("file system", "ok", kind or "unknown")
    others = {each for each in health.connected(place.path) if each.pid != os.getpid()}
    yield Finding("connected", "ok", ", ".join(sorted(map(str, others))) or "nobody else")
    if size * pragma("page_size") <= _CHECKED:
        told = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if told == "ok":
            yield Finding("integrity", "ok", "every page of the file is sound")
        else:
            advice = "Stop writing, and restore a backup."
            yield Finding("integrity", "wrong", f"the file is damaged: {told:.200}", advice)


def _states(connection: sqlite3.Connection) -> Iterator[SpaceState]:
    now, execute = host_clock(), connection.execute
    for space, name, trimmed, source in execute(_SQL["spaces"]).fetchall():
        where = locate(space, "", None, "")
        row = execute(_SQL["last_entry"], (where.first, where.last)).fetchone()
        position, last = row or (0, 0)
        leases = execute(_SQL["all_leases"], (space,)).fetchall()
        yield SpaceState(
            name,
            max(position - trimmed, 0),
            position,
            source is not None,
            (last - now) / 1e6,
            tuple((key, holder, (expires - now) / 1e6) for key, holder, expires in leases),
            tuple(map(QueueState._make, execute(_SQL["all_queues"], (space, now)))),
            tuple(map(GroupLag._make, execute(_SQL["group_lags"], (space, now)))),
        )
