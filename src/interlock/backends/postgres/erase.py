"""Having the tables forget what was erased: VACUUM FULL, which no function of the server can do."""

from __future__ import annotations

from interlock.backends.postgres.connect import Target
from interlock.backends.postgres.faults import fault_of, psycopg

TABLES = ("log", "folds", "answers")  # those that hold values
UNVACUUMED = (
    "old versions of rows in the pages of the tables, until VACUUM FULL interlock.log, "
    "interlock.folds, interlock.answers (vacuum=True does it); plain VACUUM only makes their "
    "place free"
)
REMAINS = (
    "PostgreSQL's write-ahead log and its archive, until their files are removed or written over",
    "replicas until they have caught up, logical subscribers, and backups",
)
_STRANGERS = """
SELECT 1 FROM pg_catalog.pg_class
WHERE oid = 'interlock.log'::regclass AND NOT pg_catalog.pg_has_role(relowner, 'USAGE')
"""


def vacuum(target: Target, busy_timeout: float) -> None:
    """Rewrite the tables that hold values, each under an exclusive lock.  Raises the faults: only
    the owner of the tables may do it."""
    try:
        with psycopg.connect(target.conninfo, **target.arguments(busy_timeout)) as connection:
            if connection.execute(_STRANGERS).fetchone() is not None:  # it would be skipped
                raise psycopg.errors.InsufficientPrivilege(
                    "only the owner of the schema 'interlock' may vacuum its tables"
                )
            connection.execute("SET statement_timeout = 0")
            for table in TABLES:
                connection.execute(f"VACUUM (FULL, ANALYZE) interlock.{table}")
    except psycopg.Error as problem:
        raise fault_of(problem, target.place, sent=True) from problem
