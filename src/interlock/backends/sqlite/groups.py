"""Consumer groups: dealing the log to consumers, claiming from dead ones, acknowledging.

Each call runs in a transaction of the caller.  What a read deals need not reach the disk before it
is answered: forgotten, it is dealt again.  An acknowledgement must.
"""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from interlock.backends.answers import entries_of
from interlock.backends.sqlite.commit import Where, alive, opening, trimmed
from interlock.backends.sqlite.statements import SQL
from interlock.backends.sqlite.turns import RENEW_BELOW
from interlock.core import refusals
from interlock.core.group import (
    END,
    FORGOTTEN_AFTER,
    LISTED,
    SCANNED,
    Deliveries,
    Delivery,
    GroupConsumer,
    GroupInfo,
    GroupPending,
)
from interlock.core.keys import prefix_end
from interlock.core.refusals import Pruned
from interlock.core.requests import (
    PAGE_BYTES,
    AckGroup,
    DropGroup,
    GroupState,
    ListGroups,
    ReadGroup,
)


class _Group(NamedTuple):
    id: int
    prefix: str
    cursor: int


def look(connection: sqlite3.Connection, where: Where, request: ReadGroup) -> Deliveries | None:
    """Answer a consumer for which there is nothing, or None where something must be written."""
    execute = connection.execute
    now, head, _, _ = opening(connection, where)
    group = _find(connection, where, request.group)
    if group is None or request.resume or not request.limit:
        return None
    if group.prefix != request.prefix:
        return Deliveries((), group.cursor, head, now, group.prefix)
    known = execute(SQL["consumer"], (group.id, request.consumer)).fetchone()
    if known is None or known[0] + known[1] - now < request.ttl * 1e6 * RENEW_BELOW:
        return None
    if (
        execute(SQL["undelivered"], (group.id, request.consumer, 1)).fetchone()
        or execute(SQL["dead_consumers"], (group.id, now)).fetchone()
        or head - group.cursor > SCANNED
        or _window(connection, where, group, head)
        or _delivered(connection, where, group, request)
    ):
        return None
    return Deliveries((), head, head, now, group.prefix)


def read(connection: sqlite3.Connection, where: Where, request: ReadGroup) -> Deliveries | Pruned:
    """Answer a ReadGroup: own entries first, then those of dead consumers, then the log's next."""
    execute, consumer = connection.execute, request.consumer
    now, head, _, _ = opening(connection, where)
    group = _find(connection, where, request.group)
    if group is None and request.limit:
        floor = trimmed(connection, where)
        if 0 < request.start < floor:
            return refusals.pruned(request.start, floor)
        start = head if request.start == END else max(min(request.start, head), floor)
        execute(SQL["add_group"], (where.space, request.group, request.prefix, start))
        group = _find(connection, where, request.group)
    if group is None:
        return Deliveries((), head, head, now, request.prefix)
    known = execute(SQL["consumer"], (group.id, consumer)).fetchone() is not None
    if group.prefix != request.prefix or not (known or request.limit):
        return Deliveries((), group.cursor, head, now, group.prefix)
    execute(SQL["set_consumer"], (group.id, consumer, now, int(request.ttl * 1e6)))
    if not request.limit:
        return Deliveries((), group.cursor, head, now, group.prefix)
    if not known:
        execute(SQL["forget_consumers"], (group.id, now - int(FORGOTTEN_AFTER * 1e6)))
    items = _delivered(connection, where, group, request)
    if not items:
        if request.resume:
            execute(SQL["undeliver"], (group.id, consumer))
        _claim(connection, group, request, now)
        group = _deal(connection, where, group, request, head)
        batch, size = [], 0
        values = (group.id, consumer, request.limit, where.first)
        for position, length in execute(SQL["undelivered_sizes"], values):
            batch.append((request.name, group.id, position))
            size += length or 0
            if size >= PAGE_BYTES:
                break
        connection.executemany(SQL["deliver"], batch)
        items = _delivered(connection, where, group, request)
    return Deliveries(items, group.cursor, head, now, group.prefix)


def acknowledge(connection: sqlite3.Connection, where: Where, request: AckGroup) -> int:
    """Answer an AckGroup.  What this consumer acknowledged last counts again: it is sent twice."""
    group = _find(connection, where, request.group)
    if group is None:
        return 0
    known = connection.execute(SQL["consumer"], (group.id, request.consumer)).fetchone()
    if known is None:
        return 0
    pairs = json.dumps([*zip(request.positions, request.deliveries, strict=True)])
    values = (pairs, group.id, request.consumer)
    done = {position for (position,) in connection.execute(SQL["acknowledge"], values)}
    counted = done | (set(json.loads(known[2])) & set(request.positions))
    now = opening(connection, where)[0]
    acked = json.dumps(sorted(counted)) if done else known[2]
    connection.execute(SQL["consumer_acked"], (now, acked, group.id, request.consumer))
    return len(counted)


