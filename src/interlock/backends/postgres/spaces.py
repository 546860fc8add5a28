"""A PostgreSQL database as a whole: the spaces in it, and its health.  See `core/spaces.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal

from interlock.backends.postgres.backend import Store
from interlock.backends.postgres.calls import Call
from interlock.backends.postgres.connect import SCHEMA_VERSION, arguments, prepare
from interlock.backends.postgres.faults import fault_of, psycopg
from interlock.backends.remote import ServerOptions, check_options
from interlock.backends.whole_store import WholeStore
from interlock.core.health import (
    GroupLag,
    Level,
    QueueState,
    SpaceState,
    bytes_of,
    of_skew,
    of_spaces,
)
from interlock.core.spaces import (
    CreateSpace,
    DropSpace,
    Examine,
    Finding,
    FindSpace,
    ListSpaces,
    RenameSpace,
    SpaceInfo,
)

_LONG = 300  # seconds of a transaction that holds up vacuum
_BUSY = 0.8  # of the connections
_FACTS = """
SELECT current_setting('server_version'), current_setting('synchronous_commit'),
    current_setting('fsync'), current_setting('full_page_writes'),
    current_setting('max_connections')::integer, extract(epoch FROM clock_timestamp())::float,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
    (SELECT COALESCE(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
     WHERE c.relnamespace = 'interlock'::regnamespace AND c.relkind = 'r'),
    (SELECT count(*) FROM pg_stat_replication)
"""
_CONNECTED = """
SELECT usename::text, count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'interlock' AND pid <> pg_backend_pid()
GROUP BY usename ORDER BY usename
"""
_LONG_TRANSACTIONS = """
SELECT pid, COALESCE(usename::text, '?'), COALESCE(application_name, ''),
    extract(epoch FROM now() - xact_start)::float
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND xact_start < now() - %s * interval '1 s'
ORDER BY xact_start
"""


class PostgresStore(WholeStore):
    """All spaces of one database."""

    def __init__(
        self, url: str, options: ServerOptions | None = None, create: bool = False
    ) -> None:
        options = options or ServerOptions()
        check_options(options)
        self._url = url
        self._options = options
        self._target = prepare(url, options.busy_timeout, create)
        self._store = Store(self._target, options.busy_timeout)

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    def _ask(self, function: str, *given: Any, writes: bool = True) -> list[Any]:
        return self._store.send(Call(function, given, lambda rows: rows, writes))

    def _list(self, request: ListSpaces) -> tuple[SpaceInfo, ...]:
        rows = self._store.send(Call("list_spaces", (), lambda found: found, False))
        return tuple(SpaceInfo._make((*row[:6], bool(row[6]))) for row in rows)

    def _named(self) -> list[str]:
        return [name for (name,) in self._ask("name_spaces", writes=False)]

    def _find(self, request: FindSpace) -> str | None:
        rows = self._ask("find_space", request.name, writes=False)
        return rows[0][0] if rows else None

    def _create(self, request: CreateSpace) -> bool:
        return bool(self._ask("create_space", request.name, request.uid)[0][0])

    def _drop(self, request: DropSpace) -> None:
        self._ask("drop_space", request.uid, request.unfinished)

    def _rename(self, request: RenameSpace) -> Literal["done", "taken", "gone"]:
        answer: Literal["done", "taken", "gone"]
        answer = self._ask("rename_space", request.uid, request.to)[0][0]
        return answer

    def _examine(self, request: Examine) -> tuple[Finding, ...]:
        try:
            with psycopg.connect(self._url, **arguments(self._url, direct=False)) as connection:
                found = tuple(self._of_server(connection))
        except psycopg.Error as problem:
            raise fault_of(problem, self._target.place, sent=False) from problem
        states = self._store.send(Call("examine", (), lambda rows: json.loads(rows[0][0]), False))
        return (*found, *of_spaces(_state(*each) for each in states))

    def _of_server(self, connection: Any) -> Iterator[Finding]:
        before = time.time()
        row = connection.execute(_FACTS).fetchone()
        after = time.time()
        version, waits, fsync, pages, most, clock, clients, size, standbys = row
        yield Finding("server", "ok", f"PostgreSQL {version}")
        yield Finding("schema", "ok", f"version {SCHEMA_VERSION} of {SCHEMA_VERSION}")
        told = f"synchronous_commit={waits}, fsync={fsync}, full_page_writes={pages}"
        if "off" in (fsync, pages):
            advice = "A crash can destroy the store: set fsync and full_page_writes on."
            yield Finding("durability", "wrong", told, advice)
        else:  # what Interlock itself asks for does not depend on the server's synchronous_commit
            yield Finding("durability", "ok", told)
        yield Finding("standbys", "ok", f"{standbys} standbys are connected")
        yield of_skew(clock - (before + after) / 2)
        full = clients > _BUSY * most
        level: Level = "wrong" if full else "ok"
        advice = "Raise max_connections, or put PgBouncer in front." if full else ""
        yield Finding("connections", level, f"{clients} of {most} connections are used", advice)
        rows = connection.execute(_CONNECTED).fetchall()
        who = ", ".join(f"{name} ({count})" for name, count in rows)
        yield Finding("connected", "ok", who or "nobody else")
        yield Finding("space", "ok", bytes_of(size))
        for pid, user, program, seconds in connection.execute(_LONG_TRANSACTIONS, (_LONG,)):
            yield Finding(
                "transactions",
                "wrong",
                f"process {pid} ({user} {program}) has a transaction open for {seconds:.0f} s",
                f"It keeps vacuum from its work: end it, or SELECT pg_terminate_backend({pid}).",
            )


def _state(
    name: str,
    entries: int,
    position: int,
    importing: bool,
    ahead: float,
    leases: Any,
    queues: Any,
    groups: Any,
) -> SpaceState:
    return SpaceState(
        name,
        entries,
        position,
        importing,
        ahead,
        tuple((key, holder, left) for key, holder, left in leases or ()),
        tuple(map(QueueState._make, queues or ())),
        tuple(map(GroupLag._make, groups or ())),
    )
