"""Opens connections, and makes, checks and migrates the schema of a store."""

from __future__ import annotations

import random
import re
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.sqlite import health
from interlock.backends.sqlite.faults import fault_of, is_busy
from interlock.backends.sqlite.health import LOG_LIMIT
from interlock.backends.sqlite.location import Location, check, is_settled
from interlock.backends.sqlite.statements import MIGRATIONS, SCHEMA
from interlock.errors import IncompatibleStore, Invalid, Unavailable

APPLICATION_ID = 0x494C434B  # "ILCK", in the header of the file
SCHEMA_VERSION = 2

# Not OFF for `off`: a checkpoint would move the commits of other processes without syncing them.
DURABILITY = {"full": "FULL", "normal": "NORMAL", "off": "NORMAL"}
_OLDEST_SQLITE = (3, 35, 0)
_CHECKPOINT_PAGES = 4000  # a commit writes about four pages: the log, its two indexes, the head


class SQLiteOptions(NamedTuple):
    """Settings of a store in SQLite.

    `durability`: `full` keeps every acknowledged commit through a power failure.  `normal` and
    `off` may lose the last commits when the machine (not the process) dies.
    `busy_timeout`: seconds to wait for another process that is writing.
    """

    durability: str = "full"
    busy_timeout: float = 20.0


def check_options(options: SQLiteOptions) -> None:
    """Raise Invalid where an option has no meaning."""
    if options.durability not in DURABILITY:
        raise Invalid(f"durability={options.durability!r} must be one of {', '.join(DURABILITY)}.")
    seconds = options.busy_timeout
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 1e6:
        raise Invalid(f"busy_timeout={options.busy_timeout!r} must be a number of seconds from 0.")
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise IncompatibleStore(
            f"This Python has SQLite {sqlite3.sqlite_version}. Interlock needs 3.35 or newer."
        )


def connect(place: Location, options: SQLiteOptions) -> sqlite3.Connection:
    """Open one connection.  Raises the library's faults."""
    check(place)
    try:
        connection = sqlite3.connect(
            ":memory:" if place.path is None else _uri(place),
            timeout=options.busy_timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            uri=place.path is not None,
        )
    except sqlite3.Error as problem:
        raise fault_of(problem, str(place)) from problem
    try:
        connection.execute(f"PRAGMA synchronous={DURABILITY[options.durability]}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_LIMIT}")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA secure_delete=ON")  # what is overwritten or moved leaves no copy
        return connection
    except sqlite3.Error as problem:
        connection.close()
        raise fault_of(problem, str(place)) from problem


def prepare(
    connection: sqlite3.Connection,
    place: Location,
    options: SQLiteOptions,
    migrations: Mapping[int, str] = MIGRATIONS,
    version: int = SCHEMA_VERSION,
    guest: bool = False,
) -> None:
    """Bring a store to schema `version`: make it where the file is new, refuse what is not ours.

    `guest`: a file that has an application's tables only may hold it, too.
    """
    deadline = time.monotonic() + options.busy_timeout
    try:
        found = _checked_version(connection, place, version, guest)
        if found == version:
            return
        if place.read_only:
            raise IncompatibleStore(
                f"{place} must be migrated from schema {found} to {version}. "
                "Open it once without ?mode=ro."
            )
        if place.path is not None:
            _switch_to_wal(connection, deadline, str(place))
        begin_immediate(connection, deadline, str(place))
        try:
            found = _checked_version(connection, place, version, guest)
            scripts = [SCHEMA] if found == 0 else [migrations[v] for v in range(found, version)]
            for script in scripts if found != version else ():
                for statement in _split(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={version}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except sqlite3.Error as problem:
        raise fault_of(problem, str(place)) from problem


def creation() -> str:
    """Return the script that makes a store in an empty file, for whoever runs it by hand."""
    return (
        f"PRAGMA journal_mode=WAL;\n\nBEGIN;\n\n{SCHEMA}\n"
        f"PRAGMA application_id={APPLICATION_ID};\n\nPRAGMA user_version={SCHEMA_VERSION};\n\n"
        "COMMIT;\n"
    )


def check_guest(connection: sqlite3.Connection, place: Location, create: bool) -> None:
    """Raise where a store is not in an application's file, and cannot be made in it."""
    if connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,):
        return
    if not create:
        raise no_space(str(place))
    names = {name for (name,) in connection.execute("SELECT lower(name) FROM sqlite_master")}
    taken = sorted(names & {*re.findall(r"^CREATE (?:TABLE|INDEX) (\w+)", SCHEMA, re.M)})
    if taken:
        raise Invalid(
            f"{place} has a table or index {taken[0]!r}, which a store needs for itself. Keep the "
            "store in a file of its own."
        )


def try_begin(connection: sqlite3.Connection) -> bool:
    """Take the write lock if nobody has it, and say whether that went well."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        return True
    except sqlite3.Error as problem:
        if is_busy(problem):
            return False
        raise


def begin_immediate(connection: sqlite3.Connection, deadline: float, place: str) -> None:
    """Take the write lock, waiting for other processes until `deadline` (monotonic seconds).

    SQLite's own waiting asks in fixed steps of up to 100 ms; this asks sooner and at random
    moments, so that a free lock does not stay free, and ever less often, so that many can wait.
    """
    pause = 0.0005
    while not try_begin(connection):
        if time.monotonic() >= deadline:
            who = health.writer_of(Path(place)) or "another process"
            raise Unavailable(
                f"{who} kept the write lock of {place} for longer than busy_timeout. "
                "Try again, or raise busy_timeout=."
            )
        time.sleep(random.uniform(0.2, 1.0) * pause)
        pause = min(pause * 1.5, 0.1)


def _checked_version(
    connection: sqlite3.Connection, place: Location, newest: int, guest: bool = False
) -> int:
    """Return the schema version of the store, 0 where there is none yet and may be one."""
    began = not connection.in_transaction
    if began:
        connection.execute("BEGIN")  # one moment: another process may be making the schema
    try:
        application, version, tables = (
            connection.execute(question).fetchone()[0]
            for question in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT COUNT(*) FROM sqlite_master",
            )
        )
    finally:
        if began and connection.in_transaction:
            connection.execute("ROLLBACK")
    if application == APPLICATION_ID:
        if version > newest:
            raise IncompatibleStore(
                f"{place} was made by a newer Interlock (schema {version}; this one knows "
                f"{newest}): upgrade it with `pip install -U interlock`."
            )
        return int(version)
    if guest and (application or version):
        raise Invalid(
            f"{place} has an application_id or user_version of the application's, and SQLite has "
            "room for one. Keep the store in a file of its own."
        )
    if application or version or (tables and not guest):
        raise IncompatibleStore(
            f"{place} is another program's SQLite database, not an Interlock store. "
            "Name another file."
        )
    return 0


def _switch_to_wal(connection: sqlite3.Connection, deadline: float, place: str) -> None:
    """Turn write-ahead logging on.  SQLite does not wait for locks here, so this does."""
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
            if mode != "wal":
                raise IncompatibleStore(
                    f"{place} can't use write-ahead logging (journal mode stays {mode!r}): "
                    "its file system lacks shared memory."
                )
            return
        except sqlite3.Error as problem:
            if not is_busy(problem) or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.001, 0.01))


def _split(script: str) -> list[str]:
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def _uri(place: Location) -> str:
    assert place.path is not None
    if not place.read_only:
        return place.path.as_uri()
    # SQLite makes the shared memory of the write-ahead log even to read.
    fixed = "&immutable=1" if is_settled(place.path) else ""
    return f"{place.path.as_uri()}?mode=ro{fixed}"
