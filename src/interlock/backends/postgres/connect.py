"""Opens connections to a store in PostgreSQL, and sees that the server is one that can hold it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

from interlock.backends.postgres import schema
from interlock.backends.postgres.faults import fault_of, is_full, psycopg
from interlock.backends.redaction import Hidden, malformed
from interlock.errors import IncompatibleStore, Unavailable

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
    schema.bring_up(connection, place, create)
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
