"""What a transaction of SQLite must be to be joined."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import interlock
from tests.backends.applications import Application
from tests.facades import elsewhere


def test_rows_and_texts_of_any_shape(on_sqlite: Application) -> None:
    space, connection = on_sqlite.open(), on_sqlite.connect()

    def row(*_: object) -> dict[str, int]:
        return {"a": 1}

    connection.row_factory, connection.text_factory = row, bytes
    with space.joined(connection) as joined:
        joined.create("key", "value")
        assert joined.read("key").value == "value"
    assert (connection.row_factory, connection.text_factory) == (row, bytes)
    connection.commit()
    assert space.read("key").value == "value"


def test_bad_transactions_of_sqlite(on_sqlite: Application, tmp_path: Path) -> None:
    space, connect = on_sqlite.open(), on_sqlite.connect
    closed = connect()
    closed.close()
    wrong = {
        "no open transaction": connect(isolation_level=None),
        "can't be used here: Cannot operate on a closed": closed,
        "in memory": sqlite3.connect(":memory:"),
        "is .*other.db": sqlite3.connect(tmp_path / "other.db"),
        "created in a thread": elsewhere(sqlite3.connect, on_sqlite.path),
    }
    for why, connection in wrong.items():
        with pytest.raises(interlock.Invalid, match=why):
            space.joined(connection).__enter__()
    with interlock.open("sqlite://") as memory, pytest.raises(interlock.Invalid, match="in-memory"):
        memory.joined(connect()).__enter__()
    manual = connect(isolation_level=None)
    manual.execute("BEGIN")
    with space.joined(manual) as joined:
        joined.append("events", 1)
    manual.execute("COMMIT")
    assert space.read("events").value == [1]


def test_a_transaction_that_reads_an_older_moment_is_refused(on_sqlite: Application) -> None:
    space, connection = on_sqlite.open(), on_sqlite.connect(isolation_level=None)
    connection.execute("BEGIN")
    connection.execute(f"SELECT * FROM {on_sqlite.table}").fetchall()
    space.append("events", 1)
    with pytest.raises(interlock.Unavailable, match="older moment"):
        space.joined(connection).__enter__()


def test_a_lock_that_is_not_free_is_waited_for_as_long_as_asked(on_sqlite: Application) -> None:
    space, connection = on_sqlite.open(busy_timeout=0.05), on_sqlite.connect(timeout=3)
    other = on_sqlite.connect(isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(interlock.Unavailable, match="write lock"):
        space.joined(connection).__enter__()
    assert not connection.in_transaction
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (3000,)
