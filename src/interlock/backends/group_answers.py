"""From the rows that a server answers about a consumer group to what the protocols are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interlock.backends.answers import Row, entries_of
from interlock.core.groups import Deliveries, Delivery, GroupConsumer, GroupInfo, GroupPending


def deliveries(rows: Sequence[Sequence[Any]]) -> Deliveries:
    """Return what a consumer is given; `postgres/groups.sql` says what its first row tells."""
    (upto, prefix, head, _, _, _, _, time_us, *_), *dealt = rows
    items = zip(entries_of(dealt), dealt, strict=True)
    return Deliveries(
        tuple(Delivery(entry, row[10]) for entry, row in items), upto, head, time_us, prefix
    )


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
