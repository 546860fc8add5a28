"""A space of PostgreSQL inside a transaction of the caller's.

A commit is judged there as anywhere, by the same function: it locks the space, and then sees all
that was committed before.  So the transaction must be READ COMMITTED, and whoever else writes to
the space waits until it ends.  Each commit has a savepoint, to which a refusal goes back: so it
holds no lock, and the transaction goes on.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from interlock.backends.contract import Backend
from interlock.backends.driver_connection import (
    described,
    driver_connection,
    driver_connection_async,
    is_a,
)
from interlock.backends.joined import Elsewhere, JoinedBackend, ended, lost
from interlock.backends.postgres import calls, wire
from interlock.backends.postgres.calls import Call
from interlock.backends.postgres.faults import fault_of, must_repeat, psycopg
from interlock.core.records import Committed
from interlock.core.refusals import Outcome
from interlock.core.requests import Commit, Load, Request, T
from interlock.errors import Fault, Invalid, Unavailable

_SAVE = "SAVEPOINT interlock"
_KEEP = "RELEASE SAVEPOINT interlock"
_UNDO = "ROLLBACK TO SAVEPOINT interlock"
_BEGUN = """
SELECT pg_catalog.current_setting('transaction_isolation'),
    pg_catalog.has_function_privilege(
        pg_catalog.to_regprocedure('interlock.open_space(text, boolean)'), 'EXECUTE')
