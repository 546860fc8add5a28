"""Makes, checks and migrates the schema of a store in PostgreSQL.

Tables are changed by a migration script from one version to the next.  The functions and their
types hold no data: at every change of version all of them are dropped and made again from their
files, and whoever could call them before can call them after.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.postgres.faults import psycopg
from interlock.errors import IncompatibleStore

SCHEMA_VERSION = 2
TABLES = "schema.sql"
FUNCTIONS = (
    *("roles.sql", "functions.sql", "turns.sql", "fences.sql", "judge.sql", "commit.sql"),
    *("groups.sql", "trim.sql", "erase.sql", "spaces.sql"),
)
MIGRATIONS: Mapping[int, str] = {1: "migrate_1.sql"}  # from this version to the next one
_LOCK = 0x494C434B  # "ILCK": the advisory lock under which the schema is made and migrated

# Functions that are expanded into the statements that use them, which a setting of theirs would
# hinder: they name tables with their schema.  All others have a fixed search_path.
INLINED = ("clock_us", "alive", "live_after", "tail", "last_entry", "head", "standing")
_PATH = "search_path=interlock, pg_temp"

# What is in the schema, by the catalog alone: nothing of it is called before it is known to be
# ours.  Whoever owns a part of it could run anything as the one who calls it.
_FOUND = """
WITH schema AS (
    SELECT n.oid, n.nspowner FROM pg_catalog.pg_namespace AS n WHERE n.nspname = 'interlock'
), owners AS (
    SELECT nspowner AS owner FROM schema
    UNION SELECT proowner FROM pg_catalog.pg_proc JOIN schema ON pronamespace = schema.oid
    UNION SELECT relowner FROM pg_catalog.pg_class JOIN schema ON relnamespace = schema.oid
    UNION SELECT typowner FROM pg_catalog.pg_type JOIN schema ON typnamespace = schema.oid
    UNION SELECT oprowner FROM pg_catalog.pg_operator JOIN schema ON oprnamespace = schema.oid
)
SELECT
    (SELECT pg_catalog.pg_get_userbyid(nspowner) FROM schema) AS owner,
    (SELECT pg_catalog.pg_get_userbyid(nspowner) = current_user FROM schema) AS mine,
    (SELECT pg_catalog.min(r.rolname)
     FROM owners JOIN pg_catalog.pg_roles AS r ON r.oid = owners.owner
     WHERE NOT r.rolsuper AND r.rolname NOT IN (current_user, 'pg_database_owner') AND r.oid <> (
        SELECT d.datdba FROM pg_catalog.pg_database AS d
        WHERE d.datname = pg_catalog.current_database())) AS stranger,
    (SELECT p.prosrc FROM pg_catalog.pg_proc AS p JOIN schema ON p.pronamespace = schema.oid
     WHERE p.proname = 'version' AND p.pronargs = 0) AS version,
    EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN schema ON c.relnamespace = schema.oid)
        AS relations,
    (SELECT pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(
            pg_catalog.concat_ws('|', p.proname, l.lanname, p.prosecdef, p.provolatile,
                pg_catalog.array_to_string(p.proconfig, ';'), p.prosrc),
            pg_catalog.chr(10) ORDER BY p.proname COLLATE "C", p.prosrc COLLATE "C"), 'UTF8')),
        'hex')
     FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang
     JOIN schema ON p.pronamespace = schema.oid) AS digest
"""
_FUNCTION = re.compile(r"CREATE FUNCTION interlock\.(\w+)\((.*?)\bAS \$\$(.*?)\$\$;", re.S)
_SETTING = re.compile(r"\bSET (\w+) = (.+?)(?=\s+SET |\s*$)")
_FIX_PATHS = """
DO $$
DECLARE
    each text;
BEGIN
    FOR each IN
        SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'interlock'::regnamespace
            AND proname <> ALL (%s)
            AND NOT COALESCE(proconfig @> ARRAY['search_path=interlock, pg_temp'], false)
    LOOP
        EXECUTE 'ALTER FUNCTION ' || each || ' SET search_path = interlock, pg_temp';
    END LOOP;
