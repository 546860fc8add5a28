"""A plugin of pytest that puts our saver and store in the place of LangGraph's own.

Loaded with `-p` before the tests of LangGraph import those names.  `INTERLOCK_PEERS_URL` is the
store to use (default: SQLite in memory); every test gets a space of its own.
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import langgraph.checkpoint.sqlite
import langgraph.checkpoint.sqlite.aio
import langgraph.store.memory

import interlock
from interlock.adapters.langgraph import Saver, Store

_URL = os.environ.get("INTERLOCK_PEERS_URL", "sqlite://")


def _new() -> dict[str, str]:
    """Return where a test keeps its state."""
    return {"url": _URL, "space": f"peers-{secrets.token_hex(8)}", "agent": "peers"}


class SqliteSaver(Saver):
    """Our saver under the name of LangGraph's."""

    @classmethod
    @contextmanager
    def from_conn_string(cls, _: str) -> Iterator[Saver]:
        """Do as LangGraph's: give a saver for a `with` block."""
        with interlock.open(**_new()) as space:
            yield cls(space)


class AsyncSqliteSaver(Saver):
    """Our saver under the name of LangGraph's asynchronous one."""

    @classmethod
    @asynccontextmanager
    async def from_conn_string(cls, _: str) -> AsyncIterator[Saver]:
        """Do as LangGraph's: give a saver for an `async with` block."""
        async with interlock.open_async(**_new()) as space:
            yield cls(space)


class InMemoryStore(Store):
    """Our store under the name of LangGraph's, which nobody closes."""

    def __init__(self, **options: Any) -> None:
        space = interlock.open(**_new())
        super().__init__(space, **options)
        weakref.finalize(self, space.close)


langgraph.checkpoint.sqlite.SqliteSaver = SqliteSaver  # type: ignore[attr-defined,misc]  # rebound
langgraph.checkpoint.sqlite.aio.AsyncSqliteSaver = AsyncSqliteSaver  # type: ignore[attr-defined,misc]  # rebound
langgraph.store.memory.InMemoryStore = InMemoryStore  # type: ignore[misc,assignment]  # rebound
