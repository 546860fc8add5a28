"""What a commit asks for: everything it was computed from, and what to write.

A plan is data.  Judging it is the atomic step of each backend; what belongs into it is decided
by `core.write`, and `Writer.plan` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from interlock.core.records import Record

PUT = "put"
DELETE = "delete"
APPEND = "append"


class Expect(NamedTuple):
    """A record that the plan was computed from.

    `version` 0 is a key that was never written; None only demands that the key does not exist
    now, whatever its past (`create`).  `epoch` None is not compared.  `expired`: the value of that
    version had expired when it was read, and must be so now; otherwise it must not be.  `tag` is
    that of the record.
    """

    key: str
    version: int | None
    epoch: int | None
    expired: bool = False
    tag: object = None

    @property
    def wanted(self) -> int | None:
        """The version as the servers' steps take it: -(version + 1) where it had expired."""
        return -1 - self.version if self.expired and self.version is not None else self.version


class Scanned(NamedTuple):
    """A prefix that the plan was computed from: exactly these keys existed, at these versions."""

    prefix: str
    members: tuple[tuple[str, int, int], ...]


class Write(NamedTuple):
    """One key to write: `kind` is `put` or `append` (with `body`, JSON text), or `delete`.

    `ttl_us`: microseconds from the commit, by the store's clock, after which the value of a `put`
    has expired (0: it does not; None: as the rule of the key says).
    """

    kind: str
    key: str
    body: str | None
    ttl_us: int | None = None


class Plan(NamedTuple):
    """One commit: all of it is applied in one atomic step, or nothing is.

    Only `Writer.plan` makes one, so that none lacks a fence.

    `ticket` is the place in the queue that this plan commits under (0: none).  `gives_way` makes
    the plan give way (`Held`) to an agent whose turn it is, even if every version matches.

    `rules` is the version of the rule set that it was decided under, `incarnation` that of the
    agent's name when it was opened, and `leased` the keys whose lease the writer holds, at the
    epoch that it expects of them.  `transaction`: its entries say what it was computed from even
    if that is nothing, which tells them from those of a single write.  `trace` is the context that
    it is traced in ("": it is not), which its entries keep.
    """

    op_id: str
    agent: str
    expects: tuple[Expect, ...]
    scans: tuple[Scanned, ...]
    writes: tuple[Write, ...]
    ticket: int
    gives_way: bool
    rules: int
    incarnation: int
    leased: tuple[str, ...]
    transaction: bool
    trace: str = ""


def expect(record: Record) -> Expect:
    """The expectation that `record` has not moved."""
    return Expect(record.key, record.version, record.epoch, record.expired, record.tag)


def scanned(prefix: str, records: tuple[Record, ...]) -> Scanned:
    """The expectation that a scan of `prefix` would return the same again."""
    return Scanned(prefix, tuple((r.key, r.version, r.epoch) for r in records))


def first_difference(
    members: Mapping[str, tuple[int, int]], current: Mapping[str, tuple[int, int]]
) -> str | None:
    """Return the first key that differs between a scan as expected and as it is, or None."""
    for key in sorted(members.keys() | current.keys()):
        if members.get(key) != current.get(key):
            return key
    return None
