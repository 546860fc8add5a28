"""What an application shares with `open(connection=...)`: its pool, its engine, a connection.

It is looked at in the caller's thread, before a space is opened over it, and never closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from interlock.backends.contract import Backend
from interlock.backends.driver_connection import described, is_a
from interlock.errors import Invalid

if TYPE_CHECKING:
    import asyncio  # at run time only where it is used: it doubles the import time

_POSTGRES = ("postgresql", "postgres")


class Shared:
    """Something that spaces can be opened over."""

    def __init__(self, open: Callable[[str, bool, Mapping[str, Any]], Backend]) -> None:
        self.open = open  # of a space's name, whether to create it, and options


def source(
    url: str | None, connection: Any, loop: asyncio.AbstractEventLoop | None = None
) -> str | Shared:
    """Return where a space is to be opened: the URL, or what the application shares.

    `loop` is that of asyncio.  Raises Invalid.
    """
    if connection is None:
        return url  # type: ignore[return-value]  # None is refused as any other that is no URL
    if url is not None:
        raise Invalid("open() takes either a URL or connection=, not both.")
    if is_a(connection, "sqlite3") or _dialect(connection) == "sqlite":
        return _sqlite(_path(connection))
    if is_a(connection, "redis") and not is_a(connection, "psycopg"):
        return _redis(connection, loop)
    if is_a(connection, "psycopg") or is_a(connection, "psycopg_pool"):
        return _postgres(connection, loop)
    if _dialect(connection) in _POSTGRES:
        return _postgres(connection, loop)
    raise Invalid(
        f"A {described(connection)} can't be shared. Give a psycopg connection or pool, a "
        "SQLAlchemy engine of PostgreSQL (psycopg) or SQLite, a sqlite3.Connection or a Redis "
        "client."
    )


def _dialect(thing: Any) -> str:
    """Return the dialect of a SQLAlchemy engine, "" of anything else."""
    is_engine = is_a(thing, "sqlalchemy", "Engine", "AsyncEngine")
    return str(thing.dialect.name) if is_engine else ""


def _postgres(connection: Any, loop: asyncio.AbstractEventLoop | None) -> Shared:
    from interlock.backends.postgres import PostgresBackend
    from interlock.backends.postgres.lender import lender_of
    from interlock.backends.remote import ServerOptions

    lender = lender_of(connection, loop)
    return Shared(
        lambda name, create, options: PostgresBackend(
            lender, name, ServerOptions(**options), create
        )
    )


def _redis(client: Any, loop: asyncio.AbstractEventLoop | None) -> Shared:
    from interlock.backends.redis import RedisBackend
    from interlock.backends.redis.client import target_of_client
    from interlock.backends.remote import ServerOptions

    target = target_of_client(client, loop)
    return Shared(
        lambda name, create, options: RedisBackend(target, name, ServerOptions(**options), create)
    )


def _sqlite(path: str) -> Shared:
    """A file is shared, not a connection: that belongs to a thread, and to its transaction."""
    from urllib.parse import quote

    from interlock.backends.sqlite import SQLiteBackend, SQLiteOptions

    url = f"sqlite:///{quote(os.path.abspath(path))}"
    return Shared(
        lambda name, create, options: SQLiteBackend(
            url, name, SQLiteOptions(**options), create=create, guest=True
        )
    )


def _path(connection: Any) -> str:
    """Return the file of a connection or an engine."""
    if is_a(connection, "sqlalchemy"):
        path = connection.url.database or ""
        if path.startswith("file:"):
            raise Invalid("An engine with a file: URI can't be shared. Name the file.")
    else:
        path = _path_of_connection(connection)
    if path in ("", ":memory:"):
        raise Invalid("A SQLite database in memory can't be shared. Use a file.")
    return str(path)


def _path_of_connection(connection: Any) -> str:
    import sqlite3

    try:
        if connection.in_transaction:
            raise Invalid("The connection is in a transaction of yours: commit or roll back first.")
        cursor = connection.cursor()
        cursor.row_factory = None
        rows = cursor.execute("PRAGMA database_list").fetchall()
    except sqlite3.Error as problem:
        raise Invalid(f"The connection can't be used here: {problem}") from problem
    return next(os.fsdecode(file) for _, name, file in rows if os.fsdecode(name) == "main")
