"""Connections that the application lends: its pool, its engine, or a single connection.

A lender is used as psycopg's pools are, by `getconn` and `putconn`, and closes nothing.  Sessions
stay as they were: no statement is prepared in them, and nothing is set beyond a statement.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from interlock.backends.bridge import Bridge
from interlock.backends.driver_connection import described, is_a
from interlock.backends.postgres.connect import Target, checked_session
from interlock.backends.postgres.faults import fault_of, psycopg, psycopg_pool
from interlock.errors import Invalid, Unavailable

_MOST = 8  # connections of a pool that are used at once
_SLACK = 60.0  # seconds beyond busy_timeout that a thread waits for an event loop


class Lender(ABC):
    """Lends connections of `given`, `most` at once, in the process that opened it."""

    asynchronous = False

    def __init__(self, given: Any) -> None:
        self.given = given
        self.most = min(_MOST, getattr(given, "max_size", 0) or _MOST)
        self._pid = os.getpid()

    @abstractmethod
    def prepare(self, busy_timeout: float, create: bool) -> Target:
        """Bring the store to the schema of this version; see `connect.prepare`."""

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise Unavailable(
                "The connections belong to the process that was forked. Open the space again in "
                "this one, with connections of its own."
            )


class PoolLender(Lender):
    """Lends connections of a ConnectionPool."""

    def getconn(self, timeout: float) -> Any:
        """Take a connection.  Raises PoolTimeout, PoolClosed, Invalid, Unavailable."""
        self._check_process()
        return self.given.getconn(timeout)

    def putconn(self, connection: Any) -> None:
        """Give it back."""
        self.given.putconn(connection)

    def prepare(self, busy_timeout: float, create: bool) -> Target:
        """Do as Lender."""
        with translated("the application's database"):
            connection = self.getconn(busy_timeout)
        try:
            return _checked(_Session(connection), connection, create)
        finally:
            self.putconn(connection)


class ConnectionLender(PoolLender):
    """Lends a single connection, between transactions, to one thread at a time."""

    def __init__(self, given: Any) -> None:
        super().__init__(given)
        self.most = 1
        _check_single(given)

    def getconn(self, timeout: float) -> Any:
        """Wait for the connection."""
        self._check_process()
        if not self.given.lock.acquire(timeout=timeout):
            raise psycopg_pool.PoolTimeout("it is in use")
        try:
            _check_idle(self.given)
        except BaseException:
            self.given.lock.release()
            raise
        return self.given

    def putconn(self, connection: Any) -> None:
        """Let others use it."""
        connection.lock.release()

    def prepare(self, busy_timeout: float, create: bool) -> Target:
        """Do as Lender; psycopg itself takes the lock of the connection meanwhile."""
        with translated("the application's database"):
            self.putconn(self.getconn(busy_timeout))
        return _checked(_Session(self.given), self.given, create)


class EngineLender(PoolLender):
    """Lends the connections of a SQLAlchemy Engine."""

    def __init__(self, given: Any) -> None:
        super().__init__(given)
        self._out: dict[Any, Any] = {}

    def getconn(self, timeout: float) -> Any:
        """Take a connection out of the engine's pool, which has its own timeout."""
        self._check_process()
        with _unwrapped():
            connection = self.given.connect()
        driver = connection.connection.driver_connection
        self._out[driver] = connection
        return driver

    def putconn(self, connection: Any) -> None:
        """Give it back; the engine must not lend it again where it is broken."""
        mine = self._out.pop(connection)
        if connection.closed:
            mine.invalidate()
        mine.close()


