"""Interlock: many agents share state without silently destroying each other's work."""

from interlock.aio import AsyncMoment, AsyncSpace, AsyncTx, open_async
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
