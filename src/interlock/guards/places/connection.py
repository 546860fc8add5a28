"""How statements are run on what an application has: a connection, a pool, an engine, a session.

Inside a transaction that is open a guard takes part in it; the caller commits.  Otherwise each call
is a transaction of its own.  Types are told by their names: nothing is imported that the
application does not use.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

from interlock.backends.driver_connection import described, is_a
from interlock.errors import AnswerLost, Invalid, Unavailable

MARK = "\0"  # where a value goes in a statement
Run = Callable[[str, Sequence[object]], Awaitable["Rows"]]
_REPEATED = ("40001", "40P01")  # serialization failure, deadlock
_REFUSED = ("22", "23", "42", "44", "P0")  # data, constraints, names, check options, RAISE
_GONE = ("08", "57P01", "57P02", "57P03", "57P05")


class Rows(NamedTuple):
    """What a statement returned, and how many rows it changed."""

    rows: list[tuple[Any, ...]]
    changed: int


class Use:
    """One use of a connection.  `reads`: nothing is written.  `whole`: several statements are one
    transaction.  Found out when it begins: whether it is `joined` to a transaction that is open,
    and the `connection` itself."""

    def __init__(self, reads: bool = False, whole: bool = False) -> None:
        self.reads, self.whole = reads, whole
        self.joined = False
        self.connection: Any = None


class Repeat(Exception):
    """The database rolled a statement back only because of others: it may be sent again."""


class Connection:
    """What the application has.  `dialect` is `postgresql` or `sqlite`."""

    def __init__(self, given: Any) -> None:
        self.dialect, self.asynchronous, self._open = _opener(given)
        self._given = given
        single = not is_a(given, "psycopg_pool") and not is_a(given, "sqlalchemy")
        self._lock = threading.Lock() if single and not self.asynchronous else None
        self._async_lock = asyncio.Lock() if single and self.asynchronous else None

    @asynccontextmanager
    async def transaction(
        self, name: str, reads: bool = False, use: Use | None = None
    ) -> AsyncIterator[Run]:
        """Run statements in the caller's open transaction, or in one of their own.

        `reads`: they write nothing.  `use` learns how it is used.  Raises Repeat, AnswerLost,
        Invalid, Unavailable; `name` says in messages of what.
        """
        use = Use(reads) if use is None else use
        # Without a lock another thread's transaction would be taken for the caller's.
        if self._lock is not None:
            self._lock.acquire()
        elif self._async_lock is not None:
            await self._async_lock.acquire()
        try:
            async with self._open(use) as run:
                yield run
        except (OverflowError, sqlite3.Error) as problem:
            raise _sqlite_fault(problem, name) from problem
        except Exception as problem:
            fault = _fault(problem, name, use.joined)
            if fault is None:
                raise
            raise fault from problem
        finally:
            if self._lock is not None:
                self._lock.release()
            elif self._async_lock is not None:
                self._async_lock.release()

    def is_open(self) -> bool:
        """Whether a transaction of the caller's is open."""
        if self._async_lock is not None and self._async_lock.locked():
            return False  # another task's call, which is a transaction of its own
        with self._lock or nullcontext():
            return self._is_open()

    def _is_open(self) -> bool:
        given = self._given
        if isinstance(given, sqlite3.Connection):
            return given.in_transaction
        if is_a(given, "psycopg_pool") or is_a(given, "sqlalchemy", "Engine", "AsyncEngine"):
            return False
        return bool(given.in_transaction()) if is_a(given, "sqlalchemy") else not _is_idle(given)


_Open = Callable[[Use], Any]


