"""Leases and incarnations: who may write at all.  Each call runs in a transaction of the caller.

Unlike tickets these decide about safety, so their changes reach the disk before they are answered.
"""

from __future__ import annotations

import sqlite3

from interlock.backends.sqlite.commit import Where, alive, drop_ticket, opening, read_record
from interlock.backends.sqlite.statements import SQL
from interlock.core import decide
from interlock.core.leases import QUEUE
from interlock.core.requests import DropLease, Enter, Entered, Grant, TakeLease
from interlock.core.rules import RULES_KEY


def look(connection: sqlite3.Connection, where: Where, request: Enter) -> Entered:
    """Answer an Enter that raises nothing."""
    incarnation, _ = _incarnation(connection, where, request.agent)
    return Entered(incarnation, read_record(connection, where, RULES_KEY))


def enter(connection: sqlite3.Connection, where: Where, request: Enter) -> Entered:
    """Answer an Enter that raises the incarnation of the agent's name."""
    space, agent = where.space, request.agent
    incarnation, name = _incarnation(connection, where, agent)
    if name != request.name:
        incarnation += 1
        connection.execute(SQL["set_incarnation"], (space, agent, incarnation, request.name))
    return Entered(incarnation, read_record(connection, where, RULES_KEY))


def take_lease(connection: sqlite3.Connection, where: Where, request: TakeLease) -> Grant:
    """Grant, renew or reclaim a lease."""
    execute, space, key = connection.execute, where.space, request.key
    now = opening(connection, where)[0]
    current, _ = _incarnation(connection, where, request.agent)
    if request.incarnation != current:
        refusal = decide.replaced(request.agent, request.incarnation, current)
        return Grant(False, read_record(connection, where, key), refusal=refusal)
    lease = execute(SQL["lease"], (space, key)).fetchone() or (0, "", "", 0, 0)
    epoch, holder, name, renewed, expires = lease
    until = now + int(request.ttl * 1e6)
    if request.epoch:  # a renewal; an expired lease that nobody took may go on
        kept = epoch == request.epoch
        if kept:
            execute(SQL["renew_lease"], (now, until, space, key, epoch))
        return Grant(kept, read_record(connection, where, key))
    if name and name == request.name:  # sent twice
        return Grant(not request.reclaim, read_record(connection, where, key))
    if request.reclaim:
        return _reclaim(connection, where, request, now)
    if alive(renewed, expires, now):
        seconds = (expires - now) / 1e6
        return Grant(False, read_record(connection, where, key), holder, seconds)
    first = execute(SQL["first_ticket"], (space, QUEUE + key, now)).fetchone()
    if first is not None and first[0] != request.ticket:
        return Grant(False, read_record(connection, where, key), first[1])
    execute(SQL["raise_epoch"], (space, key))
    fresh = read_record(connection, where, key)
    values = (space, key, fresh.epoch, request.agent, request.name, now, until)
    execute(SQL["set_lease"], values)
    if request.ticket:
        drop_ticket(connection, where, request.ticket)
    return Grant(True, fresh)


def drop_lease(connection: sqlite3.Connection, where: Where, request: DropLease) -> None:
    """Give up a lease."""
    if request.epoch:
        connection.execute(SQL["drop_lease"], (where.space, request.key, request.epoch))
    else:
        connection.execute(SQL["drop_lease_named"], (where.space, request.key, request.name))


def _reclaim(connection: sqlite3.Connection, where: Where, request: TakeLease, now: int) -> Grant:
    """Raise the epoch.  A lease that has expired already keeps the name of the request, so that
    sending it twice raises once."""
    space, key = where.space, request.key
    connection.execute(SQL["raise_epoch"], (space, key))
    fresh = read_record(connection, where, key)
    values = (space, key, 0, request.agent, request.name, now, now)
    connection.execute(SQL["set_lease"], values)
    return Grant(False, fresh)


def _incarnation(connection: sqlite3.Connection, where: Where, agent: str) -> tuple[int, str]:
    """Return the incarnation of an agent's name, and the name of the request that raised it."""
    row = connection.execute(SQL["incarnation"], (where.space, agent)).fetchone()
    return row or (0, "")