def state(connection: sqlite3.Connection, where: Where, request: GroupState) -> GroupInfo | None:
    """Answer a GroupState."""
    now, head, _, _ = opening(connection, where)
    group = _find(connection, where, request.group)
    if group is None:
        return None
    consumers = tuple(
        GroupConsumer(name, pending, seen, alive(seen, seen + ttl, now))
        for name, seen, ttl, pending in connection.execute(SQL["consumers"], (group.id,))
    )
    rows = connection.execute(SQL["pending"], (group.id, LISTED))
    pending = tuple(GroupPending(*row) for row in rows)
    return GroupInfo(request.group, group.prefix, group.cursor, head, consumers, pending)


def names(connection: sqlite3.Connection, where: Where, request: ListGroups) -> tuple[str, ...]:
    """Answer a ListGroups."""
    return tuple(name for (name,) in connection.execute(SQL["group_names"], (where.space,)))


def drop(connection: sqlite3.Connection, where: Where, request: DropGroup) -> None:
    """Answer a DropGroup."""
    group = _find(connection, where, request.group)
    if group is not None:
        for statement in ("drop_pending", "drop_consumers", "drop_group"):
            connection.execute(SQL[statement], (group.id,))


def _find(connection: sqlite3.Connection, where: Where, name: str) -> _Group | None:
    row = connection.execute(SQL["group"], (where.space, name)).fetchone()
    return None if row is None else _Group(*row)


def _claim(connection: sqlite3.Connection, group: _Group, request: ReadGroup, now: int) -> None:
    """Take keys over from dead consumers, each with all its entries, until there is enough."""
    execute = connection.execute
    for (dead,) in execute(SQL["dead_consumers"], (group.id, now)).fetchall():
        room = request.limit - _own(connection, group, request)
        if room <= 0:
            return
        execute(SQL["undeliver"], (group.id, dead))  # its rows now come in the log's order
        rows = execute(SQL["undelivered"], (group.id, dead, room)).fetchall()
        for key in dict.fromkeys(key for _, key in rows):
            execute(SQL["claim_key"], (request.consumer, group.id, key))


def _deal(
    connection: sqlite3.Connection, where: Where, group: _Group, request: ReadGroup, head: int
) -> _Group:
    """Deal the log's next entries until the consumer has enough: a key that has entries pending
    goes to whom they are with, and any other to this consumer."""
    room = request.limit - _own(connection, group, request)
    if room <= 0 or group.cursor >= head:
        return group
    upto = min(head, group.cursor + SCANNED)
    holders: dict[str, str] = {}
    dealt = []
    for position, key in _window(connection, where, group, upto):
        if key not in holders:
            row = connection.execute(SQL["holder"], (group.id, key)).fetchone()
            holders[key] = request.consumer if row is None else row[0]
        dealt.append((group.id, position, key, holders[key]))
        room -= holders[key] == request.consumer
        if not room:
            upto = position
            break
    connection.executemany(SQL["add_pending"], dealt)
    connection.execute(SQL["move_group"], (upto, group.id))
    return group._replace(cursor=upto)


def _own(connection: sqlite3.Connection, group: _Group, request: ReadGroup) -> int:
    """Return how many entries wait to be delivered to the consumer, as far as it asked for."""
    values = (group.id, request.consumer, request.limit)
    return len(connection.execute(SQL["undelivered"], values).fetchall())


def _window(
    connection: sqlite3.Connection, where: Where, group: _Group, upto: int
) -> list[tuple[int, str]]:
    bounds = (where.first + group.cursor, where.first + upto)
    keys = (group.prefix, prefix_end(group.prefix))
    return connection.execute(SQL["group_window"], (*bounds, *keys)).fetchall()


def _delivered(
    connection: sqlite3.Connection, where: Where, group: _Group, request: ReadGroup
) -> tuple[Delivery, ...]:
    """Return what was delivered under the name of the request."""
    values = (where.first, group.id, request.consumer, request.name)
    rows = connection.execute(SQL["delivered"], values).fetchall()
    entries = entries_of([row[1:] for row in rows])
    return tuple(Delivery(entry, row[0]) for entry, row in zip(entries, rows, strict=True))
