"""The protocol of replaying a run: each of its commits, and what was known of the run after it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from interlock.core.records import Entry, Record, absent
from interlock.core.refusals import Invalid, Pruned
from interlock.core.requests import LoadAt, LogPage, ReadLog, Steps
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.runs.records import (
    DONE,
    OPEN,
    RunInfo,
    check_run_id,
    fence_key,
    own_prefix,
    run_info,
    step_key,
)

_OLDEST = -1  # after this position: from the oldest that is kept
_PAGE = 1000  # entries
_BEFORE = 16  # entries that are read before a step's own at first; most steps write fewer


class RunMoment(NamedTuple):
    """One commit of a run: its entries, all of them, and the run as it was after it."""

    entries: tuple[Entry, ...]
    run: RunInfo

    @property
    def position(self) -> int:
        """The log position of the commit's last entry."""
        return self.entries[-1].position

    @property
    def agent(self) -> str:
        """Who committed it."""
        return self.entries[-1].agent

    @property
    def at(self) -> datetime:
        """When the store committed it (store's clock, UTC)."""
        return self.entries[-1].at


def replay(writer: Writer, run_id: str) -> Steps[list[RunMoment] | Invalid | Pruned]:
    """Return the moments of a run in order, as far back as the log is kept.

    Invalid where there is no such run, Pruned where the log is cut just now.
    """
    wrong = check_run_id(run_id)
    if wrong is not None:
        return wrong
    entries: list[Entry] = []
    keys: tuple[str | None, ...] = (*_keys(run_id), None)
    for key in keys:
        found = yield from _log("" if key else own_prefix(run_id), key)
        if isinstance(found, Pruned):
            return found
        entries += found
    if not entries:
        return Invalid(f"Nothing of a run {run_id!r} is in the log of this space.")
    entries.sort(key=lambda entry: entry.position)
    records = yield from _before(run_id, entries[0])
    if isinstance(records, Pruned):
        return records
    moments = []
    for _, made in groupby(entries, lambda entry: entry.op_id):
        own = tuple(made)
        for entry in own:
            records[entry.key] = entry.record(writer.space)
        others = yield from _others(run_id, own)
        moments.append(RunMoment((*others, *own), _info(run_id, records)))
    return moments


def _keys(run_id: str) -> tuple[str, str, str]:
    return fence_key(run_id), f"{OPEN}{run_id}", f"{DONE}{run_id}"


def _log(prefix: str, key: str | None) -> Steps[list[Entry] | Pruned]:
    """Return all entries that are kept, of a key or a prefix; or Pruned."""
    found: list[Entry] = []
    page = yield from ReadLog(after=_OLDEST, prefix=prefix, key=key, limit=_PAGE)
    while isinstance(page, LogPage):
        found += page.entries
        if page.upto >= page.head:
            return found
        page = yield from ReadLog(after=page.upto, prefix=prefix, key=key, limit=_PAGE)
    return page


def _before(run_id: str, first: Entry) -> Steps[dict[str, Record] | Pruned]:
    """Return the run's records before its first entry that is kept, by key; or Pruned."""
    if first.key == fence_key(run_id) and first.version == 1:  # the run begins
        return {}
    prefix = own_prefix(run_id)
    snapshot = yield from LoadAt(
        position=first.position - 1, time_us=None, keys=_keys(run_id), prefixes=(prefix,)
    )
    if isinstance(snapshot, Pruned):
        return snapshot
    own = {record.key: record for record in snapshot.scans[prefix]}
    return {**own, **{key: record for key, record in snapshot.records.items() if record.exists}}


def _others(run_id: str, own: tuple[Entry, ...]) -> Steps[tuple[Entry, ...]]:
    """Return what a step wrote to other keys: it stands before the step in the same commit."""
    first, size = own[0], _BEFORE
    if not first.key.startswith(step_key(run_id, "")):
        return ()
    while True:
        after = max(first.position - 1 - size, 0)
        limit = first.position - 1 - after
        position, found = after, []
        while position < first.position - 1:
            page = yield from ReadLog(after=position, limit=first.position - 1 - position)
            if isinstance(page, Pruned):
                page = yield from ReadLog(after=_OLDEST, limit=limit)
                assert isinstance(page, LogPage)
            found += [e for e in page.entries if e.op_id == first.op_id]
            position = page.upto
        own_commit = tuple(e for e in found if e.position < first.position)
        if len(own_commit) < limit or not after:
            return own_commit
        size *= 8


def _info(run_id: str, records: Mapping[str, Record]) -> RunInfo:
    fence = records.get(fence_key(run_id), absent(fence_key(run_id), ""))
    status: Mapping[str, Json] = {"state": "", "agent": ""}
    for key in _keys(run_id)[1:]:
        if key in records and records[key].exists:
            status = records[key].value
    return run_info(run_id, fence, status, records)
