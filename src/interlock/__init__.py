"""Interlock: many agents share state without silently destroying each other's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock._sync.lease import Lease, Leases
from interlock._sync.moment import Moment
from interlock._sync.open import open  # reads as interlock.open
from interlock._sync.space import Space
from interlock._sync.transaction import Tx
from interlock.backends.redaction import redact_url
from interlock.core.keys import DELETE
from interlock.core.machine import AGENT_LIFECYCLE, BOOKING, Machine, MachineError
from interlock.core.merge import REDUCERS, Clash, Reducer
from interlock.core.records import Committed, Entry, KeyInfo, Record
from interlock.core.rules import Rule, describe_rule, guarded, leased, merged, owned, private
from interlock.errors import (
    BreakerOpen,
    Closed,
    Conflict,
    Contended,
    Corrupt,
    Deadlock,
    Fault,
    Fenced,
    Forbidden,
    Held,
    IllegalTransition,
    IncompatibleStore,
    InDoubt,
    InterlockError,
    Invalid,
    LostCommits,
    NotDone,
    ProgramChanged,
    Pruned,
    Refused,
    RunFailed,
    TimedOut,
    Unavailable,
    Unknown,
)
from interlock.extras import NotInstalled
from interlock.settings import rules_from_json

if TYPE_CHECKING:
    from interlock._async.breaker import AsyncBreaker
    from interlock._async.coordinator import AsyncCoordinator
    from interlock._async.files import AsyncFiles, AsyncFilesTx
    from interlock._async.group import AsyncGroup
    from interlock._async.lease import AsyncLease, AsyncLeases
    from interlock._async.moment import AsyncMoment
    from interlock._async.open import open_async
    from interlock._async.projection import AsyncProjection
    from interlock._async.run import AsyncRun, AsyncRuns
    from interlock._async.space import AsyncSpace
    from interlock._async.transaction import AsyncTx
    from interlock._async.worker import AsyncWorker
    from interlock._sync.breaker import Breaker
    from interlock._sync.coordinator import Coordinator
    from interlock._sync.files import Files, FilesTx
    from interlock._sync.group import Group
    from interlock._sync.projection import Projection
    from interlock._sync.run import Run, Runs
    from interlock._sync.worker import Worker
    from interlock.core.conflict_report import ConflictReport, KeyConflicts, RefusalNote
    from interlock.core.erase import Erasure
    from interlock.core.group import Delivery, GroupConsumer, GroupInfo, GroupPending
    from interlock.core.machine import draw_machine
    from interlock.core.trim import Trimmed
    from interlock.files.document import (
        Document,
        FileConflict,
        FileEdited,
        FileStatus,
        Unpublished,
    )
    from interlock.runs.breaker import BreakerInfo
    from interlock.runs.history import RunMoment
    from interlock.runs.records import RunInfo, StepInfo
    from interlock.runs.worker import Worked
    from interlock.streams.coordinator import Progress

__version__ = "0.1.0"

__all__ = [
    "AGENT_LIFECYCLE",
    "BOOKING",
    "DELETE",
    "REDUCERS",
    "AsyncBreaker",
    "AsyncCoordinator",
    "AsyncFiles",
    "AsyncFilesTx",
    "AsyncGroup",
    "AsyncLease",
    "AsyncLeases",
    "AsyncMoment",
    "AsyncProjection",
    "AsyncRun",
    "AsyncRuns",
    "AsyncSpace",
    "AsyncTx",
    "AsyncWorker",
    "Breaker",
    "BreakerInfo",
    "BreakerOpen",
    "Clash",
    "Closed",
    "Committed",
    "Conflict",
    "ConflictReport",
    "Contended",
    "Coordinator",
    "Corrupt",
    "Deadlock",
    "Delivery",
    "Document",
    "Entry",
    "Erasure",
    "Fault",
    "Fenced",
    "FileConflict",
    "FileEdited",
    "FileStatus",
    "Files",
    "FilesTx",
    "Forbidden",
    "Group",
    "GroupConsumer",
    "GroupInfo",
    "GroupPending",
    "Held",
    "IllegalTransition",
    "InDoubt",
    "IncompatibleStore",
    "InterlockError",
    "Invalid",
    "KeyConflicts",
    "KeyInfo",
    "Lease",
    "Leases",
    "LostCommits",
    "Machine",
    "MachineError",
    "Moment",
    "NotDone",
    "NotInstalled",
    "ProgramChanged",
    "Progress",
    "Projection",
    "Pruned",
    "Record",
    "Reducer",
    "RefusalNote",
    "Refused",
    "Rule",
    "Run",
    "RunFailed",
    "RunInfo",
    "RunMoment",
    "Runs",
    "Space",
    "StepInfo",
    "TimedOut",
    "Trimmed",
    "Tx",
    "Unavailable",
    "Unknown",
    "Unpublished",
    "Worked",
    "Worker",
    "describe_rule",
    "draw_machine",
    "guarded",
    "leased",
    "merged",
    "open",
    "open_async",
    "owned",
    "private",
    "redact_url",
    "rules_from_json",
]

# Where names live that few need: importing their modules takes long.
_LATE = {
    "AsyncBreaker": "_async.breaker",
    "AsyncCoordinator": "_async.coordinator",
    "AsyncFiles": "_async.files",
    "AsyncFilesTx": "_async.files",
    "AsyncGroup": "_async.group",
    "AsyncLease": "_async.lease",
    "AsyncLeases": "_async.lease",
    "AsyncMoment": "_async.moment",
    "AsyncRun": "_async.run",
    "AsyncRuns": "_async.run",
    "AsyncProjection": "_async.projection",
    "AsyncSpace": "_async.space",
    "AsyncTx": "_async.transaction",
    "AsyncWorker": "_async.worker",
    "Breaker": "_sync.breaker",
    "BreakerInfo": "runs.breaker",
    "ConflictReport": "core.conflict_report",
    "Coordinator": "_sync.coordinator",
    "Delivery": "core.group",
    "Document": "files.document",
    "Erasure": "core.erase",
    "FileConflict": "files.document",
    "FileEdited": "files.document",
    "FileStatus": "files.document",
    "Files": "_sync.files",
    "FilesTx": "_sync.files",
    "Group": "_sync.group",
    "GroupConsumer": "core.group",
    "GroupInfo": "core.group",
    "GroupPending": "core.group",
    "KeyConflicts": "core.conflict_report",
    "Progress": "streams.coordinator",
    "Projection": "_sync.projection",
    "RefusalNote": "core.conflict_report",
    "Run": "_sync.run",
    "RunInfo": "runs.records",
    "RunMoment": "runs.history",
    "Runs": "_sync.run",
    "StepInfo": "runs.records",
    "Trimmed": "core.trim",
    "Unpublished": "files.document",
    "Worked": "runs.worker",
    "Worker": "_sync.worker",
    "draw_machine": "core.machine",
    "open_async": "_async.open",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'interlock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"interlock.{_LATE[name]}"), name)
