"""The queues for keys: joining, renewing, asking for the place, leaving.

Tickets decide who thinks next, never what may be written: that is the version's work.  So their
changes need not reach the disk before they are answered.  A question costs the same however long
the queue is.

Cycles of waits: a ticket waits for whoever is first in its queues, and for the holder of a lease
that it is queued for.  Whoever has a lease or a turn waits where a ticket says that its caller has
it.  In a cycle the last that joined is the one to be refused, so each looks only for cycles in
which it is that.  Of several the shortest is named, and of those the one of the first keys.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from interlock.backends import answers
from interlock.backends.sqlite.commit import Where, alive, drop_ticket, opening
from interlock.backends.sqlite.log import load
from interlock.backends.sqlite.statements import SQL
from interlock.core.records import Waiter
from interlock.core.refusals import QUEUE, Wait
from interlock.core.requests import LOOKED_AT, NEAR, LeaveTurn, ListWaiters, Load, Place, TakeTurn

RENEW_BELOW, _RENEW_ABOVE = 0.7, 1.3  # of the ttl; in between, asking for one's place only reads
_SILENT = 2.0  # of the asker's ttl: longer than this nobody at the head may live unheard of


def waiters(
    connection: sqlite3.Connection, where: Where, request: ListWaiters
) -> tuple[Waiter, ...]:
    """Answer a ListWaiters."""
    values = (where.space, request.key, QUEUE + request.key, where.clock(), request.limit)
    return answers.waiters(connection.execute(SQL["waiters"], values))


def look(connection: sqlite3.Connection, where: Where, request: TakeTurn) -> Place | None:
    """Return the place of a ticket, or None where something must be written to tell it."""
    if not request.ticket:
        return None
    space, now, ttl = where.space, opening(connection, where)[0], request.ttl * 1e6
    row = connection.execute(SQL["ticket"], (space, request.ticket, now)).fetchone()
    if row is None:
        return _nowhere(connection, where)
    _, expires, firm = row
    if not RENEW_BELOW * ttl <= expires - now <= _RENEW_ABOVE * ttl or request.firm > firm:
        return None
    ahead, silent = _ahead(connection, where, request.ticket, now, ttl)
    return None if silent else _place(connection, where, request, request.ticket, now, ahead)


def take(connection: sqlite3.Connection, where: Where, request: TakeTurn) -> Place:
    """Join or renew, inside a write transaction that the caller opened."""
    execute, space = connection.execute, where.space
    now, ttl = opening(connection, where)[0], request.ttl * 1e6
    _drop_dead(connection, where, request, now)
    expires = now + int(ttl)
    ticket = request.ticket
    if ticket:
        if execute(SQL["ticket"], (space, ticket, now)).fetchone() is None:
            return _nowhere(connection, where)
        execute(SQL["renew_ticket"], (now, expires, int(request.firm), ticket))
    else:
        found, lives = execute(SQL["ticket_named"], (space, request.name, now)).fetchone() or (0, 0)
        if found and not lives:
            drop_ticket(connection, where, found)
        ticket = found if lives else _join(connection, where, request, now, expires)
    ahead, silent = _ahead(connection, where, ticket, now, ttl)
    for each in silent:
        execute(SQL["hurry_ticket"], (each, expires))
    return _place(connection, where, request, ticket, now, ahead)


def leave(connection: sqlite3.Connection, where: Where, request: LeaveTurn) -> None:
    """Give up a ticket, inside a write transaction that the caller opened."""
    ticket = request.ticket
    if not ticket:
        now = opening(connection, where)[0]
        row = connection.execute(SQL["ticket_named"], (where.space, request.name, now)).fetchone()
        ticket = row[0] if row else 0
    drop_ticket(connection, where, ticket)


def _join(
    connection: sqlite3.Connection, where: Where, request: TakeTurn, now: int, expires: int
) -> int:
    execute, space = connection.execute, where.space
    values = (space, request.name, request.agent, now, expires, int(request.firm))
    ticket = execute(SQL["add_ticket"], values).lastrowid or 0
    for key in request.keys:
        execute(SQL["add_ticket_key"], (space, key, ticket))
    for name in request.holding:
        execute(SQL["add_ticket_hold"], (space, name, ticket))
    return ticket


def _drop_dead(connection: sqlite3.Connection, where: Where, request: TakeTurn, now: int) -> None:
    """Forget the dead at the heads of these queues, and the oldest of all."""
    for key in request.keys:
        for (ticket,) in connection.execute(
            SQL["dead_tickets"], (where.space, key, now)
        ).fetchall():
            drop_ticket(connection, where, ticket)
    for ticket, space in connection.execute(SQL["old_dead_tickets"], (now,)).fetchall():
        drop_ticket(connection, where._replace(space=space), ticket)


def _ahead(
    connection: sqlite3.Connection, where: Where, ticket: int, now: int, ttl: float
) -> tuple[int, list[int]]:
    """Return how many live tickets are ahead (beyond NEAR about so many), and those at the heads
    of the queues that may be silent for too long."""
    execute, space = connection.execute, where.space
    near: set[int] = set()
    far = 0
    silent = []
    for (key,) in execute(SQL["keys_of_ticket"], (space, ticket)).fetchall():
        rows = execute(SQL["tickets_ahead"], (space, key, ticket, now, NEAR)).fetchall()
        near.update(other for other, _ in rows)
        silent += [other for other, expires in rows[:1] if expires - now > _SILENT * ttl]
        if len(rows) == NEAR:
            far = max(far, *execute(SQL["count_ahead"], (space, key, ticket, LOOKED_AT)).fetchone())
    return max(len(near), far), silent


def _place(
    connection: sqlite3.Connection,
    where: Where,
    request: TakeTurn,
    ticket: int,
    now: int,
    ahead: int,
) -> Place:
    snapshot = load(connection, where, Load(() if ahead else request.keys))
    return Place(ticket, ahead, snapshot, cycle_of(connection, where, ticket, now))


def _nowhere(connection: sqlite3.Connection, where: Where) -> Place:
    return Place(0, 0, load(connection, where, Load(())))


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
    for at, waits in paths:  # which grows: the shortest come first
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
