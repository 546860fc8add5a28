"""Opens connections to a store in PostgreSQL, and sees that the server is one that can hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interlock.backends.postgres import schema
from interlock.backends.postgres.faults import fault_of, psycopg
from interlock.backends.redaction import Hidden, malformed
from interlock.errors import IncompatibleStore, Unavailable

_OLDEST_SERVER = 150000
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


def prepare(url: str) -> Target:
    """Bring a store to the schema of this version: make it where there is none, refuse what is not
    ours."""
    place = place_of(url)
    try:
        with psycopg.connect(url, **arguments(url, direct=False)) as connection:
            _check_server(connection, place)
            schema.bring_up(connection, place)
            told = connection.execute("SELECT pg_backend_pid()").fetchone()
            return Target(url, place, told == (connection.info.backend_pid,))
    except psycopg.Error as problem:
        raise fault_of(problem, place, sent=False) from problem


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
