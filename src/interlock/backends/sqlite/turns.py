"""The queues for keys: joining, renewing, asking for the place, leaving.

Tickets decide who thinks next, never what may be written: that is the version's work.  So their
changes need not reach the disk before they are answered.
"""

from __future__ import annotations

import sqlite3

from interlock.backends.sqlite.commit import Where, drop_ticket, opening
from interlock.backends.sqlite.read import load
from interlock.backends.sqlite.statements import SQL
from interlock.core.requests import LeaveTurn, Load, Place, TakeTurn

_RENEW_BELOW = 0.7  # of the ttl; asking for one's place more often than that only reads


def look(connection: sqlite3.Connection, where: Where, request: TakeTurn) -> Place | None:
    """Return the place of a ticket, or None where something must be written to tell it."""
    if not request.ticket:
        return None
    space, now = where.space, opening(connection, where)[0]
    row = connection.execute(SQL["ticket"], (space, request.ticket, now)).fetchone()
    if row is None:
        return _nowhere(connection, where)
    _, expires, firm = row
    if expires - now < request.ttl * 1e6 * _RENEW_BELOW or request.firm > firm:
        return None
    return _place(connection, where, request, request.ticket, now)


def take(connection: sqlite3.Connection, where: Where, request: TakeTurn) -> Place:
    """Join or renew, inside a write transaction that the caller opened."""
    execute, space = connection.execute, where.space
    now = opening(connection, where)[0]
    execute(SQL["drop_dead_tickets"], (now,))
    execute(SQL["drop_dead_ticket_keys"])
    expires = now + int(request.ttl * 1e6)
    ticket = request.ticket
    if ticket:
        if execute(SQL["ticket"], (space, ticket, now)).fetchone() is None:
            return _nowhere(connection, where)
        execute(SQL["renew_ticket"], (now, expires, int(request.firm), ticket))
        return _place(connection, where, request, ticket, now)
    row = execute(SQL["ticket_named"], (space, request.name, now)).fetchone()
    if row is not None:
        return _place(connection, where, request, row[0], now)
    values = (space, request.name, request.agent, now, expires, int(request.firm))
    ticket = execute(SQL["add_ticket"], values).lastrowid or 0
    for key in request.keys:
        execute(SQL["add_ticket_key"], (space, key, ticket))
    return _place(connection, where, request, ticket, now)


def leave(connection: sqlite3.Connection, where: Where, request: LeaveTurn) -> None:
    """Give up a ticket, inside a write transaction that the caller opened."""
    ticket = request.ticket
    if not ticket:
        now = opening(connection, where)[0]
        row = connection.execute(SQL["ticket_named"], (where.space, request.name, now)).fetchone()
        ticket = row[0] if row else 0
    drop_ticket(connection, where, ticket)


def _place(
    connection: sqlite3.Connection, where: Where, request: TakeTurn, ticket: int, now: int
) -> Place:
    row = connection.execute(SQL["tickets_ahead"], (ticket, where.space, now)).fetchone()
    return Place(ticket, row[0], load(connection, where, Load(() if row[0] else request.keys)))


def _nowhere(connection: sqlite3.Connection, where: Where) -> Place:
    return Place(0, 0, load(connection, where, Load(())))
