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
from importlib import import_module
from typing import Any

import interlock
from interlock.adapters.langgraph import Saver, Store

_URL = os.environ.get("INTERLOCK_PEERS_URL", "sqlite://")


def _place() -> tuple[str, str, str]:
    """Return where a test keeps its state, and as whom: not by uuid4, which some tests replace."""
    return _URL, f"peers-{secrets.token_hex(8)}", "peers"


class SqliteSaver(Saver):
    """Our saver under the name of LangGraph's."""

    @classmethod
    @contextmanager
    def from_conn_string(cls, _: str) -> Iterator[Saver]:  # type: ignore[override]  # as LangGraph's
        """Do as LangGraph's: give a saver for a `with` block."""
        with interlock.open(*_place()) as space:
            yield cls(space, allow=True)  # graphs with types of their own


class AsyncSqliteSaver(Saver):
    """Our saver under the name of LangGraph's asynchronous one."""

    @classmethod
    @asynccontextmanager
    async def from_conn_string(cls, _: str) -> AsyncIterator[Saver]:  # type: ignore[override]  # as LangGraph's
        """Do as LangGraph's: give a saver for an `async with` block."""
        async with interlock.open_async(*_place()) as space:
            yield cls(space, allow=True)


class InMemoryStore(Store):
    """Our store under the name of LangGraph's, which nobody closes."""

    def __init__(self, **options: Any) -> None:
        space = interlock.open(*_place())
        # Their tests put over what they have not read.
        super().__init__(space, unread="overwrite", **options)
        weakref.finalize(self, space.close)


# By name: the environment of our own tests does not have these packages.
for _module, _class in (
    ("langgraph.checkpoint.sqlite", SqliteSaver),
    ("langgraph.checkpoint.sqlite.aio", AsyncSqliteSaver),
    ("langgraph.store.memory", InMemoryStore),
):
    setattr(import_module(_module), _class.__name__, _class)