def _opener(given: Any) -> tuple[str, bool, _Open]:
    if isinstance(given, sqlite3.Connection):
        return "sqlite", False, lambda use: _sqlite(given, use)
    if is_a(given, "psycopg", "Connection"):
        return "postgresql", False, lambda use: _psycopg(given, use)
    if is_a(given, "psycopg", "AsyncConnection"):
        return "postgresql", True, lambda use: _psycopg_async(given, use)
    if is_a(given, "psycopg_pool", "ConnectionPool"):
        return "postgresql", False, lambda use: _pool(given, use)
    if is_a(given, "psycopg_pool", "AsyncConnectionPool"):
        return "postgresql", True, lambda use: _pool_async(given, use)
    if is_a(given, "sqlalchemy"):
        asynchronous = is_a(
            given,
            "sqlalchemy",
            *("AsyncEngine", "AsyncConnection", "AsyncSession"),
            "async_scoped_session",
        )
        bound = given.get_bind() if hasattr(given, "get_bind") else given
        dialect = getattr(getattr(bound, "dialect", None), "name", "")
        if dialect not in ("postgresql", "sqlite"):
            raise Invalid(
                f"Tables are guarded in PostgreSQL and SQLite, not through {described(given)} of "
                f"{dialect or 'no engine'}."
            )
        if asynchronous:
            return dialect, True, lambda use: _core_async(given, use)
        return dialect, False, lambda use: _core(given, use)
    raise Invalid(
        f"A {described(given)} is no connection that tables are guarded through. Pass one of "
        "sqlite3, of psycopg or of its pool, or SQLAlchemy's engine, connection or session."
    )


@asynccontextmanager
async def _sqlite(connection: sqlite3.Connection, use: Use) -> AsyncIterator[Run]:
    cursor = connection.cursor()
    cursor.row_factory = None

    async def run(text: str, values: Sequence[object]) -> Rows:
        cursor.execute(text.replace(MARK, "?"), tuple(values))
        return Rows(cursor.fetchall(), cursor.rowcount)

    use.connection, use.joined = connection, connection.in_transaction
    if use.joined:
        yield run
        return
    cursor.execute("BEGIN" if use.reads else "BEGIN IMMEDIATE")
    try:
        yield run
        cursor.execute("COMMIT")
    finally:
        if connection.in_transaction:
            cursor.execute("ROLLBACK")


def _is_idle(connection: Any) -> bool:
    if connection.closed:
        raise Unavailable("Your connection is closed. Nothing was sent.")
    return bool(connection.info.transaction_status == 0)


