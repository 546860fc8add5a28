"""Which files are a store: new ones, older ones, newer ones, foreign ones, damaged ones."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.sqlite import location
from interlock.backends.sqlite.connect import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    SQLiteOptions,
    connect,
    prepare,
)

NEXT = {
    SCHEMA_VERSION: "ALTER TABLE spaces ADD COLUMN colour TEXT;\nUPDATE spaces SET colour = 'red';"
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with 300 keys, closed."""
    path = tmp_path / "store.db"
    with interlock.open(f"sqlite:///{path}") as space, space.transaction() as tx:
        for number in range(300):
            tx.create(f"k/{number:03}", "x" * 200)
    return path


def opened(path: Path) -> interlock.Space:
    return interlock.open(f"sqlite:///{path}")


def pragma(path: Path, *settings: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for setting in settings:
            db.execute(f"PRAGMA {setting}")


def test_a_new_file_is_a_store_in_wal_mode(tmp_path: Path) -> None:
    opened(tmp_path / "new.db").close()
    with closing(sqlite3.connect(tmp_path / "new.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_durable_by_default(store: Path) -> None:
    """2 is FULL: the disk has a commit before it is acknowledged."""
    for durability, level in (("full", 2), ("normal", 1), ("off", 1)):
        with closing(
            connect(location.parse(f"sqlite:///{store}"), SQLiteOptions(durability))
        ) as db:
            assert db.execute("PRAGMA synchronous").fetchone() == (level,)
    assert SQLiteOptions().durability == "full"


def test_the_writer_is_durable_again_after_a_turn_was_taken(store: Path) -> None:
    with opened(store) as space:
        space.update("k/000", lambda value: "y", turns="always")
        driver: Any = space.session.driver
        with driver.backend._pool.writer() as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_store_of_a_newer_interlock_is_refused_and_left_alone(store: Path) -> None:
    pragma(store, f"user_version={SCHEMA_VERSION + 1}")
    before = store.read_bytes()
    with pytest.raises(interlock.IncompatibleStore, match=r"newer Interlock.*upgrade"):
        opened(store)
    assert store.read_bytes() == before


@pytest.mark.parametrize("change", ["CREATE TABLE theirs (x)", "PRAGMA user_version=7"])
def test_a_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, change: str
) -> None:
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(change)
    before = path.read_bytes()
    with pytest.raises(interlock.IncompatibleStore, match="another program"):
        opened(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["theirs.db"]


@pytest.mark.parametrize("content", [b"dear diary, " * 100, os.urandom(8192), b"x"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(interlock.IncompatibleStore, match="not an Interlock store"):
        opened(path)
    assert path.read_bytes() == content


def test_a_damaged_file_is_reported_as_corrupt(store: Path) -> None:
    """Every page but the first two overwritten, as a bad disk might."""
    pages = bytearray(store.read_bytes())
    pages[8192:] = b"\xaa" * (len(pages) - 8192)
    store.write_bytes(pages)
    with pytest.raises(interlock.Corrupt, match="Restore it from a backup"):  # noqa: PT012  # any may meet it
        space = opened(store)
        for entry in space.log():
            assert entry.value == "x" * 200
        space.scan("")
        space.create("new", 1)


def test_a_file_cut_short_is_reported_as_corrupt(store: Path) -> None:
    os.truncate(store, store.stat().st_size // 2)
    with pytest.raises(interlock.Corrupt), opened(store) as space:
        list(space.log())


def test_a_value_that_does_not_decode_is_reported_as_corrupt(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db, db:
        db.execute("UPDATE log SET body = '{' WHERE key = 'k/007'")
    with opened(store) as space:
        reads: list[Callable[[], object]] = [
            lambda: space.read("k/007"),
            lambda: space.scan("k/"),
            lambda: list(space.log()),
        ]
        for read in reads:
            with pytest.raises(interlock.Corrupt, match="does not decode"):
                read()
        assert space.read("k/008").value == "x" * 200


def test_an_older_store_is_migrated_once(store: Path) -> None:
    where = location.parse(f"sqlite:///{store}")
    for _ in range(2):
        with closing(connect(where, SQLiteOptions())) as db:
            prepare(db, where, SQLiteOptions(), NEXT, SCHEMA_VERSION + 1)
            assert db.execute("SELECT colour FROM spaces").fetchall() == [("red",)]
            assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)


def test_a_migration_that_fails_changes_nothing(store: Path) -> None:
    where = location.parse(f"sqlite:///{store}")
    broken = {SCHEMA_VERSION: "ALTER TABLE spaces ADD COLUMN a TEXT;\nSELECT * FROM nowhere;"}
    with closing(connect(where, SQLiteOptions())) as db:
        with pytest.raises(interlock.InterlockError, match="nowhere"):
            prepare(db, where, SQLiteOptions(), broken, SCHEMA_VERSION + 1)
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        names = [row[1] for row in db.execute("PRAGMA table_info(spaces)")]
    assert "a" not in names
    with opened(store) as space:
        assert space.read("k/000").version == 1


def test_an_older_store_is_not_migrated_read_only(store: Path) -> None:
    where = location.parse(f"sqlite:///{store}?mode=ro")
    refused = pytest.raises(interlock.IncompatibleStore, match=r"without \?mode=ro")
    with closing(connect(where, SQLiteOptions())) as db, refused:
        prepare(db, where, SQLiteOptions(), NEXT, SCHEMA_VERSION + 1)


def test_a_store_can_be_read_without_writing(store: Path) -> None:
    with interlock.open(f"sqlite:///{store}?mode=ro") as space:
        assert space.read("k/001").value == "x" * 200
        assert len(list(space.log())) == 300
        with pytest.raises(interlock.Unavailable, match="read-only"):
            space.create("new", 1)
        assert space.position() == 300
    with pytest.raises(interlock.Unavailable, match="no space 'other'"):
        interlock.open(f"sqlite:///{store}?mode=ro", space="other")


def test_places_that_cannot_hold_a_store(tmp_path: Path) -> None:
    with pytest.raises(interlock.Invalid, match="is a folder"):
        opened(tmp_path)
    with pytest.raises(interlock.Invalid, match=r"The folder .* does not exist"):
        opened(tmp_path / "missing" / "team.db")
    with pytest.raises(interlock.Invalid, match="be opened read-only"):
        interlock.open(f"sqlite:///{tmp_path / 'none.db'}?mode=ro")
    with pytest.raises(interlock.Invalid, match="host"):
        interlock.open("sqlite://team.db")
    with pytest.raises(interlock.Invalid, match="option"):
        interlock.open(f"sqlite:///{tmp_path / 'x.db'}?timeout=3")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "fuse.sshfs", "9p"])
def test_network_file_systems_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    folder = tmp_path / "our share"
    folder.mkdir()
    mounts = tmp_path / "mounts"
    point = str(folder).replace(" ", "\\040")
    mounts.write_text(
        f"1 0 254:0 / / rw shared:1 - ext4 /dev/vda rw\n2 1 0:9 / {point} rw - {kind} host:/x rw\n"
    )
    assert location.file_system(folder, str(mounts)) == kind
    assert location.file_system(tmp_path, str(mounts)) == "ext4"
    assert location.file_system(tmp_path, str(tmp_path / "no such file")) is None
    monkeypatch.setattr(location, "file_system", lambda path: kind)
    with pytest.raises(interlock.IncompatibleStore, match=f"network file system .{kind}"):
        opened(folder / "team.db")


AS_NOBODY = """
import logging, os, sys, interlock
interlock.open("sqlite://").close()  # imports what nobody may not be allowed to read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with interlock.open("sqlite:///" + sys.argv[1]) as space:
        print(space.read("k/000").version)
        space.create("new", 1)
except interlock.Unavailable as problem:
    print("Unavailable:", problem)
"""


@pytest.mark.parametrize("read_only", ["file", "folder", "both"])
def test_a_file_that_may_not_be_written_is_unavailable(store: Path, read_only: str) -> None:
    """Root may write everything, so the attempt is made as nobody."""
    folder = Path("/tmp") / f"interlock-{os.getpid()}-{read_only}"
    folder.mkdir()
    try:
        copy = folder / "store.db"
        shutil.copy(store, copy)
        copy.chmod(0o444 if read_only != "folder" else 0o666)
        folder.chmod(0o555 if read_only != "file" else 0o777)
        if os.getuid():
            command = AS_NOBODY.replace("os.setgroups([]); os.setgid(65534); os.setuid(65534)", "")
        else:
            command = AS_NOBODY
        answer = subprocess.run(
            [sys.executable, "-c", command, str(copy)], capture_output=True, text=True, check=True
        )
    finally:
        folder.chmod(0o777)
        shutil.rmtree(folder)
    assert "Unavailable:" in answer.stdout, answer
    assert "read-only" in answer.stdout or "may you use it" in answer.stdout, answer.stdout
