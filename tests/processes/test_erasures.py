"""Erasures by processes that are killed -9: a second one finishes, and the text is nowhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import interlock
from interlock.verify import check_store
from tests.backends.postgres.test_erasure import bytes_of_tables
from tests.servers.clients import run
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

SECRET = "alice@example.com"
RULES = {"found/*": interlock.merged("append")}
KEYS, CONTRIBUTIONS = 100, 1000  # every second contribution goes: 600 values, of a step 500
END = KEYS + CONTRIBUTIONS + 1  # of the log; the first entry is the rules
ERASES = f"""
import sys, interlock
after, held = map(int, sys.argv[2:])
with interlock.open(sys.argv[1], agent="ann") as space:
    end = space.position()
    def progress(done, total):
        global after
        print(done - end, total - end, flush=True)
        after -= total > end  # it takes values away
        if held and not after:
            sys.stdin.read()  # until it is killed
    space.erase(where=lambda entry: "{SECRET}" in str(entry.value), progress=progress)
"""


class Place(NamedTuple):
    """A store of the test's own, and what returns the bytes of its files."""

    url: str
    files: Callable[[], bytes]


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield Place(f"sqlite:///{tmp_path / 's.db'}", lambda: bytes_of(tmp_path, "*"))
    elif request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres_server")
        with suppress(Exception):
            run(server.url(), "DROP DATABASE killed WITH (FORCE)")
        run(server.url(), "CREATE DATABASE killed")
        yield Place(server.url("killed"), lambda: bytes_of_tables(server, "killed"))
    else:
        with Redis.start(tmp_path, {"rdbcompression": "no", "save": "3600 1000000"}) as redis:
            yield Place(redis.url(), lambda: bytes_of(tmp_path, "*.aof"))


def bytes_of(folder: Path, pattern: str) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob(pattern) if file.is_file())


def fill(url: str) -> None:
    with interlock.open(url, agent="ann", rules=RULES, durability="off") as space:
        space.create_many({f"c/{n}": f"{n} {SECRET}" for n in range(KEYS)})
        space.append_many("found/x", [SECRET if n % 2 else n for n in range(CONTRIBUTIONS)])
        space.read("found/x")  # which keeps its fold


def killed(url: str, after: int, held: bool) -> tuple[int, int]:
    """Erase in a process that is killed after so many reports that it takes values away, where it
    is held, or goes on; return the last report."""
    command = [sys.executable, "-c", ERASES, url, str(after), str(int(held))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done, total = map(int, line.split())
            after -= total > 0
            if after <= 0:
                break
        process.kill()
    return done, total


def check_readable(url: str) -> set[str]:
    """Everything can be read and agrees, and each value is as it was or gone; return those left."""
    with interlock.open(url, agent="bob") as space:
        assert check_store(space).ok
        records = space.scan("c/")
        assert all(r.value == f"{key[2:]} {SECRET}" for key, r in records.items())
        found = space.read("found/x").value
        assert [n for n in found if n != SECRET] == [*range(0, CONTRIBUTIONS, 2)]
        entries = [*space.log()]
        assert [entry.position for entry in entries] == [*range(1, len(entries) + 1)]
        assert all(e.value is None for e in entries if e.erased)
        space.at(position=END).scan()
        return {*records, *(each for each in found if each == SECRET)}


def check_erased(place: Place) -> None:
    with interlock.open(place.url, agent="bob") as space:
        space.erase(where=lambda entry: SECRET in str(entry.value), vacuum=True)
    assert check_readable(place.url) == set()
    with interlock.Store(place.url) as store:
        assert not any(SECRET in line for line in store.export("default"))
    assert place.files().count(SECRET.encode()) == 0


def test_erasures_that_are_killed_between_their_steps_are_finished_by_another(
    place: Place,
) -> None:
    fill(place.url)
    assert place.files().count(SECRET.encode()) > KEYS
    assert killed(place.url, 1, held=True) == (0, 600)
    assert check_readable(place.url) == {SECRET}, "keys are gone, contributions not yet"
    assert killed(place.url, 2, held=True) == (500, 600)
    check_readable(place.url)
    assert killed(place.url, 2, held=True) == (100, 100), "all but the files is done"
    check_erased(place)


def test_an_erasure_that_is_killed_at_work_is_finished_by_another(place: Place) -> None:
    fill(place.url)
    killed(place.url, 0, held=False)  # while it commits what makes everybody notice
    check_readable(place.url)
    killed(place.url, 1, held=False)
    check_readable(place.url)
    check_erased(place)
