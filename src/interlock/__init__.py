"""Interlock: many agents share state without silently destroying each other's work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock._sync.lease import Lease, Leases
from interlock._sync.moment import Moment
from interlock._sync.open import open  # reads as interlock.open
from interlock._sync.space import Space
from interlock._sync.transaction import Tx
from interlock.backends.redaction import redact_url
from interlock.core.keys import DELETE
from interlock.core.machine import AGENT_LIFECYCLE, BOOKING, Machine, MachineError
from interlock.core.merge import REDUCERS, Clash, Reducer, merge_patch
from interlock.core.records import Committed, Entry, KeyInfo, Leaseholder, Queue, Record, Waiter
from interlock.core.rules import Rule, describe_rule, guarded, leased, merged, owned, private
from interlock.core.struct import Json
from interlock.errors import (
    BreakerOpen,
    Closed,
    Conflict,
    Contended,
    Corrupt,
    Deadlock,
    Dropped,
    Fault,
    Fenced,
    Forbidden,
    Held,
    IllegalTransition,
    IncompatibleStore,
    InDoubt,
    InterlockError,
    Invalid,
    KeyDestroyed,
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
from interlock.typed import upcast

if TYPE_CHECKING:
    from interlock._async.breaker import AsyncBreaker
    from interlock._async.coordinator import AsyncCoordinator
    from interlock._async.curator import AsyncCurator
    from interlock._async.events import AsyncEvents
    from interlock._async.files import AsyncFiles, AsyncFilesTx
    from interlock._async.group import AsyncGroup
    from interlock._async.joined import AsyncJoined
    from interlock._async.lease import AsyncLease, AsyncLeases
    from interlock._async.moment import AsyncMoment
    from interlock._async.open import open_async
    from interlock._async.projection import AsyncProjection
    from interlock._async.run import AsyncRun, AsyncRuns
    from interlock._async.space import AsyncSpace
    from interlock._async.store import AsyncStore
    from interlock._async.transaction import AsyncTx
    from interlock._async.worker import AsyncWorker
    from interlock._sync.breaker import Breaker
    from interlock._sync.coordinator import Coordinator
    from interlock._sync.curator import Curator
    from interlock._sync.events import Events
    from interlock._sync.files import Files, FilesTx
    from interlock._sync.group import Group
    from interlock._sync.joined import Joined
    from interlock._sync.projection import Projection
    from interlock._sync.run import Run, Runs
    from interlock._sync.store import Store
    from interlock._sync.worker import Worker
    from interlock.backends.urls import schema_sql
    from interlock.core.conflict_report import ConflictReport, KeyConflicts, RefusalNote
    from interlock.core.erase import Erasure
    from interlock.core.group import Delivery, GroupConsumer, GroupInfo, GroupPending
    from interlock.core.machine import draw_machine
    from interlock.core.spaces import Finding, SpaceInfo
    from interlock.core.transfer import Copied
    from interlock.core.trim import Trimmed
    from interlock.files.document import (
        Document,
        FileConflict,
        FileEdited,
        FileStatus,
        Unpublished,
    )
    from interlock.observe.metrics import Distribution, Metrics
    from interlock.observe.notices import (
        CommitNotice,
        LeaseNotice,
        RefusalNotice,
        StoreNotice,
        TurnNotice,
    )
    from interlock.runs.breaker import BreakerInfo
    from interlock.runs.history import RunMoment
    from interlock.runs.records import RunInfo, StepInfo
    from interlock.runs.worker import Worked
    from interlock.streams.coordinator import Progress
    from interlock.streams.events import EventEntry

__version__ = "0.1.0"

__all__ = [
    "AGENT_LIFECYCLE",
    "BOOKING",
    "DELETE",
    "REDUCERS",
    "AsyncBreaker",
    "AsyncCoordinator",
    "AsyncCurator",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncFilesTx",
    "AsyncGroup",
    "AsyncJoined",
    "AsyncLease",
    "AsyncLeases",
    "AsyncMoment",
    "AsyncProjection",
    "AsyncRun",
    "AsyncRuns",
    "AsyncSpace",
    "AsyncStore",
    "AsyncTx",
    "AsyncWorker",
    "Breaker",
    "BreakerInfo",
    "BreakerOpen",
    "Clash",
    "Closed",
    "CommitNotice",
    "Committed",
    "Conflict",
    "ConflictReport",
    "Contended",
    "Coordinator",
    "Copied",
    "Corrupt",
    "Curator",
    "Deadlock",
    "Delivery",
    "Distribution",
    "Document",
    "Dropped",
    "Entry",
    "Erasure",
    "EventEntry",
    "Events",
    "Fault",
    "Fenced",
    "FileConflict",
    "FileEdited",
    "FileStatus",
    "Files",
    "FilesTx",
    "Finding",
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
    "Joined",
    "Json",
    "KeyConflicts",
    "KeyDestroyed",
    "KeyInfo",
    "Lease",
    "LeaseNotice",
    "Leaseholder",
    "Leases",
    "LostCommits",
    "Machine",
    "MachineError",
    "Metrics",
    "Moment",
    "NotDone",
    "NotInstalled",
    "ProgramChanged",
    "Progress",
    "Projection",
    "Pruned",
    "Queue",
    "Record",
    "Reducer",
    "RefusalNote",
    "RefusalNotice",
    "Refused",
    "Rule",
    "Run",
    "RunFailed",
    "RunInfo",
    "RunMoment",
    "Runs",
    "Space",
    "SpaceInfo",
    "StepInfo",
    "Store",
    "StoreNotice",
    "TimedOut",
    "Trimmed",
    "TurnNotice",
    "Tx",
    "Unavailable",
    "Unknown",
    "Unpublished",
    "Waiter",
    "Worked",
    "Worker",
    "describe_rule",
    "draw_machine",
    "guarded",
    "leased",
    "merge_patch",
    "merged",
    "open",
    "open_async",
    "owned",
    "private",
    "redact_url",
    "rules_from_json",
    "schema_sql",
    "upcast",
]

# Where names live that few need: importing their modules takes long.
_LATE = {
    "AsyncBreaker": "_async.breaker",
    "AsyncCoordinator": "_async.coordinator",
    "AsyncCurator": "_async.curator",
    "AsyncEvents": "_async.events",
    "AsyncFiles": "_async.files",
    "AsyncFilesTx": "_async.files",
    "AsyncGroup": "_async.group",
    "AsyncJoined": "_async.joined",
    "AsyncLease": "_async.lease",
    "AsyncLeases": "_async.lease",
    "AsyncMoment": "_async.moment",
    "AsyncProjection": "_async.projection",
    "AsyncRun": "_async.run",
    "AsyncRuns": "_async.run",
    "AsyncSpace": "_async.space",
    "AsyncStore": "_async.store",
    "AsyncTx": "_async.transaction",
    "AsyncWorker": "_async.worker",
    "Breaker": "_sync.breaker",
    "BreakerInfo": "runs.breaker",
    "CommitNotice": "observe.notices",
    "ConflictReport": "core.conflict_report",
    "Coordinator": "_sync.coordinator",
    "Curator": "_sync.curator",
    "Copied": "core.transfer",
    "Delivery": "core.group",
    "Distribution": "observe.metrics",
    "Document": "files.document",
    "Erasure": "core.erase",
    "FileConflict": "files.document",
    "FileEdited": "files.document",
    "FileStatus": "files.document",
    "EventEntry": "streams.events",
    "Events": "_sync.events",
    "Files": "_sync.files",
    "Finding": "core.spaces",
    "FilesTx": "_sync.files",
    "Group": "_sync.group",
    "GroupConsumer": "core.group",
    "GroupInfo": "core.group",
    "GroupPending": "core.group",
    "Joined": "_sync.joined",
    "KeyConflicts": "core.conflict_report",
    "LeaseNotice": "observe.notices",
    "Metrics": "observe.metrics",
    "Progress": "streams.coordinator",
    "Projection": "_sync.projection",
    "RefusalNote": "core.conflict_report",
    "RefusalNotice": "observe.notices",
    "Run": "_sync.run",
    "RunInfo": "runs.records",
    "RunMoment": "runs.history",
    "Runs": "_sync.run",
    "SpaceInfo": "core.spaces",
    "StepInfo": "runs.records",
    "StoreNotice": "observe.notices",
    "Store": "_sync.store",
    "Trimmed": "core.trim",
    "TurnNotice": "observe.notices",
    "Unpublished": "files.document",
    "Worked": "runs.worker",
    "Worker": "_sync.worker",
    "draw_machine": "core.machine",
    "open_async": "_async.open",
    "schema_sql": "backends.urls",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used."""
    if name not in _LATE:
        raise AttributeError(f"module 'interlock' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"interlock.{_LATE[name]}"), name)
