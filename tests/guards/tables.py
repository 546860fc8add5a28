"""A table of bookings in each database, as programs see it that know of no guard."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg

from interlock import guards

COLUMNS = {
    "sqlite": (
        "id INTEGER PRIMARY KEY, status TEXT, seat TEXT COLLATE NOCASE, price NUMERIC, "
        "info JSON, paid BOOLEAN, at TIMESTAMP, photo BLOB, n INTEGER NOT NULL DEFAULT 0, "
        "twice INTEGER AS (n * 2), version INTEGER NOT NULL DEFAULT 1"
    ),
    "postgres": (
        "id integer PRIMARY KEY, status text, seat text, price numeric(10, 2), info jsonb, "
        "paid boolean, at timestamptz, photo bytea, n integer NOT NULL DEFAULT 0, "
        "twice integer GENERATED ALWAYS AS (n * 2) STORED, version integer NOT NULL DEFAULT 1"
    ),
}


class Bookings(NamedTuple):
    """A table: its name, where it is, and a connection of a program without guards."""

    kind: str
    table: str
    url: str  # as SQLAlchemy has it
    plain: Any
    where: str

    def run(self, text: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement; `%t` is the table, `?` a value."""
        if self.kind == "postgres":
            text = text.replace("?", "%s")
        name = (
            self.quoted if self.kind == "sqlite" or not values else self.quoted.replace("%", "%%")
        )
        found = self.plain.execute(text.replace("%t", name), *([values] if values else []))
        return found.fetchall() if found.description else []

    @property
    def quoted(self) -> str:
        """The table's name in SQL."""
        return '"' + self.table.replace('"', '""') + '"'

    def add(self, key: int = 1, **columns: object) -> None:
        """Add a row."""
        names = ", ".join(["id", *columns])
        marks = ", ".join("?" for _ in range(len(columns) + 1))
        self.run(f"INSERT INTO %t ({names}) VALUES ({marks})", key, *columns.values())

    def connect(self) -> Any:
        """Return another connection, on which each statement is a transaction."""
        if self.kind == "postgres":
            return psycopg.connect(self.where, autocommit=True)
        found = sqlite3.connect(
            self.where, isolation_level=None, timeout=60, check_same_thread=False
        )
        found.execute("PRAGMA synchronous=OFF")
        return found

    def guard(self, given: Any = None, **options: Any) -> Any:
        """Guard it, through the plain connection or what is given."""
        options = {"version": "version", **options}
        return guards.table(self.plain if given is None else given, self.table, **options)


@contextmanager
def bookings(kind: str, where: str, columns: str = "") -> Iterator[Bookings]:
    """Make a table of its own for one test."""
    url = f"sqlite:///{where}" if kind == "sqlite" else where.replace("://", "+psycopg://", 1)
    made = Bookings(kind, f'Book "{uuid.uuid4().hex[:8]}: 50%', url, None, where)
    made = made._replace(plain=made.connect())
    if kind == "sqlite":
        made.run("PRAGMA journal_mode=WAL")
    made.run(f"CREATE TABLE %t ({columns or COLUMNS[kind]})")
    try:
        yield made
    finally:
        if kind == "postgres":
            made.run("DROP TABLE %t")
        made.plain.close()


def sqlite_file(folder: Path) -> str:
    """Return where a test keeps its database."""
    return str(folder / "app.db")
