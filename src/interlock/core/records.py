"""What reading returns: records, log entries, and snapshots of one moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def as_datetime(time_us: int) -> datetime:
    """Return a time of the store (microseconds since 1970, UTC) as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=time_us)


class Record(NamedTuple):
    """One key as it was at one moment.

    `version` counts the writes of the key and never restarts; it is 0 for a key that was never
    written.  `epoch` is the key's fencing number.  `value` is None when `exists` is False.
    `position` is the place in the space's log of the entry that made this version.
    """

    key: str
    value: Any
    version: int
    epoch: int
    writer: str | None
    time_us: int
    position: int
    exists: bool
    space: str

    @property
    def at(self) -> datetime | None:
        """When the store wrote this version (store's clock, UTC); None if it was never written."""
        return as_datetime(self.time_us) if self.version else None


class Entry(NamedTuple):
    """One line of a space's log: one write of one commit.

    `kind` is `put` or `delete`.  `op_id` is the operation id that the whole commit shares.
    `reads` names what else the commit was computed from: versions by key, scanned prefixes.
    """

    position: int
    key: str
    version: int
    epoch: int
    kind: str
    value: Any
    agent: str
    time_us: int
    op_id: str
    reads: Mapping[str, Any] | None

    @property
    def at(self) -> datetime:
        """When the store committed it (store's clock, UTC)."""
        return as_datetime(self.time_us)


class Snapshot(NamedTuple):
    """Records of one consistent moment, as a backend answers a Load.

    `position` is the log position of that moment (0: empty log), `time_us` the store's time,
    `queued` how many agents wait or think in the queue of each loaded key that has one.
    `applied` is the commit that the asked operation id already made, if any.
    """

    position: int
    time_us: int
    records: Mapping[str, Record]
    scans: Mapping[str, tuple[Record, ...]]
    queued: Mapping[str, int]
    applied: Any = None


def absent(key: str, space: str) -> Record:
    """Return the record of a key that was never written."""
    return Record(key, None, 0, 0, None, 0, 0, False, space)
