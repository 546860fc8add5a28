"""Exports a space's log as a trace of operations: one per commit.

The log says what each commit was computed from, but not when that was read.  What was read is
given the latest moment at which the log alone shows that it was still current: one microsecond
before the commit that replaced it, and at the latest one microsecond before the operation's own.
An earlier moment would give the same verdict: what counts is whether another agent's commit stands
between the version that was read and the operation's own commit.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import NamedTuple

from interlock import Json
from interlock.core.keys import prefix_end
from interlock.core.plan import APPEND, DELETE
from interlock.core.records import Entry
from interlock.forensics.operations import Operation


class _Made(NamedTuple):
    """One version of a key, as exported: when it was made, and by whom."""

    version: int
    time: int
    value: Json
    op_id: str
    exists: bool


def export_trace(entries: Iterable[Entry], session: str = "default") -> Iterator[Operation]:
    """Yield one operation for each commit of a log, in commit order.

    `entries` are those of `space.log()`, from the first one on, or from where the log still goes
    back to; `session` names the trace.

    The write time is the store's, in microseconds since 1970, moved on where needed so that each
    commit has its own and times rise as positions do: the log's order is the truth.  The read set
    is `entry.reads`, and for each key that was put or deleted at version v its version v-1, which
    is the only one that it can have been computed from.  A key that a scan should have shown and
    did not counts as read, too, as null.  The write set holds the values put, null where a key was
    deleted, and `{"append": [...], "version": v}` for contributions to a merged key; what was read
    is told the same way, and as `{"version": v}` where the log does not go back so far.
    Predecessors are the operations that made the versions read.
    All that was ever written is held in memory, to be able to say what a stale commit had read.
    """
    past = _Past()
    time = 0
    for op_id, group in groupby(entries, key=lambda entry: entry.op_id):
        commit = list(group)
        time = max(commit[0].time_us, time + 1)
        yield past.operation(session, op_id, commit, time)


class _Past:
    """What the log has shown so far."""

    def __init__(self) -> None:
        self._made: dict[str, list[_Made]] = {}
        self._sorted: list[str] | None = None  # the keys, from the first scan on

    def operation(self, session: str, op_id: str, commit: list[Entry], time: int) -> Operation:
        """Return the operation that a commit is, and take note of what it wrote."""
        read: dict[str, Json] = {}
        predecessors: dict[str, None] = {}
        read_times: dict[str, float] = {}
        agent = commit[0].agent
        for key, version in self._versions(commit).items():
            made, replaced = self._find(key, version)
            if made is not None:
                predecessors[made.op_id] = None
            read[key] = made.value if made else {"version": version} if version else None
            if replaced is not None:
                read_times[key] = replaced.time - 1
        return Operation(
            session,
            op_id,
            agent,
            time - 1,
            time,
            read,
            self._note(commit, time),
            predecessors=tuple(predecessors),
            read_times=read_times,
        )

    def _versions(self, commit: list[Entry]) -> dict[str, int | None]:
        """Return the version of each key that a commit was computed from; None: no such key."""
        versions: dict[str, int | None] = {e.key: e.version - 1 for e in commit if e.kind != APPEND}
        for name, version in (commit[0].reads or {}).items():
            if isinstance(version, Mapping):
                versions.update(version)
                prefix = name.removesuffix("*")
                versions.update((key, None) for key in self._live(prefix) if key not in version)
            else:
                versions[name] = version
        return versions

    def _find(self, key: str, version: int | None) -> tuple[_Made | None, _Made | None]:
        """Return how a version was made, None where that is not known, and what replaced it."""
        line = self._made.get(key, [])
        if line and line[-1].version == version:
            return line[-1], None
        if version is None:
            born = len(line) - 1
            while born and line[born - 1].exists:
                born -= 1
            return None, line[born]
        for at in range(len(line) - 2, -1, -1):
            if line[at].version == version:
                return line[at], line[at + 1]
        return None, next((made for made in line if made.version > version), None)

    def _live(self, prefix: str) -> Iterator[str]:
        """Yield the keys of a prefix that exist; the library's own are no part of any scan."""
        if self._sorted is None:
            self._sorted = sorted(self._made)
        end = prefix_end(prefix)
        first = bisect_left(self._sorted, prefix)
        last = len(self._sorted) if end is None else bisect_left(self._sorted, end)
        for key in self._sorted[first:last]:
            if self._made[key][-1].exists and not key.startswith("$"):
                yield key

    def _note(self, commit: list[Entry], time: int) -> dict[str, Json]:
        """Take note of what a commit wrote and return it as exported."""
        wrote: dict[str, Json] = {}
        added: dict[str, list[Json]] = {}
        for entry in commit:
            key, value = entry.key, entry.value
            if entry.kind == APPEND:
                added[key] = [*added.get(key, ()), value]
                value = {"append": added[key], "version": entry.version}
            wrote[key] = value
            line = self._made.setdefault(key, [])
            if not line and self._sorted is not None:
                insort(self._sorted, key)
            exists = entry.kind != DELETE
            line.append(_Made(entry.version, time, value, entry.op_id, exists))
        return wrote
