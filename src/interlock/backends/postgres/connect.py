"""Opens connections to a store in PostgreSQL, and sees that the server is one that can hold it.

It also makes, checks and migrates the schema.  Tables are changed by a migration script from one
version to the next.  The functions and their types hold no data: at every change of version all of
them are dropped and made again from their files, and whoever could call them before can call them
after.
"""

from __future__ import annotations

import hashlib
import math
import pkgutil
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from interlock.backends.contract import no_space
from interlock.backends.postgres.faults import fault_of, is_full, psycopg
from interlock.backends.redaction import Hidden, malformed
from interlock.errors import IncompatibleStore, Unavailable

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
    return (pkgutil.get_data(__package__, name) or b"").decode()


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


_OLDEST_SERVER = 150000
_CONNECT_TIMEOUT = 10  # seconds
_UNACKNOWLEDGED = 20_000  # milliseconds after which a vanished server is given up
_ISOLATION = r"-c default_transaction_isolation=read\ committed"  # whatever the role's default is
_SESSION = """
SELECT pg_backend_pid(), position('linux' IN version()) > 0,
    current_setting('default_transaction_isolation')
"""
_LONGEST_STATEMENT = 60_000  # milliseconds: trimming and scanning may take long
_FULL_PAUSE = 0.1  # seconds until the next look for a connection


@dataclass(frozen=True, repr=False)
class Target(Hidden):
    """Where a store is.  `direct`: no pooler such as PgBouncer stands between, which would share a
    session among clients: no prepared statements, notifications and settings then.  `linux`: that
    is what the server runs on."""

    conninfo: str
    place: str
    direct: bool
    linux: bool = False

    def arguments(self, busy_timeout: float) -> dict[str, Any]:
        """Return the arguments of a connection whose server lets it wait for others, and others for
        it, no longer than that.  What the URL says wins."""
        found = arguments(self.conninfo, self.direct)
        if self.direct:  # a pooler refuses options
            settings = server_settings(busy_timeout)
            if self.linux:
                settings["client_connection_check_interval"] = settings["lock_timeout"]
            given = psycopg.conninfo.conninfo_to_dict(self.conninfo).get("options") or ""
            told = " ".join(f"-c {name}={value}" for name, value in settings.items())
            found["options"] = f"{told} {given} {_ISOLATION}"
        return found


def place_of(url: str) -> str:
    """Return how a store is named in messages: without its password.  Raises Invalid."""
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:  # whose text quotes the URL
        raise malformed(
            url, "its host, port or an option is not one that PostgreSQL knows (docs: libpq, URIs)"
        ) from None
    host, port = parts.get("host") or "localhost", parts.get("port") or 5432
    return f"postgresql://{host}:{port}/{parts.get('dbname') or parts.get('user') or ''}"


def arguments(url: str, direct: bool) -> dict[str, Any]:
    """Return the arguments of every connection.  `direct`: see Target."""
    given = psycopg.conninfo.conninfo_to_dict(url)
    defaults = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "tcp_user_timeout": _UNACKNOWLEDGED,
        "fallback_application_name": "interlock",
        "client_encoding": "utf8",
    }
    found: dict[str, Any] = {k: v for k, v in defaults.items() if k not in given}
    return found | {"autocommit": True, "prepare_threshold": 2 if direct else None}


def server_settings(busy_timeout: float) -> dict[str, int]:
    """Return the server's settings that bound how long a connection may hold others up."""
    seconds, milliseconds = math.ceil(busy_timeout), max(math.ceil(busy_timeout * 1000), 1)
    return {
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
        "statement_timeout": max(_LONGEST_STATEMENT, 3 * milliseconds),
        "tcp_keepalives_idle": seconds,
        "tcp_keepalives_interval": math.ceil(seconds / 4),
        "tcp_keepalives_count": 4,
        "tcp_user_timeout": milliseconds,
    }


def prepare(url: str, busy_timeout: float, create: bool = True) -> Target:
    """Bring a store to the schema of this version: make it where there is none and `create`, refuse
    what is not ours.  Where the server has no connection left, wait for one."""
    place = place_of(url)
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            return _prepared(url, place, create)
        except psycopg.Error as problem:
            if not is_full(problem) or time.monotonic() + _FULL_PAUSE > deadline:
                raise fault_of(problem, place, sent=False) from problem
        time.sleep(_FULL_PAUSE)


def _prepared(url: str, place: str, create: bool) -> Target:
    with psycopg.connect(url, **arguments(url, direct=False)) as connection:
        row = checked_session(connection, place, create)
        direct = row[0] == connection.info.backend_pid
        if not direct and row[2] != "read committed":
            raise IncompatibleStore(
                f"{place} gives this role the isolation {row[2]}, which a pooler does not let us "
                "change: ALTER ROLE ... SET default_transaction_isolation = 'read committed'"
            )
        return Target(url, place, direct, row[1])


def checked_session(connection: Any, place: str, create: bool) -> tuple[int, bool, str]:
    """Bring a store to the schema of this version; return what `_SESSION` asks.

    Raises Unavailable, IncompatibleStore.
    """
    _check_server(connection, place)
    bring_up(connection, place, create)
    found: tuple[int, bool, str] = connection.execute(_SESSION).fetchone() or (0, False, "")
    return found


def _check_server(connection: psycopg.Connection, place: str) -> None:
    if connection.info.server_version < _OLDEST_SERVER:
        raise IncompatibleStore(
            f"{place} is PostgreSQL {connection.info.server_version // 10000}; "
            f"Interlock needs {_OLDEST_SERVER // 10000} or newer."
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise IncompatibleStore(
            f"{place} is encoded as {encoding}. Interlock needs a UTF8 database."
        )
    if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise Unavailable(f"{place} is a read-only replica: name the primary.")
