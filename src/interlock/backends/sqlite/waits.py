"""Cycles of waits: whether a ticket waits, through others that joined before it, for itself.

A ticket waits for whoever is first in its queues, and for the holder of a lease that it is queued
for.  Whoever has a lease or a turn waits where a ticket says that its caller has it.  In a cycle
the last that joined is the one to be refused, so each looks only for cycles in which it is that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from interlock.backends.sqlite.commit import Where, alive
from interlock.backends.sqlite.statements import SQL
from interlock.core.refusals import QUEUE, Wait


class _Edge(NamedTuple):
    """To ticket `to`; by `wait`, or (None) because its caller is the one that has the turn."""

    to: int
    wait: Wait | None


def cycle_of(
    connection: sqlite3.Connection, where: Where, ticket: int, now: int
) -> tuple[Wait, ...]:
    """Return a cycle of waits of which `ticket` is the last that joined; () where there is none."""
    keys = connection.execute(SQL["keys_of_ticket"], (where.space, ticket)).fetchall()
    row = connection.execute(SQL["waiting_ticket"], (ticket,)).fetchone()
    if row is None or (len(keys) == 1 and not row[2]):
        return ()  # nobody can wait for it
    seen = {ticket}
    paths: list[tuple[int, tuple[Wait, ...]]] = [(ticket, ())]
    while paths:
        at, waits = paths.pop()
        for to, wait in _edges(connection, where, at, now):
            then = waits if wait is None else (*waits, wait)
            if to == ticket:
                return then
            if to < ticket and to not in seen:
                seen.add(to)
                paths.append((to, then))
    return ()


def _edges(connection: sqlite3.Connection, where: Where, ticket: int, now: int) -> Iterator[_Edge]:
    execute, space = connection.execute, where.space
    agent, name, _ = execute(SQL["waiting_ticket"], (ticket,)).fetchone()
    for (queue,) in execute(SQL["keys_of_ticket"], (space, ticket)).fetchall():
        first = execute(SQL["first_ticket"], (space, queue, now)).fetchone()
        if first is not None and first[0] != ticket:
            yield _Edge(first[0], Wait(agent, queue, first[1]))
        if queue.startswith(QUEUE):
            lease = execute(SQL["lease"], (space, queue.removeprefix(QUEUE))).fetchone()
            if lease is not None and alive(lease[3], lease[4], now):
                for to, _ in execute(SQL["holders_of"], (space, lease[2], now)).fetchall():
                    yield _Edge(to, Wait(agent, queue, lease[1]))
    for to, _ in execute(SQL["holders_of"], (space, name, now)).fetchall():
        yield _Edge(to, None)