@asynccontextmanager
async def _psycopg(connection: Any, use: Use) -> AsyncIterator[Run]:
    import psycopg

    async def run(text: str, values: Sequence[object]) -> Rows:
        with psycopg.Cursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            cursor.execute(_percent(text), values)
            return Rows(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    use.connection, use.joined = connection, not _is_idle(connection)
    if use.joined or (connection.autocommit and not use.whole):
        yield run  # a statement is a transaction
    else:
        with connection.transaction():
            yield run


@asynccontextmanager
async def _psycopg_async(connection: Any, use: Use) -> AsyncIterator[Run]:
    import psycopg

    async def run(text: str, values: Sequence[object]) -> Rows:
        async with psycopg.AsyncCursor(connection, row_factory=psycopg.rows.tuple_row) as cursor:
            await cursor.execute(_percent(text), values)
            rows = await cursor.fetchall() if cursor.description else []
            return Rows(rows, cursor.rowcount)

    use.connection, use.joined = connection, not _is_idle(connection)
    if use.joined or (connection.autocommit and not use.whole):
        yield run
    else:
        async with connection.transaction():
            yield run


@asynccontextmanager
async def _pool(pool: Any, use: Use) -> AsyncIterator[Run]:
    with pool.connection() as connection:
        async with _psycopg(connection, use) as run:
            yield run


@asynccontextmanager
async def _pool_async(pool: Any, use: Use) -> AsyncIterator[Run]:
    async with pool.connection() as connection, _psycopg_async(connection, use) as run:
        yield run


@asynccontextmanager
async def _core(given: Any, use: Use) -> AsyncIterator[Run]:
    async def run(text: str, values: Sequence[object]) -> Rows:
        return _rows(connection.execute(*_named(text, values)))

    if is_a(given, "sqlalchemy", "Engine"):
        with given.begin() as connection:
            use.connection = connection
            yield run
        return
    use.connection, use.joined = given, given.in_transaction()
    session = hasattr(given, "flush")
    if use.joined:
        if session:
            given.flush()  # what was changed in objects goes first
        connection = given.connection() if session else given
        yield run
    else:
        with given.begin():
            connection = given.connection() if session else given
            yield run


@asynccontextmanager
async def _core_async(given: Any, use: Use) -> AsyncIterator[Run]:
    async def run(text: str, values: Sequence[object]) -> Rows:
        return _rows(await connection.execute(*_named(text, values)))

    if is_a(given, "sqlalchemy", "AsyncEngine"):
        async with given.begin() as connection:
            use.connection = connection
            yield run
        return
    use.connection, use.joined = given, given.in_transaction()
    session = hasattr(given, "flush")
    if use.joined:
        if session:
            await given.flush()
        connection = await given.connection() if session else given
        yield run
    else:
        async with given.begin():
            connection = await given.connection() if session else given
            yield run


def _rows(result: Any) -> Rows:
    rows = [tuple(row) for row in result.all()] if result.returns_rows else []
    return Rows(rows, result.rowcount)


@lru_cache(maxsize=256)
def _percent(text: str) -> str:
    return text.replace("%", "%%").replace(MARK, "%s")


def _named(text: str, values: Sequence[object]) -> tuple[Any, dict[str, object]]:
    import sqlalchemy

    first, *rest = text.replace("\\", "\\\\").replace(":", "\\:").split(MARK)
    said = first + "".join(f":p{place}{each}" for place, each in enumerate(rest))
    return sqlalchemy.text(said), {f"p{place}": value for place, value in enumerate(values)}


def _sqlite_fault(problem: Exception, name: str) -> Exception:
    said, code = str(problem), getattr(problem, "sqlite_errorcode", 0) or 0
    if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
        return Unavailable(
            f"{name} was written by others since your transaction first read. Roll it back and "
            "repeat it, or begin it with BEGIN IMMEDIATE."
        )
    if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Unavailable(f"{name} is locked by another connection. Nothing was written.")
    kinds = sqlite3.IntegrityError | OverflowError | sqlite3.DataError | sqlite3.ProgrammingError
    wrong = isinstance(problem, kinds) or code == sqlite3.SQLITE_ERROR
    return Invalid(f"{name}: {said}.") if wrong else Unavailable(f"Can't use {name}: {said}.")


def _fault(problem: Exception, name: str, joined: bool) -> Exception | None:
    """Return what an error of a driver is here; None for what is no driver's."""
    if is_a(problem, "psycopg_pool"):
        return Unavailable(f"No connection to {name}: {problem}.")
    if is_a(problem, "sqlalchemy") and getattr(problem, "orig", None) is None:
        return Unavailable(f"Can't use {name}: {problem}")
    driver = getattr(problem, "orig", problem)
    if isinstance(driver, sqlite3.Error | OverflowError):
        return _sqlite_fault(driver, name)
    if driver is problem and not is_a(problem, "psycopg", "Error"):
        return None
    code = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None) or ""
    said = str(driver).strip().partition("\n")[0]
    if code.startswith(_REPEATED):
        if not joined:
            return Repeat(said)
        return Unavailable(
            f"{name} was written by others since your transaction began ({said}). Roll it back "
            "and repeat it, or begin it as READ COMMITTED, which is enough for a guard."
        )
    if code.startswith(_REFUSED):
        return Invalid(f"{name}: {said}.")
    if not code or code.startswith(_GONE):
        if joined:
            return Unavailable(
                f"Your connection to {name} was lost ({said}), and its transaction is rolled back."
            )
        return AnswerLost(said)
    return Unavailable(f"{name} refused the call: {said} ({code}). Nothing was written.")
