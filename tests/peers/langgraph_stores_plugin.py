"""A plugin of pytest that puts our store in the place of those that LangGraph brings.

`INTERLOCK_PEERS_URL` is the store to use; what was one database there is a space here.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any

import psycopg

import interlock
from interlock.adapters.langgraph import Store

_URL = os.environ.get("INTERLOCK_PEERS_URL", "sqlite://")


class _Ours(Store):
    """Our store, for tests that put over what they have not read."""

    MIGRATIONS: tuple[str, ...] = ()  # it has none, which some tests go through
    database = ""

    def __init__(self, space: Any, **options: Any) -> None:
        super().__init__(space, unread="overwrite", **options)

    @classmethod
    def from_conn_string(  # type: ignore[override]  # as LangGraph's
        cls, conn_string: str, *, pipeline: bool = False, pool_config: Any = None, **options: Any
    ) -> Any:
        """Do as LangGraph's do: a database of its own for each name, but for `:memory:`."""
        name = secrets.token_hex(8) if conn_string == ":memory:" else conn_string
        name = name.partition("?")[0].rpartition("/")[2]
        made = cls(_URL, space_name=f"peers-{name}", **options)
        made.database = conn_string
        return made


class SqliteStore(_Ours):
    """Under the name of the one on SQLite, where reads refresh only if they are told to."""

    def __init__(self, space: Any, **options: Any) -> None:
        ttl = options.pop("ttl", None)
        if ttl is not None:
            ttl = {"refresh_on_read": False, **ttl}
        super().__init__(space, ttl=ttl, **options)


class AsyncSqliteStore(SqliteStore):
    """Under the name of the asynchronous one."""

    async def sweep_ttl(self) -> int:  # type: ignore[override]  # as LangGraph's
        """Sweep, as a coroutine."""
        return await self.asweep_ttl()


class PostgresStore(_Ours):
    """Under the name of the one on PostgreSQL, whose tables some tests drop to make them anew."""

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        with psycopg.connect(self.database, autocommit=True) as db:
            yield db.cursor()


class AsyncPostgresStore(_Ours):
    """Under the name of the asynchronous one."""

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as db:
            yield db.cursor()

    async def sweep_ttl(self) -> int:  # type: ignore[override]  # as LangGraph's
        """Sweep, as a coroutine."""
        return await self.asweep_ttl()


class InMemoryStore(_Ours):
    """Under the name of the one in memory, which nobody closes."""

    def __init__(self, **options: Any) -> None:
        space = interlock.open(_URL, f"peers-{secrets.token_hex(8)}", "peers")
        super().__init__(space, **options)
        weakref.finalize(self, space.close)


def pytest_plugin_registered(plugin: Any) -> None:
    """Have the tests of the one on PostgreSQL make their databases on our server."""
    if hasattr(plugin, "DEFAULT_URI"):
        plugin.DEFAULT_URI = _URL


for _module, _classes in (
    ("langgraph.store.memory", (InMemoryStore,)),
    ("langgraph.store.sqlite", (SqliteStore, AsyncSqliteStore)),
    ("langgraph.store.sqlite.aio", (AsyncSqliteStore,)),
    ("langgraph.store.postgres", (PostgresStore, AsyncPostgresStore)),
):
    for _class in _classes:
        setattr(import_module(_module), _class.__name__, _class)
