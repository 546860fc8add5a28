"""A SQLite file as a whole: the spaces in it.  See `core/spaces.py` for the requests."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from typing import Literal

from interlock.backends.contract import not_empty, other_source
from interlock.backends.sqlite import location, store
from interlock.backends.sqlite.commit import host_clock, locate
from interlock.backends.sqlite.connect import SQLiteOptions, begin_immediate, check_options
from interlock.backends.sqlite.faults import translated
from interlock.backends.sqlite.statements import SQL, load
from interlock.backends.whole_store import WholeStore
from interlock.core.requests import T
from interlock.core.spaces import (
    DONE,
    GONE,
    TAKEN,
    CreateSpace,
    DropSpace,
    Examine,
    Finding,
    FindSpace,
    ListSpaces,
    RenameSpace,
    SpaceInfo,
)
from interlock.core.transfer import Importing

SPACES = load("spaces.sql")
_PARTS = ("pending", "consumers", "groups")  # of a group first, then the group
_TABLES = ("heads", "folds", "leases", "agents", "refusals")
_TICKETS = ("ticket_holds", "ticket_keys", "tickets")


class SQLiteStore(WholeStore):
    """All spaces of one file, or of one database in memory."""

    def __init__(
        self, url: str, options: SQLiteOptions | None = None, create: bool = False
    ) -> None:
        self._options = options or SQLiteOptions()
        check_options(self._options)
        self._place = location.parse(url)
        self._key, self._store = store.borrow(self._place, self._options, create)

    def close(self) -> None:
        """Give back the connections."""
        store.give_back(self._key, self._store)

    def _list(self, request: ListSpaces) -> tuple[SpaceInfo, ...]:
        def read(connection: sqlite3.Connection) -> tuple[SpaceInfo, ...]:
            rows = connection.execute(SPACES["spaces"]).fetchall()
            return tuple(_info(connection, *row) for row in rows)

        return self._read(read)

    def _named(self) -> list[str]:
        rows = self._read(lambda c: c.execute(SPACES["spaces"]).fetchall())
        return [name for _, name, _, source in rows if source is None]

    def _find(self, request: FindSpace) -> str | None:
        row = self._read(lambda c: c.execute(SQL["find_space"], (request.name,)).fetchone())
        return None if row is None else str(row[1])

    def _create(self, request: CreateSpace) -> bool:
        def write(connection: sqlite3.Connection) -> bool:
            return add(connection, request.name, request.uid) == request.uid

        return self._write(write)

    def _drop(self, request: DropSpace) -> None:
        self._write(lambda connection: drop(connection, request.uid, request.unfinished))

    def _rename(self, request: RenameSpace) -> Literal["done", "taken", "gone"]:
        def write(connection: sqlite3.Connection) -> Literal["done", "taken", "gone"]:
            execute = connection.execute
            found = execute(SPACES["space_of_uid"], (request.uid,)).fetchone()
            if found is None:
                return GONE
            if found[1] == request.to:
                return DONE
            if execute(SQL["find_space"], (request.to,)).fetchone() is not None:
                return TAKEN
            execute(SPACES["rename_space"], (request.to, request.uid))
            return DONE

        return self._write(write)

    def _examine(self, request: Examine) -> tuple[Finding, ...]:
        from interlock.backends.sqlite import doctor

        return self._read(lambda connection: doctor.examine(connection, self._place, self._options))

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._store.pool.reader() as connection, translated(str(self._place)):
            connection.execute("BEGIN")
            try:
                return work(connection)
            finally:
                connection.execute("ROLLBACK")

    def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._store.pool.writer() as connection, translated(str(self._place)):
            deadline = time.monotonic() + self._options.busy_timeout
            begin_immediate(connection, deadline, str(self._place))
            try:
                answer = work(connection)
                connection.execute("COMMIT")
                return answer
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")


def add(connection: sqlite3.Connection, name: str, uid: str, source: str | None = None) -> str:
    """Make a space where there is none of the name, and return the unique id of what is there."""
    connection.execute(SPACES["add_space"], (name, uid, host_clock(), source))
    found: str = connection.execute(SQL["find_space"], (name,)).fetchone()[1]
    return found


def drop(connection: sqlite3.Connection, uid: str, unfinished: bool = False) -> None:
    """Drop a space with all that it holds; `unfinished`: only if its import is not finished."""
    found = connection.execute(SPACES["space_of_uid"], (uid,)).fetchone()
    if found is None or (unfinished and found[2] is None):
        return
    space, execute = found[0], connection.execute
    where = locate(space, uid, None, "")
    execute(SPACES["drop_log"], (where.first, where.last))
    for table in (*_PARTS, *_TABLES, *_TICKETS):
        execute(SPACES[f"drop_all_{table}"], (space,))
    execute(SPACES["retire_space"], (uid,))


def begin_import(
    connection: sqlite3.Connection, place: str, name: str, importing: Importing
) -> None:
    """Make a space for an import, or find the one that it began.  Raises Invalid.

    One that is there and empty is made anew: whoever has it open must not write into the import.
    """
    execute = connection.execute
    found = execute(SQL["find_space"], (name,)).fetchone()
    if found is not None:
        space, uid, source = found
        if source is not None:
            if source != importing.source:
                raise other_source(place, name)
            return
        if execute(SPACES["holds_anything"], (space,)).fetchone()[0]:
            raise not_empty(place, name)
        drop(connection, uid)
    add(connection, name, os.urandom(8).hex(), importing.source)
    execute(SPACES["set_space_trimmed"], (importing.floor, name))


def _info(
    connection: sqlite3.Connection, space: int, name: str, trimmed: int, source: str | None
) -> SpaceInfo:
    execute, where = connection.execute, locate(space, "", None, "")
    bounds = (where.first, where.last)
    (keys,) = execute(SPACES["count_keys"], (space, host_clock())).fetchone()
    position, time_us = execute(SPACES["last_entry"], bounds).fetchone() or (0, 0)
    (mean,) = execute(SPACES["mean_size"], bounds).fetchone()
    entries = max(position - trimmed, 0)
    size = int((mean or 0) * (entries + (keys if trimmed else 0)))
    return SpaceInfo(name, keys, entries, size, position, time_us, source is not None)