END $$;
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
SELECT r.rolname, array_agg(p.proname::text)
FROM pg_proc AS p, aclexplode(p.proacl) AS g JOIN pg_roles AS r ON r.oid = g.grantee
WHERE p.pronamespace = 'interlock'::regnamespace AND g.grantee <> p.proowner GROUP BY r.rolname
"""


class _Found(NamedTuple):
    """What is in the schema `interlock`; `version` 0: no store yet, `owner` None: no schema."""

    owner: str | None
    mine: bool
    stranger: str | None
    version: int
    relations: bool
    digest: str | None


def bring_up(connection: psycopg.Connection, place: str, create: bool = True) -> None:
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
        connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", (_LOCK,))
        found = _checked(connection, place)
        if found.version == SCHEMA_VERSION:
            return
        if found.owner is not None and not found.mine:
            what = f"must be brought from schema version {found.version} to {SCHEMA_VERSION}"
            raise IncompatibleStore(
                f"The store in {place} {what if found.version else 'is not made yet'}; only "
                f"{found.owner!r}, who owns its schema, may do that. Open it once as that role."
            )
        connection.execute("SET LOCAL search_path = interlock, pg_temp")
        if found.version:
            _migrate(connection, found.version)
        else:
            connection.execute("CREATE SCHEMA IF NOT EXISTS interlock")
            connection.execute(script(TABLES))
            _make_functions(connection)


def digest() -> str:
    """Return the digest of this version's functions: see `_FOUND`."""
    found = []
    for name in FUNCTIONS:
        text = script(name)
        functions = _FUNCTION.findall(text)
        assert len(functions) == text.count("CREATE FUNCTION"), name
        found += [_definition(*function) for function in functions]
    lines = ["|".join(each) for each in sorted(found, key=lambda each: (each[0], each[-1]))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _definition(name: str, header: str, body: str) -> tuple[str, ...]:
    language = re.search(r"\bLANGUAGE (\w+)", header)
    volatility = "i" if " IMMUTABLE" in header else "s" if " STABLE" in header else "v"
    settings = [f"{setting}={value}" for setting, value in _SETTING.findall(header)]
    if name not in INLINED and _PATH not in settings:
        settings.append(_PATH)
    definer = "t" if "SECURITY DEFINER" in header else "f"
    return (
        *(name, language[1] if language else "", definer, volatility),
        *([";".join(settings)] if settings else []),
        body,
    )


def script(name: str) -> str:
    """Return the text of a file of SQL."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _migrate(connection: psycopg.Connection, version: int) -> None:
    callers = connection.execute(_CALLERS).fetchall()
    connection.execute(_DROP_FUNCTIONS)
    for step in range(version, SCHEMA_VERSION):
        connection.execute(script(MIGRATIONS[step]))
    _make_functions(connection)
    for role, names in callers:
        level = "operator" if "trim" in names else "writer" if "commit" in names else "reader"
        own_name = version > 1 and "act_as_any_agent" not in names
        connection.execute("SELECT interlock.grant_role(%s, %s, %s)", (role, level, own_name))


def _make_functions(connection: psycopg.Connection) -> None:
    for statement in _functions():
        connection.execute(statement)


def _functions() -> list[str]:
    """Return the scripts that make the functions and let nobody but their owner call them."""
    inlined = ", ".join(f"'{name}'" for name in INLINED)
    return [
        *map(script, FUNCTIONS),
        _FIX_PATHS.replace("%s", f"ARRAY[{inlined}]"),
        "REVOKE ALL ON ALL FUNCTIONS IN SCHEMA interlock FROM PUBLIC;\n",
    ]


def creation() -> str:
    """Return the script that makes a store in an empty database, for whoever runs it by hand."""
    return "\n".join(
        [
            "BEGIN;\n",
            "CREATE SCHEMA IF NOT EXISTS interlock;",
            "SET LOCAL search_path = interlock, pg_temp;\n",
            script(TABLES),
            *_functions(),
            "COMMIT;",
        ]
    )


def _checked(connection: psycopg.Connection, place: str) -> _Found:
    row = _Found(*connection.execute(_FOUND).fetchall()[0])
    number = re.search(r"\d+", str(row.version or ""))
    found = row._replace(version=int(number[0]) if number else 0)
    if found.stranger is not None:
        raise IncompatibleStore(
            f"The schema 'interlock' in {place}, or a part of it, belongs to {found.stranger!r}, "
            "who could run anything in your name. Open it as that role, or have the database's "
            "owner or a superuser drop the schema and create the store."
        )
    if found.version > SCHEMA_VERSION:
        raise IncompatibleStore(
            f"{place} was made by a newer Interlock (schema {found.version}; this one knows "
            f"{SCHEMA_VERSION}): upgrade it with `pip install -U interlock`."
        )
    if found.relations and not found.version:
        raise IncompatibleStore(
            f"{place} has another program's schema 'interlock'. Name another database."
        )
    if found.version == SCHEMA_VERSION and found.digest != digest():
        raise IncompatibleStore(
            f"The functions in {place} differ from those of this Interlock: somebody has "
            "changed them. Restore the schema 'interlock' from a backup."
        )
    return found
