"""What `interlock guard PLACE init-table` prints binds every program that writes the table."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

import interlock
from interlock import guards
from interlock.cli import main
from tests.guards.tables import Bookings, bookings, sqlite_file

COLUMNS = "id INTEGER PRIMARY KEY, status TEXT, n INTEGER DEFAULT 0"
REFUSED = (sqlite3.IntegrityError, psycopg.errors.CheckViolation)


@pytest.fixture(params=["sqlite", "postgres"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bookings]:
    """A table without a version."""
    where = sqlite_file(tmp_path)
    if request.param == "postgres":
        where = request.getfixturevalue("postgres_url")
    with bookings(request.param, where, COLUMNS) as made:
        yield made


def prepare(table: Bookings, machine: interlock.Machine | None = None) -> None:
    """Run what the command prints."""
    database = "postgresql" if table.kind == "postgres" else "sqlite"
    text = guards.init_table(database, table.table, trigger=True, machine=machine)
    if table.kind == "sqlite":
        table.plain.executescript(text)
    else:
        table.plain.execute(text)


def test_the_trigger_raises_the_version_for_every_writer(table: Bookings) -> None:
    table.add(status="PENDING")
    prepare(table)
    guard = table.guard(compare="version")
    record = guard.read("1")
    assert record.version == 1
    table.run("UPDATE %t SET n = 5")  # blindly
    table.run("UPDATE %t SET n = 6, version = 1")  # and back to what it was
    assert guard.read("1").version == 3
    with pytest.raises(interlock.Conflict, match="outside"):
        guard.write(record, {**record.value, "n": 1})
    written = guard.update("1", lambda row: {**row, "n": row["n"] + 1})
    assert (written.version, written.value["n"]) == (4, 7)
    assert guard.write(written, {**written.value, "n": 8}).version == 5


def test_with_a_machine_the_database_refuses_illegal_states_of_any_program(
    table: Bookings,
) -> None:
    prepare(table, interlock.BOOKING)
    table.add(1, status="PENDING")
    table.add(2, status="PENDING_PAYMENT")
    before = table.run("SELECT * FROM %t ORDER BY id")
    refused = [
        "INSERT INTO %t (id, status) VALUES (3, 'COMPLETED')",
        "INSERT INTO %t (id, status) VALUES (3, NULL)",
        "UPDATE %t SET status = 'REFUNDED' WHERE id = 1",
        "UPDATE %t SET status = 'no state' WHERE id = 1",
        "UPDATE %t SET status = NULL WHERE id = 1",
        "DELETE FROM %t WHERE id = 1",
    ]
    if table.kind == "sqlite":
        refused.append("REPLACE INTO %t (id, status) VALUES (2, 'PENDING')")
    for statement in refused:
        with pytest.raises(REFUSED):
            table.run(statement)
    assert table.run("SELECT * FROM %t ORDER BY id") == before
    table.run("UPDATE %t SET n = 3 WHERE id = 1")
    table.run("UPDATE %t SET status = 'CANCELLED' WHERE id = 1")
    table.run(
        "INSERT INTO %t (id, status) VALUES (2, 'COMPLETED') "
        "ON CONFLICT (id) DO UPDATE SET status = excluded.status"
    )
    table.run("DELETE FROM %t WHERE id = 1")
    with pytest.raises(interlock.Invalid, match="Machine booking"):
        table.guard().update_fields("2", {"status": "PENDING"})
    assert table.run("SELECT status FROM %t") == [("COMPLETED",)]


def test_the_command_prints_the_statements_and_refuses_bad_input(tmp_path: Path) -> None:
    rules = {"booking/*": interlock.guarded(machine=interlock.BOOKING).to_json()}
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rules))
    call = ["guard", "postgresql://db/app", "init-table", "book'ings", "--schema", "app"]
    shown = CliRunner().invoke(main, [*call, "--trigger", "--machine", str(file)])
    assert shown.exit_code == 0, shown.output
    assert shown.output == guards.init_table(
        "postgresql", "book'ings", trigger=True, machine=interlock.BOOKING, in_schema="app"
    )
    as_json = CliRunner().invoke(main, ["guard", "sqlite", "init-table", "t", "--json"])
    assert json.loads(as_json.output) == {"sql": guards.init_table("sqlite", "t")}
    file.write_text("{}")
    for wrong in (["mysql", "t"], ["sqlite", ""], ["sqlite", "t", "--machine", str(file)]):
        assert CliRunner().invoke(
            main, ["guard", wrong[0], "init-table", *wrong[1:]]
        ).exit_code not in (0, 1)
