"""Interlock: many agents share state without silently destroying each other's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.core.conflicts import ConflictReport, KeyConflicts, RefusalNote
from interlock.core.drawing import draw_machine
from interlock.core.machines import AGENT_LIFECYCLE, BOOKING, Machine, MachineError
from interlock.core.merges import Clash, Reducer
from interlock.core.outcome import Committed
from interlock.core.records import Entry, Record
from interlock.core.rules import Rule, describe_rule, guarded, leased, merged, private
from interlock.errors import (
    Closed,
    Conflict,
    Contended,
    Corrupt,
    Fault,
    Fenced,
    Forbidden,
    Held,
    IllegalTransition,
    IncompatibleStore,
    InterlockError,
    Invalid,
    Refused,
    Unavailable,
    Unknown,
)
from interlock.handles import Lease, Moment, Tx
from interlock.settings import rules_from_json
from interlock.space import Space, open  # reads as interlock.open

if TYPE_CHECKING:
    from interlock.aio import AsyncSpace, open_async
    from interlock.aio_handles import AsyncLease, AsyncMoment, AsyncTx

__version__ = "0.1.0"

__all__ = [
    "AGENT_LIFECYCLE",
    "BOOKING",
    "AsyncLease",
    "AsyncMoment",
    "AsyncSpace",
    "AsyncTx",
    "Clash",
    "Closed",
    "Committed",
    "Conflict",
    "ConflictReport",
    "Contended",
    "Corrupt",
    "Entry",
    "Fault",
    "Fenced",
    "Forbidden",
    "Held",
    "IllegalTransition",
    "IncompatibleStore",
    "InterlockError",
    "Invalid",
    "KeyConflicts",
    "Lease",
    "Machine",
    "MachineError",
    "Moment",
    "Record",
    "Reducer",
    "RefusalNote",
    "Refused",
    "Rule",
    "Space",
    "Tx",
    "Unavailable",
    "Unknown",
    "describe_rule",
    "draw_machine",
    "guarded",
    "leased",
    "merged",
    "open",
    "open_async",
    "private",
    "rules_from_json",
]

_ASYNC = ("AsyncLease", "AsyncMoment", "AsyncSpace", "AsyncTx", "open_async")


def __getattr__(name: str) -> Any:
    """Import the asyncio façade when it is first used: asyncio doubles the import time."""
    if name in _ASYNC:
        from interlock import aio

        return getattr(aio, name)
    raise AttributeError(f"module 'interlock' has no attribute {name!r}")
