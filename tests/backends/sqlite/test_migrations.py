"""Stores that older versions made: they open, and become what a new store is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import interlock
from interlock.backends.sqlite.connect import SCHEMA_VERSION

VERSION_1 = Path(__file__).with_name("store_version_1.sql")


def schema_of(path: Path) -> object:
    """Return every table and index with its columns; ALTER TABLE rewrites their texts."""
    with closing(sqlite3.connect(path)) as db:
        question = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
        return [
            (kind, name, table, db.execute(f"PRAGMA {kind}_xinfo({name})").fetchall())
            for kind, name, table in db.execute(question).fetchall()
        ]


def test_a_store_of_version_1_becomes_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with closing(sqlite3.connect(old)) as db:
        db.executescript(VERSION_1.read_text("utf-8"))
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    interlock.open(f"sqlite:///{new}", space="team").close()
    with interlock.open(f"sqlite:///{old}", space="team", agent="reader") as space:
        assert space.read("plan").value == {"step": 2}
        assert space.read("findings").value == ["a", "b"]
        assert not space.read("gone").exists
        assert [entry.position for entry in space.log()] == list(range(1, 8))
        assert len(space.conflicts().refusals) == 1
        assert space.group("readers", consumer="r2").info().name == "readers"
        space.create("written", 1)
    assert schema_of(old) == schema_of(new)
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
