"""Interlock: many agents share state without silently destroying each other's work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interlock.backends.redaction import redact_url
from interlock.core.machines import AGENT_LIFECYCLE, BOOKING, Machine, MachineError
from interlock.core.merges import REDUCERS, Clash, Reducer
from interlock.core.outcome import Committed
from interlock.core.records import Entry, KeyInfo, Record
from interlock.core.rules import Rule, describe_rule, guarded, leased, merged, private
from interlock.core.values import DELETE
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
from interlock.handles import Lease, Leases, Moment, Tx
from interlock.settings import rules_from_json
from interlock.space import Space, open  # reads as interlock.open

if TYPE_CHECKING:
    from interlock.aio import AsyncSpace, open_async
    from interlock.aio_handles import AsyncLease, AsyncLeases, AsyncMoment, AsyncTx
    from interlock.core.conflicts import ConflictReport, KeyConflicts, RefusalNote
    from interlock.core.diagram import draw_machine
    from interlock.core.groups import Delivery, GroupConsumer, GroupInfo, GroupPending
    from interlock.core.trimming import Trimmed
    from interlock.files.aio_handles import AsyncFiles, AsyncFilesTx
    from interlock.files.documents import (
        Document,
        FileConflict,
        FileEdited,
        FileStatus,
        Unpublished,
    )
    from interlock.files.handles import Files, FilesTx
    from interlock.runs.aio_run import AsyncRun
    from interlock.runs.breakers import AsyncBreaker, Breaker
    from interlock.runs.breaking import BreakerInfo
    from interlock.runs.desks import AsyncRuns, Runs
    from interlock.runs.records import RunInfo, StepInfo
    from interlock.runs.replaying import RunMoment
    from interlock.runs.run import Run
    from interlock.runs.worker import AsyncWorker, Worker
    from interlock.runs.working import Worked
    from interlock.streams.aio_groups import AsyncGroup
    from interlock.streams.coordinating import Progress
    from interlock.streams.coordinators import AsyncCoordinator, Coordinator
    from interlock.streams.groups import Group
    from interlock.streams.projections import AsyncProjection, Projection

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
    "private",
    "redact_url",
    "rules_from_json",
]

# Where names live that few need: importing their modules takes long.
_LATE = {
    "AsyncBreaker": "runs.breakers",
    "AsyncCoordinator": "streams.coordinators",
    "AsyncFiles": "files.aio_handles",
    "AsyncFilesTx": "files.aio_handles",
    "AsyncGroup": "streams.aio_groups",
    "AsyncLease": "aio_handles",
    "AsyncLeases": "aio_handles",
    "AsyncMoment": "aio_handles",
    "AsyncRun": "runs.aio_run",
    "AsyncRuns": "runs.desks",
    "AsyncProjection": "streams.projections",
    "AsyncSpace": "aio",
    "AsyncTx": "aio_handles",
    "AsyncWorker": "runs.worker",
    "Breaker": "runs.breakers",
    "BreakerInfo": "runs.breaking",
    "ConflictReport": "core.conflicts",
    "Coordinator": "streams.coordinators",
    "Delivery": "core.groups",
    "Document": "files.documents",
    "FileConflict": "files.documents",
    "FileEdited": "files.documents",
    "FileStatus": "files.documents",
    "Files": "files.handles",
    "FilesTx": "files.handles",
    "Group": "streams.groups",
    "GroupConsumer": "core.groups",
    "GroupInfo": "core.groups",
    "GroupPending": "core.groups",
    "KeyConflicts": "core.conflicts",
    "Progress": "streams.coordinating",
    "Projection": "streams.projections",
    "RefusalNote": "core.conflicts",
    "Run": "runs.run",
    "RunInfo": "runs.records",
    "RunMoment": "runs.replaying",
    "Runs": "runs.desks",
    "StepInfo": "runs.records",
    "Trimmed": "core.trimming",
    "Unpublished": "files.documents",
    "Worked": "runs.working",
    "Worker": "runs.worker",
    "draw_machine": "core.diagram",
    "open_async": "aio",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'interlock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"interlock.{_LATE[name]}"), name)