"""
_Steps = Generator[Any, Any, T]  # what psycopg's connections wait for


class PostgresJoined(JoinedBackend):
    """One space inside a transaction of psycopg's."""

    def __init__(self, outer: Backend, connection: object, place: str, space: int) -> None:
        super().__init__(outer, connection)
        self._place = place
        self._space = space
        self._driver: Any = None

    def begin(self) -> None:
        """See that it is an open transaction, READ COMMITTED, in the database of the space."""
        self._driver = driver = driver_connection(self.connection)
        if is_a(driver, "psycopg", "AsyncConnection"):
            raise Invalid("This connection is for interlock.open_async. Give a Connection.")
        self._check(driver, "Connection")
        try:
            with psycopg.Cursor(driver, row_factory=psycopg.rows.tuple_row) as cursor:
                self._check_begun(cursor.execute(_BEGUN).fetchone())
        except psycopg.Error as problem:
            raise self._fault(problem) from problem
        self._run(self._find())

    async def begin_async(self) -> None:
        """The same for an AsyncConnection."""
        self._driver = driver = await driver_connection_async(self.connection)
        if is_a(driver, "psycopg", "Connection"):
            raise Invalid("This connection is for interlock.open. Give an AsyncConnection.")
        self._check(driver, "AsyncConnection")
        try:
            async with psycopg.AsyncCursor(driver, row_factory=psycopg.rows.tuple_row) as cursor:
                self._check_begun(await (await cursor.execute(_BEGUN)).fetchone())
        except psycopg.Error as problem:
            raise self._fault(problem) from problem
        await self._run_async(self._find())

    def _answer(self, request: Request[Any]) -> Any:
        return self._run(self._steps(request))

    async def _answer_async(self, request: Request[Any]) -> Any:
        return await self._run_async(self._steps(request))

    # On the connection

    def _run(self, steps: _Steps[T]) -> T:
        try:
            with self._driver.lock:
                self._check_transaction()
                answer: T = self._driver.wait(steps)
                return answer
        except psycopg.Error as problem:
            raise self._fault(problem) from problem

    async def _run_async(self, steps: _Steps[T]) -> T:
        try:
            async with self._driver.lock:
                self._check_transaction()
                answer: T = await self._driver.wait(steps)
                return answer
        except psycopg.Error as problem:
            raise self._fault(problem) from problem

    def _steps(self, request: Request[Any]) -> _Steps[Any]:
        if isinstance(request, Commit):
            return self._commit(request)
        call = calls.call_of(request, self._space, self.uid, (0, ""), True)
        if isinstance(request, Load) and request.op_id is not None:
            return self._look_back(call)
        return self._ask(call)

    def _commit(self, request: Commit) -> _Steps[Outcome]:
        # Never less durable than the caller has it: what is set here is for all that he commits.
        call = calls.commit((request.plan,), self._space, self.uid, (0, ""), True)
        yield from wire.ask(self._driver, _SAVE)
        try:
            (outcome,) = yield from self._ask(call)
        except BaseException:
            yield from self._undo()
            raise
        if isinstance(outcome, Committed):
            yield from wire.ask(self._driver, _KEEP)
        else:
            yield from self._undo()
        return outcome

    def _look_back(self, call: Call[T]) -> _Steps[T]:
        """Ask whether an operation was applied, after everybody who may be applying it: a
        transaction whose COMMIT was not answered may still be on its way."""
        yield from wire.ask(self._driver, _SAVE)
        try:
            nothing: Call[list[Outcome]] = calls.commit((), self._space, self.uid, (0, ""), True)
            yield from self._ask(nothing)
        finally:
            yield from self._undo()
        return (yield from self._ask(call))

    def _ask(self, call: Call[T]) -> _Steps[T]:
        rows = yield from wire.ask(self._driver, call.sql, call.arguments)
        if later := call.rest_of(rows):
            rows = yield from wire.ask(self._driver, later.sql, later.arguments)
        return call.parse(rows)

    def _undo(self) -> _Steps[None]:
        if self._driver.pgconn.transaction_status in _OPEN:
            yield from wire.ask(self._driver, _UNDO)
            yield from wire.ask(self._driver, _KEEP)

    def _find(self) -> _Steps[None]:
        """See that it is the store of this very space."""
        call = "SELECT uid FROM interlock.open_space($1, false)"
        found = yield from wire.ask(self._driver, call, (self.name,))
        if found != [(self.uid,)]:
            raise self._elsewhere()

    # What it must be

    def _check(self, driver: Any, kind: str) -> None:
        if not is_a(driver, "psycopg", kind):
            raise Elsewhere(
                f"A {described(driver)} can't be joined here. Give a psycopg.{kind}, or "
                "SQLAlchemy's over postgresql+psycopg://."
            )
        status = driver.info.transaction_status
        if driver.closed:
            raise Invalid("The connection is closed.")
        if status == psycopg.pq.TransactionStatus.IDLE and driver.autocommit:
            raise Invalid(
                "The connection has no open transaction (autocommit). Join inside "
                "`with connection.transaction():`."
            )
        if status == psycopg.pq.TransactionStatus.INERROR:
            raise _failed()
        self._check_free(driver)
        encoding = driver.pgconn.parameter_status(b"client_encoding")
        if encoding != b"UTF8":
            raise Invalid(
                f"The connection's client_encoding is {(encoding or b'unknown').decode()}. "
                "Interlock needs UTF8."
            )

    def _check_free(self, driver: Any) -> None:
        if driver.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
            raise Invalid("The connection is in a pipeline. Leave it first.")
        if driver.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
            raise Invalid("The connection is in use: by another thread, or a COPY.")

    def _check_begun(self, row: Any) -> None:
        isolation, may = row  # None: there is no such function
        if isolation != "read committed":
            raise Invalid(
                f"Your transaction has the isolation {isolation.upper()}, and would not see what "
                "was committed since it began. Interlock needs READ COMMITTED."
            )
        if may is None:
            raise self._elsewhere()
        if not may:
            raise Unavailable(
                "The role of your connection may not use the space. Grant it what "
                "docs/how-to/postgresql.md says."
            )

    def _check_transaction(self) -> None:
        """See that the transaction goes on: the caller may have ended it, or it has failed."""
        status = self._driver.info.transaction_status
        if status == psycopg.pq.TransactionStatus.INERROR:
            raise _failed()
        self._check_free(self._driver)
        if status != psycopg.pq.TransactionStatus.INTRANS:
            raise ended()

    def _elsewhere(self) -> Invalid:
        return Elsewhere(
            f"The connection is to another database: the space {self.name!r} is in {self._place}."
        )

    def _fault(self, problem: Any) -> Fault:
        if self._driver.closed:
            return lost(self._place, str(problem).strip().partition("\n")[0])
        if must_repeat(problem):
            return Unavailable(
                f"Your transaction and another one waited for each other in {self._place}. "
                "Roll it back and do it again."
            )
        found = fault_of(problem, self._place, sent=False)
        assert isinstance(found, Fault)
        return found


_OPEN = (psycopg.pq.TransactionStatus.INTRANS, psycopg.pq.TransactionStatus.INERROR)


def _failed() -> Invalid:
    return Invalid("Your transaction has failed: a statement in it did. Roll it back first.")
