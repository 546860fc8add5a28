"""Calls of stored functions on psycopg's connections, in libpq's terms: a prepared statement, texts
for its arguments, rows of texts.

psycopg's cursors do more than that for every call, and take longer over it than the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interlock.backends.postgres.calls import Argument, Call, Rows
from interlock.backends.postgres.faults import psycopg
from interlock.errors import Unconfirmed

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.errors import Diagnostic
    from psycopg.pq.abc import PGresult

Connection = psycopg.Connection | psycopg.AsyncConnection

_INTEGERS = (20, 21, 23)  # type numbers of bigint, smallint and integer
_TEXT = 25
_MANY = 20  # rows from which psycopg's own reader, which is set up anew each time, is faster
_GONE = "server closed the connection unexpectedly"
_WARNINGS = "interlock_warnings"  # the attribute of a connection that holds them
_STANDBY = "SyncRepWaitForLSN"  # the part of the server that waits for a standby


def begin(connection: Connection, call: Call[object], pooled: int | None) -> PQGen[list[PGresult]]:
    """Send a call and return the generator that a connection waits for.

    `pooled`: milliseconds to wait for locks, where a pooler needs the statement to be parsed each
    time, with all that belongs to it.
    """
    server = connection.pgconn
    _listen(connection)
    arguments = [_text(argument) for argument in call.arguments]
    if pooled is not None:
        server.send_query_params(call.sql_within(pooled).encode(), arguments)
    else:
        known: set[str] = connection.__dict__.setdefault("interlock_prepared", set())
        name = call.function.encode()
        if call.function not in known:
            _check([server.prepare(name, call.sql.encode())])
            known.add(call.function)
        server.send_query_prepared(name, arguments)
    found: PQGen[list[PGresult]] = psycopg.generators.execute(server)
    return found


def ask(connection: Connection, sql: str, arguments: Sequence[Argument] = ()) -> PQGen[Rows]:
    """Return the generator that a connection of the application's waits for: it sends a statement,
    leaves nothing behind in the session, and returns the rows."""
    connection.pgconn.send_query_params(sql.encode(), [_text(each) for each in arguments])
    return rows(connection, (yield from psycopg.generators.execute(connection.pgconn)))


def _listen(connection: Connection) -> None:
    """Keep what the server says about commits that gave up waiting for a standby.

    Such a commit is no error: it has happened here, and perhaps nowhere else.
    """
    if _WARNINGS in connection.__dict__:
        connection.__dict__[_WARNINGS].clear()
        return
    warnings: list[str] = connection.__dict__.setdefault(_WARNINGS, [])

    def keep(told: Diagnostic) -> None:
        if told.source_function == _STANDBY:  # its words are in the server's language
            warnings.append(str(told.message_primary))

    connection.add_notice_handler(keep)


def rows(connection: Connection, results: list[PGresult]) -> Rows:
    """Return the rows of what the server answered.  Raises psycopg's errors, and Unconfirmed."""
    result = _check(results)
    if warnings := connection.__dict__.get(_WARNINGS):
        raise Unconfirmed(f"applied, but no standby confirmed it: {warnings[0]}")
    columns = range(result.nfields)
    types = [result.ftype(column) for column in columns]
    if result.ntuples > _MANY and {*types} <= {*_INTEGERS, _TEXT}:
        reader = psycopg.adapt.Transformer()  # by no adapters of the application's
        reader.set_pgresult(result)
        return reader.load_rows(0, result.ntuples, tuple)
    whole = [each in _INTEGERS for each in types]
    return [
        tuple([_value(result.get_value(row, column), whole[column]) for column in columns])
        for row in range(result.ntuples)
    ]


def _check(results: list[PGresult]) -> PGresult:
    result = results[-1] if results else None
    if result is None:
        raise psycopg.OperationalError(_GONE)
    if result.status not in (psycopg.pq.ExecStatus.TUPLES_OK, psycopg.pq.ExecStatus.COMMAND_OK):
        raise psycopg.errors.error_from_result(result)
    return result


def _value(text: bytes | None, whole: bool) -> int | str | None:
    if text is None:
        return None
    return int(text) if whole else text.decode()


def _text(argument: Argument) -> bytes | None:
    if argument is None:
        return None
    if isinstance(argument, str):
        return argument.encode()
    if isinstance(argument, bool):
        return b"t" if argument else b"f"
    if isinstance(argument, list):
        return _array(argument)
    return str(argument).encode()


def _array(items: Sequence[str | None]) -> bytes:
    """Return the literal of an array of texts."""
    quoted = [
        "NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for item in items
    ]
    return ("{" + ",".join(quoted) + "}").encode()
