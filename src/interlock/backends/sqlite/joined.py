"""A space of SQLite inside a transaction of the caller's.

A file has one writer at a time.  So the block begins with the write lock of the file: what is read
in it does not move until the caller commits, and nobody else writes to the file.  The caller's
connection is used as it is, in the caller's thread.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from interlock.backends.answers import reads_of
from interlock.backends.contract import Backend
from interlock.backends.driver_connection import (
    described,
    driver_connection,
    driver_connection_async,
)
from interlock.backends.joined import Elsewhere, JoinedBackend, ended
from interlock.backends.sqlite import health, log
from interlock.backends.sqlite.commit import Step, Where
from interlock.backends.sqlite.faults import fault_of, is_busy
from interlock.backends.sqlite.location import Location
from interlock.core.plan import Plan
from interlock.core.records import Committed, Snapshot
from interlock.core.refusals import Outcome
from interlock.core.requests import Commit, ListKeys, Load, LoadAt, ReadLog, ReadValues, Request
from interlock.errors import Invalid, Unavailable

_LOCK = "UPDATE spaces SET name = name WHERE 0"  # changes nothing, and takes the write lock
_SHORTEST, _LONGEST = 0.0005, 0.1  # seconds between two attempts to take it
_READS: Mapping[type[Request[Any]], Callable[[Any, Where, Any], Any]] = {
    Load: log.load,
    LoadAt: log.load_at,
    ListKeys: log.list_keys,
    ReadLog: log.read_log,
    ReadValues: log.read_log,
}


class SQLiteJoined(JoinedBackend):
    """One space inside a transaction of the sqlite3 module's.

    `busy_timeout`: seconds to wait for the write lock.  `reach_disk` brings to the disk what was
    committed before.
    """

    def __init__(
        self,
        outer: Backend,
        connection: object,
        place: Location,
        where: Where,
        busy_timeout: float,
        reach_disk: Callable[[], None],
    ) -> None:
        super().__init__(outer, connection)
        self._place = place
        self._where = where
        self._busy_timeout = busy_timeout
        self._reach_disk = reach_disk
        self._driver: Any = None

    def begin(self) -> None:
        """Take the write lock of the file in the caller's transaction, beginning it as the
        connection itself would have."""
        self._driver = driver_connection(self.connection)
        for seconds in self._locking():
            time.sleep(seconds)

    async def begin_async(self) -> None:
        """The same; an event loop goes on while it waits."""
        self._driver = await driver_connection_async(self.connection)
        for seconds in self._locking():
            await asyncio.sleep(seconds)

    def _answer(self, request: Request[Any]) -> Any:
        with self._translated():
            if not self._driver.in_transaction:
                raise ended()
            with self._plain():
                if isinstance(request, Commit):
                    answer: Any = self._commit(request.plan)
                else:
                    answer = _READS[type(request)](self._driver, self._where, request)
        before = answer.applied if isinstance(answer, Snapshot) else answer
        if isinstance(before, Committed) and before.replayed:
            self._reach_disk()
        return answer

    async def _answer_async(self, request: Request[Any]) -> Any:
        return self._answer(request)  # it waits for nobody: the lock is held

    def _commit(self, plan: Plan) -> Outcome:
        connection = self._driver
        reads = reads_of(plan)
        connection.execute("SAVEPOINT interlock")
        try:
            step = Step(connection, self._where, [plan])
            outcome = step.commit(plan, reads)
            step.flush()
        except BaseException:
            if connection.in_transaction:  # a full disk may have rolled back all of it
                connection.execute("ROLLBACK TO interlock")
                connection.execute("RELEASE interlock")
            raise
        connection.execute("RELEASE interlock")
        return outcome

    # Beginning

    def _locking(self) -> Iterator[float]:
        """Take the write lock; yield the seconds to wait between two attempts."""
        with self._translated():
            self._check()
            begin = None if self._driver.in_transaction else self._begin()
            (waits,) = self._driver.execute("PRAGMA busy_timeout").fetchone()
            self._driver.execute("PRAGMA busy_timeout=0")  # an event loop must not be blocked
            try:
                yield from self._attempts(begin or _LOCK)
            finally:
                self._driver.execute(f"PRAGMA busy_timeout={waits}")

    def _attempts(self, statement: str) -> Iterator[float]:
        deadline = time.monotonic() + self._busy_timeout
        pause = _SHORTEST
        while True:
            try:
                self._driver.execute(statement)
                return
            except sqlite3.Error as problem:
                if getattr(problem, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY_SNAPSHOT:
                    raise Unavailable(
                        f"Your transaction reads an older moment of {self._place}: others have "
                        "written since it began. Roll it back, and begin it with BEGIN IMMEDIATE."
                    ) from problem
                if not is_busy(problem):
                    raise
                if time.monotonic() >= deadline:
                    raise self._busy() from problem
            yield random.uniform(0.2, 1.0) * pause
            pause = min(pause * 1.5, _LONGEST)

    def _busy(self) -> Unavailable:
        path = self._place.path
        who = (path and health.writer_of(path)) or "another process"
        return Unavailable(
            f"{who} kept the write lock of {self._place} for longer than busy_timeout. Try again, "
            "or raise busy_timeout=."
        )

    def _begin(self) -> str:
        """Return the statement that begins the transaction as the connection itself would have,
        at the first write."""
        legacy = getattr(self._driver, "autocommit", -1) == -1  # sqlite3.LEGACY_TRANSACTION_CONTROL
        if not legacy or self._driver.isolation_level is None:
            raise Invalid(
                "The connection has no open transaction (autocommit). Join after "
                'connection.execute("BEGIN IMMEDIATE").'
            )
        return "BEGIN IMMEDIATE"

    def _check(self) -> None:
        if not isinstance(self._driver, sqlite3.Connection):
            raise Elsewhere(
                f"A {described(self._driver)} can't be joined here. Give a sqlite3.Connection, or "
                "SQLAlchemy's over sqlite://."
            )
        with self._plain():
            rows = self._driver.execute("PRAGMA database_list").fetchall()
        file = next((path for _, name, path in rows if name == "main"), "")
        if self._place.path is None or not file or not os.path.samefile(file, self._place.path):
            where = f"is {file}" if file else "is in memory"
            raise Elsewhere(f"The connection {where}, and the space is in {self._place}.")

    # The caller's connection

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """Have rows be tuples and texts strings, whatever the caller makes of them."""
        connection = self._driver
        factories = connection.row_factory, connection.text_factory
        connection.row_factory, connection.text_factory = None, str
        try:
            yield
        finally:
            connection.row_factory, connection.text_factory = factories

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError as problem:  # closed, or of another thread
            raise Invalid(f"The connection can't be used here: {problem}") from problem
        except (sqlite3.Error, json.JSONDecodeError) as problem:
            raise fault_of(problem, str(self._place)) from problem
