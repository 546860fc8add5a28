"""The queues for keys: joining, renewing, asking for the place, leaving.

Tickets decide who thinks next, never what may be written: that is the version's work.  So their
changes need not reach the disk before they are answered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from interlock.backends.sqlite.read import load, one_moment
from interlock.backends.sqlite.statements import SQL
from interlock.core.records import Snapshot
from interlock.core.requests import Load, Place, TakeTurn

_RENEW_BELOW = 0.7  # of the ttl; asking for one's place more often than that only reads


def look(
    connection: sqlite3.Connection, space: int, uid: str, request: TakeTurn, now: int
) -> Place | None:
    """Return the place of a ticket, or None where something must be written to tell it."""
    if not request.ticket:
        return None
    with one_moment(connection):
        row = connection.execute(SQL["ticket"], (space, request.ticket, now)).fetchone()
        if row is None:
            return _nowhere(connection, space, uid, now)
        _, expires, firm = row
        if expires - now < request.ttl * 1e6 * _RENEW_BELOW or request.firm > firm:
            return None
        return _place(connection, space, uid, request, request.ticket, now)


def take(
    connection: sqlite3.Connection, space: int, uid: str, request: TakeTurn, now: int
) -> Place:
    """Join or renew, inside a write transaction that the caller opened."""
    execute = connection.execute
    execute(SQL["drop_dead_tickets"], (now,))
    execute(SQL["drop_dead_ticket_keys"])
    expires = now + int(request.ttl * 1e6)
    ticket = request.ticket
    if ticket:
        if execute(SQL["ticket"], (space, ticket, now)).fetchone() is None:
            return _nowhere(connection, space, uid, now)
        execute(SQL["renew_ticket"], (now, expires, int(request.firm), ticket))
        return _place(connection, space, uid, request, ticket, now)
    row = execute(SQL["ticket_named"], (space, request.name, now)).fetchone()
    if row is not None:
        return _place(connection, space, uid, request, row[0], now)
    values = (space, request.name, request.agent, now, expires, int(request.firm))
    ticket = execute(SQL["add_ticket"], values).lastrowid or 0
    for key in request.keys:
        execute(SQL["add_ticket_key"], (space, key, ticket))
    return _place(connection, space, uid, request, ticket, now)


def leave(connection: sqlite3.Connection, space: int, ticket: int) -> None:
    """Give up a ticket, inside a write transaction that the caller opened."""
    connection.execute(SQL["drop_ticket"], (ticket,))
    connection.execute(SQL["drop_ticket_keys"], (space, ticket))


def _place(
    connection: sqlite3.Connection, space: int, uid: str, request: TakeTurn, ticket: int, now: int
) -> Place:
    execute: Callable[..., Any] = connection.execute
    ahead: int = execute(SQL["tickets_ahead"], (ticket, space, now)).fetchone()[0]
    keys = () if ahead else request.keys
    return Place(ticket, ahead, load(connection, space, uid, Load(keys), now))


def _nowhere(connection: sqlite3.Connection, space: int, uid: str, now: int) -> Place:
    snapshot: Snapshot = load(connection, space, uid, Load(()), now)
    return Place(0, 0, snapshot)
