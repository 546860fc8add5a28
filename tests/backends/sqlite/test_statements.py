"""No statement reads a whole table: SQLite's own plans, and a million rows would show it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from interlock.backends.sqlite.spaces import SPACES
from interlock.backends.sqlite.statements import SCHEMA
from interlock.backends.sqlite.statements import SQL as OF_ONE_SPACE

# Statements that read a whole table on purpose, and why that is small.
WHOLE = {
    "spaces": {"spaces"},
    "old_dead_tickets": {"tickets"},  # its first rows
    "first_opening": {"tickets", "leases", "agents"},  # whether there is any: ends at the first row
    "opening": {"tickets", "leases", "agents"},
}

SQL = OF_ONE_SPACE | SPACES
TABLES = re.findall(r"CREATE TABLE (\w+)", SCHEMA)


@pytest.fixture(scope="module")
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        yield connection


@pytest.mark.parametrize("name", sorted(SQL))
def test_no_statement_reads_a_whole_table(db: sqlite3.Connection, name: str) -> None:
    numbers = [int(n) for n in re.findall(r"\?(\d+)", SQL[name])]
    count = max(numbers, default=SQL[name].count("?"))
    rows = db.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", [1] * count).fetchall()
    steps = [row[3] for row in rows]
    read_whole = {step.split()[1] for step in steps if step.startswith("SCAN")}
    aliases = dict(re.findall(r"(?:FROM|JOIN) (\w+) AS (\w+)", SQL[name]))
    tables = {table: {table, alias} for table, alias in aliases.items()}
    for table in TABLES:
        names = tables.get(table, {table})
        allowed = table in WHOLE.get(name, set())
        assert allowed or not names & read_whole, f"{name} reads all of {table}: {steps}"


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("entries_of_op", "log_by_op"),
        ("head_and_op", "log_by_op"),
        ("known_ops", "log_by_op"),
        ("log_page_of_key", "log_by_key (space=? AND key=? AND rowid>? AND rowid<?)"),
        ("values_of_key", "log_by_key (space=? AND key=? AND rowid>? AND rowid<?)"),
        ("records_at", "log_by_key (space=? AND key=? AND rowid<?)"),
        ("opening", "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("log_end", "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        ("log_page", "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        *((name, "(space=? AND key>? AND key<?)") for name in ("scan", "scan_at", "list_keys")),
        ("scan_versions", "(space=? AND key>? AND key<?)"),
    ],
)
def test_the_index_that_a_statement_is_written_for(
    db: sqlite3.Connection, name: str, index: str
) -> None:
    numbers = [int(n) for n in re.findall(r"\?(\d+)", SQL[name])]
    count = max(numbers, default=SQL[name].count("?"))
    rows = db.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", [1] * count).fetchall()
    steps = "; ".join(row[3] for row in rows)
    assert index in steps
    assert "TEMP B-TREE" not in steps or "json_each" in SQL[name], "rows come in order already"
