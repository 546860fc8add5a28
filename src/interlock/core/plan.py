"""What a commit asks for: everything it was computed from, and what to write.

A plan is data.  Judging it is the atomic step of each backend; what belongs into it is decided
by `core.decide`.
"""

from __future__ import annotations

from typing import NamedTuple

PUT = "put"
DELETE = "delete"
APPEND = "append"


class Expect(NamedTuple):
    """A record that the plan was computed from.

    `version` 0 is a key that was never written; None only demands that the key does not exist
    now, whatever its past (`create`).  `epoch` None is not compared.
    """

    key: str
    version: int | None
    epoch: int | None


class Scanned(NamedTuple):
    """A prefix that the plan was computed from: exactly these keys existed, at these versions."""

    prefix: str
    members: tuple[tuple[str, int, int], ...]


class Write(NamedTuple):
    """One key to write: `kind` is `put` or `append` (with `body`, JSON text), or `delete`."""

    kind: str
    key: str
    body: str | None


class Plan(NamedTuple):
    """One commit: all of it is applied in one atomic step, or nothing is.

    Only `Writer.plan` makes one, so that none lacks a fence.

    `ticket` is the place in the queue that this plan commits under (0: none).  `yields` makes
    the plan give way (`Held`) to an agent whose turn it is, even where every version matches.

    `rules` is the version of the rule set that it was decided under, `incarnation` that of the
    agent's name when it was opened, and `leased` the keys whose lease the writer holds, at the
    epoch that it expects of them.  `transaction`: its entries say what it was computed from even
    where that is nothing, which tells them from those of a single write.
    """

    op_id: str
    agent: str
    expects: tuple[Expect, ...]
    scans: tuple[Scanned, ...]
    writes: tuple[Write, ...]
    ticket: int
    yields: bool
    rules: int
    incarnation: int
    leased: tuple[str, ...]
    transaction: bool
