"""Interlock: many agents share state without silently destroying each other's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.core.outcome import Committed
from interlock.core.records import Entry, Record
from interlock.errors import (
    Closed,
    Conflict,
    Contended,
    Corrupt,
    Fault,
    Fenced,
    Held,
    IncompatibleStore,
    InterlockError,
    Invalid,
    Refused,
    Unavailable,
    Unknown,
)
from interlock.space import Moment, Space, Tx, open  # reads as interlock.open

if TYPE_CHECKING:
    from interlock.aio import AsyncMoment, AsyncSpace, AsyncTx, open_async

__version__ = "0.1.0"

__all__ = [
    "AsyncMoment",
    "AsyncSpace",
    "AsyncTx",
    "Closed",
    "Committed",
    "Conflict",
    "Contended",
    "Corrupt",
    "Entry",
    "Fault",
    "Fenced",
    "Held",
    "IncompatibleStore",
    "InterlockError",
    "Invalid",
    "Moment",
    "Record",
    "Refused",
    "Space",
    "Tx",
    "Unavailable",
    "Unknown",
    "open",
    "open_async",
]

_ASYNC = ("AsyncMoment", "AsyncSpace", "AsyncTx", "open_async")


def __getattr__(name: str) -> Any:
    """Import the asyncio façade when it is first used: asyncio doubles the import time."""
    if name in _ASYNC:
        from interlock import aio

        return getattr(aio, name)
    raise AttributeError(f"module 'interlock' has no attribute {name!r}")
