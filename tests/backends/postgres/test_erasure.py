"""After an erasure the text is in no dump and, once vacuumed, in no file of the tables."""

from __future__ import annotations

import random
import subprocess

import pytest

import interlock
from tests.servers.clients import run
from tests.servers.postgres import Postgres

SECRET = "alice@example.com"


def bytes_of_tables(server: Postgres, database: str) -> bytes:
    """The files of a database, its catalog with them, as they are on disk."""
    run(server.url(database), "CHECKPOINT")
    ((oid,),) = run(server.url(), f"SELECT oid FROM pg_database WHERE datname = '{database}'")
    return b"".join(file.read_bytes() for file in (server.data / "base" / str(oid)).iterdir())


def test_the_text_is_nowhere_in_dumps_and_tables(postgres_server: Postgres) -> None:
    run(postgres_server.url(), "CREATE DATABASE erased")
    url, drawn = postgres_server.url("erased"), random.Random(7)
    rules = {"found": interlock.merged("append")}
    with interlock.open(url, agent="ann", rules=rules) as space:
        record = space.create("a", SECRET)
        for n in range(3):
            long = drawn.randbytes(20_000).hex()  # kept apart, and not compressed
            record = space.write(record, {"mail": SECRET, "n": n, "long": f"{SECRET} {long}"})
        for n in range(250):
            space.append("found", SECRET if n % 2 else n)
        space.read("found")
        space.projection(
            lambda value, entry: [*value, entry.key], initial=[SECRET], name="p", snapshot_every=1
        ).refresh()
        space.projection(lambda value, entry: value, initial=[], name="p", version=2).refresh()
        run(url, "ANALYZE")
        assert bytes_of_tables(postgres_server, "erased").count(SECRET.encode()) > 100
        done = space.erase(where=lambda entry: SECRET in str(entry.value))
        assert any("VACUUM FULL" in each for each in done.remains)
        space.projection(lambda value, entry: value, initial=[SECRET], name="p").drop()
        dump = subprocess.run(
            [postgres_server.binaries / "pg_dump", url], capture_output=True, check=True
        )
        assert b"found" in dump.stdout
        assert SECRET.encode() not in dump.stdout
        done = space.erase("a", vacuum=True)
        assert done.done == ("the tables were rewritten (VACUUM FULL)",)
        assert bytes_of_tables(postgres_server, "erased").count(SECRET.encode()) == 0
        assert space.read("found").value == [*range(0, 250, 2)]


def test_only_the_owner_vacuums(postgres_server: Postgres) -> None:
    run(postgres_server.url(), "CREATE DATABASE owned_tables")
    url = postgres_server.url("owned_tables")
    with interlock.open(url, agent="ann") as space:
        space.create("a", SECRET)
    run(url, "CREATE ROLE eraser LOGIN")
    run(url, "SELECT interlock.grant_role('eraser', 'operator')")
    theirs = postgres_server.url("owned_tables", user="eraser")
    with interlock.open(theirs, agent="eraser") as space:
        with pytest.raises(interlock.Unavailable, match="owner"):
            space.erase("a", vacuum=True)
        assert not space.read("a").exists
    run(url, "CREATE ROLE scribe LOGIN")
    run(url, "SELECT interlock.grant_role('scribe', 'writer')")
    theirs = postgres_server.url("owned_tables", user="scribe")
    with interlock.open(theirs, agent="scribe") as space, pytest.raises(interlock.Unavailable):
        space.erase(where=lambda entry: True)
