"""A space on its way: its parts out of the tables, and rows and parts into them.

Each call runs in a transaction of the caller.  What is asked and promised: `core/transfer.py`.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from interlock.backends.answers import CONTRIBUTIONS
from interlock.backends.sqlite.commit import Where, opening, trimmed
from interlock.backends.sqlite.spaces import SPACES
from interlock.backends.sqlite.statements import SQL
from interlock.core.plan import APPEND, DELETE, PUT
from interlock.core.transfer import (
    FOLD,
    BasePage,
    Dump,
    Dumped,
    Finish,
    GroupAt,
    Mark,
    Marked,
    Parts,
    Pending,
    ReadBase,
    Restore,
    Row,
)

_LIVE = {PUT: 1, APPEND: CONTRIBUTIONS, FOLD: CONTRIBUTIONS, DELETE: 0}


def dump(connection: sqlite3.Connection, where: Where, request: Dump) -> Dumped:
    """Answer a Dump."""

    def rows(name: str, *more: int) -> list[Any]:
        return connection.execute(SPACES[name], (where.space, *more)).fetchall()

    parts = Parts(
        epochs=tuple(rows("raised_epochs")),
        agents=tuple(rows("all_agents")),
        groups=tuple(map(GroupAt._make, rows("all_groups"))),
        pending=tuple(map(Pending._make, rows("all_pending"))),
        projections=tuple(rows("all_projections", where.first)),
    )
    floor = trimmed(connection, where)
    return Dumped(max(opening(connection, where)[1], floor), floor, parts)


def read_base(connection: sqlite3.Connection, where: Where, request: ReadBase) -> BasePage:
    """Answer a ReadBase."""
    values = (where.space, request.after, request.limit, where.first + request.position)
    rows = connection.execute(SPACES["base_page"], values)
    return BasePage(tuple(Row(*row) for row in rows), trimmed(connection, where))


def mark(connection: sqlite3.Connection, where: Where, request: Mark) -> Marked:
    """Answer a Mark."""
    return Marked(_end(connection, where), trimmed(connection, where))


def restore(connection: sqlite3.Connection, where: Where, request: Restore) -> int:
    """Answer a Restore."""
    end = _end(connection, where)
    if not _is_importing(connection, where) or request.position != end:
        return end
    names = json.dumps([row.key for row in request.rows])
    heads = {
        key: (version, epoch, live)
        for key, version, epoch, live in connection.execute(SQL["heads"], (names, where.space))
    }
    logged: list[tuple[Any, ...]] = []
    folds: list[tuple[Any, ...]] = []
    entries: dict[str, int] = {}
    for row in request.rows:
        version, _, live = heads.get(row.key, (0, 0, 0))
        if row.position != end + len(logged) + 1 or row.version != version + 1:
            return end
        entry = where.first + row.position
        if row.kind == DELETE and live == CONTRIBUTIONS:
            folds.append((where.space, row.key, entry, None))
        logged.append(_logged(where, row))
        heads[row.key], entries[row.key] = (row.version, row.epoch, _live(row)), entry
    kept = [(where.space, key, *heads[key][:2], entries[key], heads[key][2]) for key in entries]
    floor = trimmed(connection, where)
    for row in request.base:
        if end > floor or not 0 < row.position <= floor:
            return end
        entry = where.first + row.position
        logged.append(_logged(where, row))
        kept.append((where.space, row.key, row.version, row.epoch, entry, _live(row)))
        if row.kind == FOLD:
            folds.append((where.space, row.key, entry, row.body))
    connection.executemany(SPACES["replace_log"], logged)
    connection.executemany(SQL["set_head"], kept)
    connection.executemany(SQL["save_fold"], folds)
    return end + len(request.rows)


def finish(connection: sqlite3.Connection, where: Where, request: Finish) -> bool:
    """Answer a Finish."""
    if _end(connection, where) != request.position:
        return False
    if not _is_importing(connection, where):  # finished by another sending
        return True
    space, parts = where.space, request.parts
    many = connection.executemany
    many(SPACES["set_epoch"], [(space, *each) for each in parts.epochs])
    many(SQL["set_incarnation"], [(space, *each, "") for each in parts.agents])
    many(SQL["add_group"], [(space, *each) for each in parts.groups])
    consumers = {(space, each.group, each.consumer) for each in parts.pending}
    many(SPACES["restore_consumer"], sorted(consumers))
    many(SPACES["restore_pending"], [(space, *each) for each in parts.pending])
    kept = [(space, name, where.first + at, body) for name, at, body in parts.projections]
    many(SQL["save_fold"], kept)
    connection.execute(SPACES["finished"], (space,))
    return True


def _end(connection: sqlite3.Connection, where: Where) -> int:
    """Return where the log ends; base rows do not count."""
    return max(opening(connection, where)[1], trimmed(connection, where))


def _is_importing(connection: sqlite3.Connection, where: Where) -> bool:
    (source,) = connection.execute(SPACES["source"], (where.space,)).fetchone()
    return source is not None


def _logged(where: Where, row: Row) -> tuple[Any, ...]:
    return (where.first + row.position, where.space, *row[1:-1], row.expires_us or None)


def _live(row: Row) -> int:
    return row.expires_us if row.kind == PUT and row.expires_us else _LIVE[row.kind]
