"""Leases and incarnations: who may write at all.  Each call runs in a transaction of the caller.

Unlike tickets these decide about safety, so their changes reach the disk before they are answered.
"""

from __future__ import annotations

import sqlite3

from interlock.backends.sqlite.commit import Where, alive, drop_ticket, opening, read_record
from interlock.backends.sqlite.statements import SQL
from interlock.core import refusals
from interlock.core.refusals import QUEUE
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
    execute, space = connection.execute, where.space
    now = opening(connection, where)[0]
    current, _ = _incarnation(connection, where, request.agent)
    if request.incarnation != current:
        refusal = refusals.replaced(request.agent, request.incarnation, current)
        return _grant(connection, where, request, False)._replace(refusal=refusal)
    rows = {key: execute(SQL["lease"], (space, key)).fetchone() for key in request.keys}
    until = now + int(request.ttl * 1e6)
    if request.epoch:  # a renewal; an expired lease that nobody took may go on
        (key,) = request.keys
        kept = rows[key] is not None and rows[key][0] == request.epoch
        if kept:
            execute(SQL["renew_lease"], (now, until, space, key, request.epoch))
        return _grant(connection, where, request, kept)
    mine = [key for key, row in rows.items() if row is not None and row[2] == request.name]
    if len(mine) == len(rows):  # sent twice
        return _grant(connection, where, request, not request.reclaim)
    if request.reclaim:
        _reclaim(connection, where, request, now)
        return _grant(connection, where, request, False)
    for key in mine:  # sent twice, and one of the others was lost meanwhile: none of them is held
        execute(SQL["drop_lease_named"], (space, key, request.name))
    for key, row in rows.items():
        if key not in mine and row is not None and alive(row[3], row[4], now):
            refused = _grant(connection, where, request, False)
            return refused._replace(key=key, holder=row[1], seconds=(row[4] - now) / 1e6)
        first = execute(SQL["first_ticket"], (space, QUEUE + key, now)).fetchone()
        if first is not None and first[0] != request.ticket:
            return _grant(connection, where, request, False)._replace(key=key, holder=first[1])
    for key in request.keys:
        execute(SQL["raise_epoch"], (space, key))
        epoch = read_record(connection, where, key).epoch
        values = (space, key, epoch, request.agent, request.name, now, until)
        execute(SQL["set_lease"], values)
    if request.ticket:
        drop_ticket(connection, where, request.ticket)
    return _grant(connection, where, request, True)


def drop_lease(connection: sqlite3.Connection, where: Where, request: DropLease) -> None:
    """Give up a lease."""
    if request.epoch:
        connection.execute(SQL["drop_lease"], (where.space, request.key, request.epoch))
    else:
        connection.execute(SQL["drop_lease_named"], (where.space, request.key, request.name))


def _grant(
    connection: sqlite3.Connection, where: Where, request: TakeLease, granted: bool
) -> Grant:
    records = (read_record(connection, where, key) for key in request.keys)
    return Grant(granted, tuple(records), key=request.keys[0])


def _reclaim(connection: sqlite3.Connection, where: Where, request: TakeLease, now: int) -> None:
    """Raise the epoch.  A lease that has expired already keeps the name of the request, so that
    sending it twice raises once."""
    (key,) = request.keys
    connection.execute(SQL["raise_epoch"], (where.space, key))
    values = (where.space, key, 0, request.agent, request.name, now, now)
    connection.execute(SQL["set_lease"], values)


def _incarnation(connection: sqlite3.Connection, where: Where, agent: str) -> tuple[int, str]:
    """Return the incarnation of an agent's name, and the name of the request that raised it."""
    row = connection.execute(SQL["incarnation"], (where.space, agent)).fetchone()
    return row or (0, "")
