"""From the rows that a server answers about a consumer group to what the protocols are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlock.backends.answers import Row, entries_of
from interlock.core import refusals
from interlock.core.group import Deliveries, Delivery, GroupConsumer, GroupInfo, GroupPending
from interlock.core.refusals import Pruned
from interlock.core.requests import ReadGroup


def deliveries(rows: Sequence[tuple[Any, ...]]) -> Deliveries:
    """Return what a consumer is given; `postgres/groups.sql` says what its first row tells."""
    (upto, prefix, head, _, _, _, _, time_us, *_), *dealt = rows
    items = zip(entries_of([row[:10] for row in dealt]), dealt, strict=True)
    return Deliveries(
        tuple(Delivery(entry, row[10]) for entry, row in items), upto, head, time_us, prefix
    )


def dealt(rows: Sequence[tuple[Any, ...]], request: ReadGroup) -> Deliveries | Pruned:
    """Return what a consumer is given, or that the group would begin before what is kept."""
    floor = rows[0][3]
    return refusals.pruned(request.start, floor) if floor else deliveries(rows)


def info(rows: Sequence[Row], name: str) -> GroupInfo | None:
    """Return a group as it is, None where there is none."""
    if not rows:
        return None
    group, *others = rows
    consumers = tuple(
        GroupConsumer(row.agent, row.extra, row.time, bool(row.live))
        for row in others
        if row.what == "consumer"
    )
    pending = tuple(
        GroupPending(row.position, row.key, row.agent, row.extra)
        for row in others
        if row.what == "pending"
    )
    return GroupInfo(name, group.key, group.position, group.extra, consumers, pending)
