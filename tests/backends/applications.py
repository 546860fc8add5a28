"""An application with a table of its own beside a space, for `joined` and `connection=`."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg

import interlock

PATIENCE = 20.0  # seconds


@dataclass
class Application:
    """A database with a table of orders and the space `s`."""

    url: str
    table: str = field(default_factory=lambda: f"orders_{secrets.token_hex(6)}")
    space: str = field(default_factory=lambda: f"joined-{secrets.token_hex(6)}")
    opened: list[Any] = field(default_factory=list)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.url.startswith("sqlite")

    @property
    def path(self) -> str:
        """The file."""
        return self.url.removeprefix("sqlite:///")

    def open(self, agent: str = "app", **options: Any) -> interlock.Space:
        """Open the space."""
        options.setdefault("rules", {"events": interlock.merged("append")})
        space = interlock.open(self.url, self.space, agent, **options)
        self.opened.append(space)
        return space

    def connect(self, **options: Any) -> Any:
        """Open a connection of the application's."""
        driver: Any = sqlite3 if self.is_sqlite else psycopg
        connection = driver.connect(self.path if self.is_sqlite else self.url, **options)
        self.opened.append(connection)
        return connection

    def prepare(self) -> None:
        """Make the table."""
        connection = self.connect()
        connection.execute(f"CREATE TABLE {self.table} (id text PRIMARY KEY)")
        connection.commit()

    def insert(self, connection: Any, order: str) -> None:
        """Add an order."""
        connection.execute(f"INSERT INTO {self.table} VALUES ('{order}')")

    def orders(self) -> list[str]:
        """Return the orders that were committed."""
        connection = self.connect()
        rows = connection.execute(f"SELECT id FROM {self.table} ORDER BY id").fetchall()
        connection.rollback()
        return [order for (order,) in rows]

    def close(self) -> None:
        """Close what was opened."""
        for each in reversed(self.opened):
            each.close()


def until(happened: Callable[[], object]) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0)


def waits_for_lock(connection: Any) -> bool:
    """Whether somebody waits for what a transaction of PostgreSQL has locked."""
    pid = connection.info.backend_pid
    asked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    with psycopg.connect(connection.info.dsn, autocommit=True) as other:
        return other.execute(asked, (pid,)).fetchone() != (0,)


def engine_url(app: Application, driver: str = "psycopg") -> str:
    """Return the address of the application's database as SQLAlchemy spells it."""
    return app.url.replace("postgresql://", f"postgresql+{driver}://")
