"""The history of a PostgreSQL table: a trigger writes each change of a row into a table beside it.

The trigger takes part in the writer's transaction: what is rolled back is in no history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import interlock
from interlock.errors import Invalid, Unavailable
from interlock.extras import needs
from interlock.forensics.history import DELETE, PUT, Event
from interlock.guards.places.table import quoted

_PAGE = 5000  # rows


def history_sql(table: str, *, key: str | Iterable[str] = "id", remove: bool = False) -> str:
    """Return the SQL that records the history of a table, or that ends recording.

    `table` may name its schema (`shop.bookings`); `key`: the columns of its key.  `remove` drops
    the trigger and keeps what was recorded.  Raises Invalid.
    """
    keys = (key,) if isinstance(key, str) else tuple(key)
    if not keys:
        raise Invalid("key= names no column.")
    name, recorded, function = (_names(table, each) for each in ("", "_history", "_record"))
    if remove:
        return (
            f"DROP TRIGGER IF EXISTS interlock_history ON {name};\n"
            f"DROP FUNCTION IF EXISTS {function}();\n"
        )
    parts = ", ".join(f"coalesce(NEW.{quoted(each)}, OLD.{quoted(each)})::text" for each in keys)
    columns = ", ".join("'" + each.replace("'", "''") + "'" for each in keys)
    return f"""CREATE TABLE IF NOT EXISTS {recorded} (
    position bigserial PRIMARY KEY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    agent text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    value jsonb
);

CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $interlock$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW IS NOT DISTINCT FROM OLD THEN
        RETURN NULL;
    END IF;
    INSERT INTO {recorded} (agent, operation, key, value) VALUES (
        coalesce(nullif(current_setting('interlock.agent', true), ''),
                 nullif(current_setting('application_name'), ''), ''),
        TG_OP,
        concat_ws('/', {parts}),
        CASE WHEN TG_OP = 'DELETE' THEN NULL ELSE to_jsonb(NEW) - ARRAY[{columns}] END
    );
    RETURN NULL;
END
$interlock$;

DROP TRIGGER IF EXISTS interlock_history ON {name};
CREATE TRIGGER interlock_history AFTER INSERT OR UPDATE OR DELETE ON {name}
    FOR EACH ROW EXECUTE FUNCTION {function}();
"""


def install(url: str, sql: str) -> None:
    """Run what `history_sql` has returned.  Raises Invalid, Unavailable, NotInstalled."""
    with connected(url) as connection:
        connection.execute(sql)


def events(url: str, table: str) -> Iterator[Event]:
    """Yield the recorded changes of a table, in the order in which they were made.

    A key is the table and the row's key, such as `bookings/17`, a value the other columns.  Raises
    Invalid where no history is recorded, Unavailable, NotInstalled.
    """
    with connected(url) as connection:
        yield from between(connection, table, 0, horizon(connection))


def horizon(connection: Any) -> int:
    """Return the number of the oldest transaction that is still open: what older ones have recorded
    is complete."""
    found = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
    return int(connection.execute(found).fetchone()[0])


def between(connection: Any, table: str, first: int, before: int) -> Iterator[Event]:
    """Yield what transactions from one number to before another one have recorded."""
    with connection.transaction(), connection.cursor("interlock_history") as cursor:
        cursor.itersize = _PAGE
        cursor.execute(
            "SELECT position, extract(epoch FROM at)::float8, agent, operation, key, value "
            f"FROM {_names(table, '_history')} "
            "WHERE xid >= %s::text::xid8 AND xid < %s::text::xid8 ORDER BY position",
            (str(first), str(before)),
        )
        for position, at, agent, operation, key, value in cursor:
            kind = DELETE if operation == "DELETE" else PUT
            yield Event(f"{table}/{key}", round(at * 1e6), kind, value, agent, position)


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Connect to a PostgreSQL, each statement on its own."""
    with needs("psycopg", "postgres"):
        import psycopg
    shown = interlock.redact_url(url)
    try:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
            yield connection
    except psycopg.OperationalError as problem:
        raise Unavailable(f"{shown}: {_first_line(problem)}") from problem
    except psycopg.ProgrammingError as problem:
        step = "Record it first: interlock record URL --table TABLE."
        raise Invalid(f"{shown}: {_first_line(problem)}. {step}") from problem


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]


def _names(table: str, suffix: str) -> str:
    schema, _, name = table.rpartition(".")
    own = quoted(name + ("_interlock" + suffix if suffix else ""))
    return f"{quoted(schema)}.{own}" if schema else own
