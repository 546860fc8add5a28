"""Opens connections, and makes, checks and migrates the schema of a store in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from interlock.backends.postgres.faults import fault_of, psycopg
from interlock.backends.redaction import Hidden, malformed
from interlock.errors import IncompatibleStore, Unavailable

SCHEMA_VERSION = 1
_FILES = ("schema", "functions", "turns", "fences", "judge", "commit", "groups", "trim")
SCHEMA_FILES = tuple(f"{name}.sql" for name in _FILES)
MIGRATIONS: Mapping[int, str] = {}  # from this version to the next one
_OLDEST_SERVER = 150000
_LOCK = 0x494C434B  # "ILCK": the advisory lock under which the schema is made and migrated
_CONNECT_TIMEOUT = 10  # seconds
_UNACKNOWLEDGED = 20_000  # milliseconds after which a vanished server is given up


@dataclass(frozen=True, repr=False)
class Target(Hidden):
    """Where a store is.  `direct`: no pooler such as PgBouncer stands between, which would share a
    session among clients: no prepared statements and no notifications then."""

    conninfo: str
    place: str
    direct: bool


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


def prepare(
    url: str, migrations: Mapping[int, str] = MIGRATIONS, version: int = SCHEMA_VERSION
) -> Target:
    """Bring a store to schema `version`: make it where there is none, refuse what is not ours."""
    place = place_of(url)
    try:
        with psycopg.connect(url, **arguments(url, direct=False)) as connection:
            _check_server(connection, place)
            if _checked_version(connection, place, version) != version:
                # Whoever had to wait for the lock must see what was done meanwhile.
                connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    _migrate(connection, place, migrations, version)
            told = connection.execute("SELECT pg_backend_pid()").fetchone()
            return Target(url, place, told == (connection.info.backend_pid,))
    except psycopg.Error as problem:
        raise fault_of(problem, place, sent=False) from problem


def _migrate(connection: Any, place: str, migrations: Mapping[int, str], version: int) -> None:
    found = _checked_version(connection, place, version)
    if found == version:
        return
    if found:
        scripts = [migrations[v] for v in range(found, version)]
    else:
        scripts = [_script(name) for name in SCHEMA_FILES]
        connection.execute("CREATE SCHEMA IF NOT EXISTS interlock")
    connection.execute("SET LOCAL search_path = interlock")
    for script in scripts:
        connection.execute(script)
    connection.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA interlock FROM PUBLIC")


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _check_server(connection: Any, place: str) -> None:
    if connection.info.server_version < _OLDEST_SERVER:
        raise IncompatibleStore(
            f"{place} is PostgreSQL {connection.info.server_version // 10000}; "
            f"Interlock needs {_OLDEST_SERVER // 10000} or newer"
        )
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise IncompatibleStore(
            f"{place} is encoded as {encoding}; Interlock needs a database in UTF8"
        )
    if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        raise Unavailable(f"{place} is a replica, which cannot be written; name the primary")


def _checked_version(connection: Any, place: str, newest: int) -> int:
    """Return the schema version of the store, 0 where there is none yet."""
    exists, version, relations = connection.execute(
        "SELECT to_regnamespace('interlock') IS NOT NULL,"
        " EXISTS (SELECT 1 FROM pg_proc WHERE proname = 'version'"
        "  AND pronamespace = to_regnamespace('interlock')),"
        " (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('interlock'))"
    ).fetchone()
    if version:
        found: int = connection.execute("SELECT interlock.version()").fetchone()[0]
        if found > newest:
            raise IncompatibleStore(
                f"{place} has schema version {found}, made by a newer Interlock; this one knows "
                f"versions up to {newest}: upgrade it (pip install -U interlock)"
            )
        return found
    if exists and relations:
        raise IncompatibleStore(
            f"{place} has a schema 'interlock' of another program; name another database"
        )
    return 0