class AsyncPoolLender(Lender):
    """Lends connections of an AsyncConnectionPool to the tasks of its event loop."""

    asynchronous = True

    def __init__(self, given: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(given)
        self.loop = loop

    async def getconn(self, timeout: float) -> Any:
        """Do as PoolLender."""
        self._check_process()
        return await self.given.getconn(timeout)

    async def putconn(self, connection: Any) -> None:
        """Give it back."""
        await self.given.putconn(connection)

    def bridge(self, busy_timeout: float) -> Bridge:
        """Return the way from threads to the event loop."""
        return Bridge(self.loop, busy_timeout + _SLACK)

    def prepare(self, busy_timeout: float, create: bool) -> Target:
        """Do as Lender, in a thread."""
        bridge = self.bridge(busy_timeout)
        with translated("the application's database"):
            connection = bridge.run(self.getconn(busy_timeout))
        try:
            return _checked(_AsyncSession(connection, bridge), connection, create)
        finally:
            bridge.run(self.putconn(connection))


class AsyncConnectionLender(AsyncPoolLender):
    """Lends a single AsyncConnection."""

    def __init__(self, given: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(given, loop)
        self.most = 1
        _check_single(given)

    async def getconn(self, timeout: float) -> Any:
        """Wait for the connection."""
        self._check_process()
        try:
            async with asyncio.timeout(timeout):
                await self.given.lock.acquire()
        except TimeoutError:
            raise psycopg_pool.PoolTimeout("it is in use") from None
        try:
            _check_idle(self.given)
        except BaseException:
            self.given.lock.release()
            raise
        return self.given

    async def putconn(self, connection: Any) -> None:
        """Let others use it."""
        connection.lock.release()

    def prepare(self, busy_timeout: float, create: bool) -> Target:
        """Do as Lender; psycopg itself takes the lock of the connection meanwhile."""
        bridge = self.bridge(busy_timeout)
        with translated("the application's database"):
            bridge.run(self.putconn(bridge.run(self.getconn(busy_timeout))))
        return _checked(_AsyncSession(self.given, bridge), self.given, create)


class AsyncEngineLender(AsyncPoolLender):
    """Lends the connections of a SQLAlchemy AsyncEngine."""

    def __init__(self, given: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(given, loop)
        self._out: dict[Any, Any] = {}

    async def getconn(self, timeout: float) -> Any:
        """Take a connection out of the engine's pool, which has its own timeout."""
        self._check_process()
        with _unwrapped():
            connection = await self.given.connect()
        driver = (await connection.get_raw_connection()).driver_connection
        self._out[driver] = connection
        return driver

    async def putconn(self, connection: Any) -> None:
        """Give it back; the engine must not lend it again where it is broken."""
        mine = self._out.pop(connection)
        if connection.closed:
            await mine.invalidate()
        await mine.close()


def lender_of(given: Any, loop: asyncio.AbstractEventLoop | None) -> Lender:
    """Return what lends the connections of `given`; `loop` is that of asyncio.  Raises Invalid."""
    kinds: list[tuple[bool, Any, Any]] = [
        (is_a(given, "psycopg_pool", "ConnectionPool"), PoolLender, None),
        (is_a(given, "psycopg", "Connection"), ConnectionLender, None),
        (is_a(given, "sqlalchemy", "Engine"), EngineLender, None),
        (is_a(given, "psycopg_pool", "AsyncConnectionPool"), AsyncPoolLender, loop),
        (is_a(given, "psycopg", "AsyncConnection"), AsyncConnectionLender, loop),
        (is_a(given, "sqlalchemy", "AsyncEngine"), AsyncEngineLender, loop),
    ]
    for fits, kind, its_loop in kinds:
        if fits:
            if kind.asynchronous != (loop is not None):
                other = "open_async" if kind.asynchronous else "open"
                raise Invalid(f"A {described(given)} is for interlock.{other}.")
            found: Lender = kind(given) if its_loop is None else kind(given, its_loop)
            return found
    raise Invalid(
        f"A {described(given)} can't be shared: give a psycopg connection or pool, or a SQLAlchemy "
        "engine."
    )


def _checked(session: _Session, connection: Any, create: bool) -> Target:
    """See that the server and the session can hold a store, and make it where it must be."""
    info = connection.info
    place = f"postgresql://{info.host}:{info.port}/{info.dbname}"
    encoding = info.parameter_status("client_encoding")
    if encoding != "UTF8":
        raise Invalid(f"The connection's client_encoding is {encoding}. Interlock needs UTF8.")
    with translated(place), session:
        _, linux, isolation = checked_session(session, place, create)
    if isolation != "read committed":
        raise Invalid(
            f"The default_transaction_isolation of the connections is {isolation.upper()}. "
            "Interlock needs READ COMMITTED."
        )
    return Target("", place, direct=False, linux=linux)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise the library's faults in place of psycopg's errors."""
    try:
        yield
    except (psycopg.Error, psycopg_pool.PoolClosed) as problem:
        raise fault_of(problem, place, sent=False) from problem


def _check_single(connection: Any) -> None:
    if not connection.autocommit:
        raise Invalid(
            "A single connection can be shared in autocommit only: open it with autocommit=True, "
            "or give a pool."
        )


def _check_idle(connection: Any) -> None:
    if connection.closed:
        raise Unavailable("The connection that was given is closed. Open the space with another.")
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        raise Invalid(
            "The connection is in a transaction of yours. Write in it with "
            "space.joined(connection), or open the space with a pool."
        )
    if connection.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
        raise Invalid("The connection is in a pipeline. Leave it first.")


@contextmanager
def _unwrapped() -> Iterator[None]:
    """Raise what psycopg raised in place of SQLAlchemy's errors."""
    try:
        yield
    except Exception as problem:
        if is_a(problem, "sqlalchemy", "TimeoutError"):
            raise psycopg_pool.PoolTimeout("all of them are in use") from problem
        if isinstance(inner := getattr(problem, "orig", None), psycopg.Error):
            raise inner from problem
        raise


class _Session:
    """A connection in autocommit whose rows are tuples, while the schema is looked at or made."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.info = connection.info
        self._before = connection.autocommit, connection.isolation_level

    def __enter__(self) -> _Session:
        self._set(True, psycopg.IsolationLevel.READ_COMMITTED)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._connection.closed:
            self._set(*self._before)

    def execute(self, statement: str, values: Any = None) -> Any:
        """Run a statement; return its cursor."""
        tuples = psycopg.rows.tuple_row
        return psycopg.Cursor(self._connection, row_factory=tuples).execute(statement, values)

    def transaction(self) -> AbstractContextManager[Any]:
        """Begin a transaction, for a block."""
        found: AbstractContextManager[Any] = self._connection.transaction()
        return found

    def _set(self, autocommit: bool, isolation: Any) -> None:
        self._connection.autocommit = autocommit
        self._connection.isolation_level = isolation


class _AsyncSession(_Session):
    """The same over an AsyncConnection, in a thread."""

    def __init__(self, connection: Any, bridge: Bridge) -> None:
        super().__init__(connection)
        self._bridge = bridge

    def execute(self, statement: str, values: Any = None) -> Any:
        """Run a statement; return its rows, as a cursor would."""
        return self._bridge.run(self._execute(statement, values))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin a transaction, for a block."""
        whole = self._connection.transaction()
        self._bridge.run(whole.__aenter__())
        try:
            yield
        except BaseException as problem:
            self._bridge.run(whole.__aexit__(type(problem), problem, problem.__traceback__))
            raise
        self._bridge.run(whole.__aexit__(None, None, None))

    async def _execute(self, statement: str, values: Any) -> _Rows:
        tuples = psycopg.rows.tuple_row
        cursor = psycopg.AsyncCursor(self._connection, row_factory=tuples)
        await cursor.execute(statement, values)
        return _Rows(await cursor.fetchall() if cursor.description else [])

    def _set(self, autocommit: bool, isolation: Any) -> None:
        self._bridge.run(self._connection.set_autocommit(autocommit))
        self._bridge.run(self._connection.set_isolation_level(isolation))


class _Rows:
    """What a cursor has read."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def fetchone(self) -> Any:
        """Return the first row."""
        return self._rows[0] if self._rows else None

    def fetchall(self) -> list[Any]:
        """Return all rows."""
        return self._rows
