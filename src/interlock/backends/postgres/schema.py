"""Makes, checks and migrates the schema of a store in PostgreSQL.

Tables are changed by a migration script from one version to the next.  The functions and their
types hold no data: at every change of version all of them are dropped and made again from their
files, and whoever could call them before can call them after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.postgres.faults import psycopg
from interlock.errors import IncompatibleStore

SCHEMA_VERSION = 2
TABLES = "schema.sql"
FUNCTIONS = (
    *("functions.sql", "turns.sql", "fences.sql", "judge.sql", "commit.sql", "groups.sql"),
    "trim.sql",
)
MIGRATIONS: Mapping[int, str] = {1: "migrate_1.sql"}  # from this version to the next one
_LOCK = 0x494C434B  # "ILCK": the advisory lock under which the schema is made and migrated

# What is in the schema, by the catalog alone: nothing of it is called before it is known.
_FOUND = """
SELECT n.oid IS NOT NULL,
    (SELECT p.prosrc FROM pg_catalog.pg_proc AS p
     WHERE p.pronamespace = n.oid AND p.proname = 'version' AND p.pronargs = 0),
    EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.relnamespace = n.oid)
FROM (SELECT pg_catalog.to_regnamespace('interlock') AS oid) AS n
"""
_DROP_FUNCTIONS = """
DO $$
DECLARE
    each text;
BEGIN
    FOR each IN
        SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'interlock'::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || each || ' CASCADE';
    END LOOP;
    FOR each IN
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'interlock'::regnamespace AND relkind = 'c'
    LOOP
        EXECUTE 'DROP TYPE ' || each;
    END LOOP;
END $$
"""
_CALLERS = """
SELECT DISTINCT g.grantee::regrole::text FROM pg_proc AS p, aclexplode(p.proacl) AS g
WHERE p.pronamespace = 'interlock'::regnamespace AND g.grantee NOT IN (0, p.proowner)
"""


class _Found(NamedTuple):
    """What is in the schema `interlock`; `version` 0: no store yet."""

    exists: bool
    version: int
    relations: bool


def bring_up(connection: Any, place: str, create: bool = True) -> None:
    """Bring a store to the schema of this version: make it where there is none and `create`, refuse
    what is not ours."""
    found = _checked(connection, place)
    if found.version == SCHEMA_VERSION:
        return
    if not found.version and not create:
        raise no_space(place)
    # Whoever had to wait for the lock must see what was done meanwhile.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found = _checked(connection, place)
        if found.version == SCHEMA_VERSION:
            return
        connection.execute("SET LOCAL search_path = interlock, pg_temp")
        if found.version:
            _migrate(connection, found.version)
        else:
            connection.execute("CREATE SCHEMA IF NOT EXISTS interlock")
            connection.execute(script(TABLES))
            _make_functions(connection)


def script(name: str) -> str:
    """Return the text of a file of SQL."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _migrate(connection: Any, version: int) -> None:
    callers = [caller for (caller,) in connection.execute(_CALLERS).fetchall()]
    connection.execute(_DROP_FUNCTIONS)
    for step in range(version, SCHEMA_VERSION):
        connection.execute(script(MIGRATIONS[step]))
    _make_functions(connection)
    for caller in callers:
        connection.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA interlock TO {caller}")


def _make_functions(connection: Any) -> None:
    for name in FUNCTIONS:
        connection.execute(script(name))
    connection.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA interlock FROM PUBLIC")


def _checked(connection: Any, place: str) -> _Found:
    exists, body, relations = connection.execute(_FOUND).fetchone()
    number = re.search(r"\d+", body or "")
    found = _Found(exists, int(number[0]) if number else 0, relations)
    if found.version > SCHEMA_VERSION:
        raise IncompatibleStore(
            f"{place} has schema version {found.version}, made by a newer Interlock; this one "
            f"knows versions up to {SCHEMA_VERSION}: upgrade it (pip install -U interlock)"
        )
    if relations and not found.version:
        raise IncompatibleStore(
            f"{place} has a schema 'interlock' of another program; name another database"
        )
    return found
