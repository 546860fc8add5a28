"""PostgreSQL dies with what it had not written, or waits for a standby that is away.

A replay of such a commit is as durable as its asker demands, or is not acknowledged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

import interlock
from interlock.core.plan import PUT, Expect, Write
from interlock.core.requests import AckGroup, DropProjection, Enter, ReadGroup, TakeLease, Trim
from interlock.core.writer import Writer
from tests.conftest import present
from tests.facades import Facades
from tests.replays import ASKED, commit
from tests.servers.clients import run
from tests.servers.postgres import Postgres
from tests.servers.process import wait_until

LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s", "autovacuum": "off"}


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server that leaves for long in memory what nobody waits for."""
    with present(), Postgres.start(tmp_path_factory.mktemp("lazy"), LAZY) as server:
        yield server


@pytest.fixture(params=["sync", "async"])
def facades(lazy: Postgres, request: pytest.FixtureRequest) -> Iterator[Facades]:
    run(lazy.url(), "DROP SCHEMA IF EXISTS interlock CASCADE")
    found = Facades(request.param, lazy.url(), "s")
    yield found
    found.close()


def written(server: Postgres) -> tuple[int, int]:
    """Return how far the server's log is made, and how far it is on the disk."""
    question = "SELECT pg_current_wal_insert_lsn() - '0/0', pg_current_wal_flush_lsn() - '0/0'"
    [(made, flushed)] = run(server.url(), question)
    return int(str(made)), int(str(flushed))


def test_a_commit_is_flushed_before_it_is_answered(lazy: Postgres, facades: Facades) -> None:
    """Although the server is set to answer before."""
    normal, full = facades.open("us", durability="normal"), facades.open("us")
    normal.create("a", 1)
    made, flushed = written(lazy)
    assert flushed < made
    full.create("b", 1)
    assert written(lazy)[1] > made


@pytest.mark.parametrize("asked", ASKED)
def test_a_replay_is_flushed_before_it_is_answered(
    lazy: Postgres, facades: Facades, asked: str
) -> None:
    normal, full = facades.open("us", durability="normal"), facades.open("us")
    commit(asked, normal)
    made, flushed = written(lazy)
    assert flushed < made
    ASKED[asked](facades.open("us", durability="normal"))
    assert written(lazy)[1] < made, "whoever asks for less waits for less"
    ASKED[asked](full)
    assert written(lazy)[1] >= made


def test_a_replay_outlives_a_crash(lazy: Postgres, facades: Facades) -> None:
    normal = facades.open("us", durability="normal")
    for key in ("single", "grouped"):
        normal.create(key, 1, op_id=key)
    facades.open("us").create("single", 1, op_id="single")
    normal.create("not asked for", 1)
    lazy.kill()
    lazy.start_again()
    with interlock.open(lazy.url(), "s") as space:
        assert sorted(space.scan()) == ["grouped", "single"]


def test_a_replay_in_a_group_of_refusals_is_flushed(lazy: Postgres, facades: Facades) -> None:
    normal, full = facades.open("us", durability="normal"), facades.open("us")
    record = normal.create("k", 1, op_id="op")
    normal.write(record, 2)
    made, _ = written(lazy)
    backend: Any = full.session.driver.backend
    with pytest.raises(interlock.Conflict):
        full.write(record, 3)
    assert written(lazy)[1] < made, "a refusal claims nothing"
    absent, write = Expect("k", None, None), Write(PUT, "k", "1")
    writer = Writer("", "full", 0)
    plans = [writer.plan(op, expects=(absent,), writes=(write,)) for op in ("another", "op")]
    refused, replayed = backend._apply(plans)
    assert (type(refused).__name__, replayed.replayed) == ("Conflict", True)
    assert written(lazy)[1] >= made


def test_a_server_set_to_wait_for_more_is_left_alone(lazy: Postgres, facades: Facades) -> None:
    """Also where a commit takes the longer way: its key has a queue."""
    record = facades.open("us").create("k", 1)
    plan = f"'op', 'us', 0, 0, false, NULL, 'k', {record.version}, 0, 'put', '2', NULL, 0, ''"
    with psycopg.connect(lazy.url()) as connection:
        for change in ("SELECT 1", "INSERT INTO interlock.leases VALUES (1, 'k', 0, '', '', 0, 0)"):
            connection.execute("SET LOCAL synchronous_commit = remote_apply")
            connection.execute(change)
            [row] = connection.execute(f"SELECT * FROM interlock.commit_single(1, {plan}, true)")
            assert row[0] == "done"
            found = connection.execute("SHOW synchronous_commit").fetchone()
            assert found == ("remote_apply",)
            connection.rollback()


def test_what_is_sent_twice_is_flushed(lazy: Postgres, facades: Facades) -> None:
    """Names of requests that were answered before: leases, incarnations, groups, cuts."""
    full = facades.open("us")
    full.create("findings", 1)
    backend: Any = full.session.driver.backend
    backend.perform(ReadGroup("g", consumer="us", prefix="", limit=10, ttl=30.0, name="first"))
    lease = TakeLease(("k",), name="lease", agent="us", incarnation=0, ttl=30.0)
    for request in (
        lease,
        Enter("planner", True, "enter"),
        AckGroup("g", consumer="us", positions=(1,), deliveries=(1,)),
        DropProjection("p"),
        Trim(1, ()),
    ):
        backend.perform(request)
        with _unflushed(lazy) as made:
            backend.perform(request)
            assert written(lazy)[1] >= made, type(request).__name__


@contextmanager
def _unflushed(server: Postgres) -> Iterator[int]:
    """Commit something that the disk does not have."""
    run(server.url(), "SET synchronous_commit = off; SELECT pg_logical_emit_message(true, '', 'x')")
    made, flushed = written(server)
    assert flushed < made
    yield made


# With a synchronous standby


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Postgres]]:
    """A server and a standby that has every full commit before it is answered."""
    folder = tmp_path_factory.mktemp("pair")
    with present(), Postgres.start(folder / "primary") as primary, primary.standby() as standby:
        run(primary.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'")
        run(primary.url(), "ALTER SYSTEM SET synchronous_commit = remote_apply")
        run(primary.url(), "SELECT pg_reload_conf()")
        state = "SELECT sync_state FROM pg_stat_replication"
        wait_until(lambda: run(primary.url(), state) == [("sync",)], "the standby is waited for")
        yield primary, standby


def waiting(primary: Postgres) -> list[tuple[object, ...]]:
    """Return the numbers of those that wait for the standby."""
    return run(primary.url(), "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")


def disturb(primary: Postgres, how: str) -> None:
    """End or cancel whoever waits for the standby, as soon as somebody does."""
    wait_until(lambda: bool(waiting(primary)), "somebody waits for the standby", 15)
    run(
        primary.url(),
        f"SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    )


@pytest.fixture(params=["sync", "async"])
def away(
    pair: tuple[Postgres, Postgres], request: pytest.FixtureRequest
) -> Iterator[tuple[Postgres, Postgres, Facades]]:
    """The two, and spaces that were opened before the standby stopped to answer."""
    primary, standby = pair
    run(primary.url(), "DROP SCHEMA IF EXISTS interlock CASCADE")
    facades = Facades(request.param, primary.url(), "s")
    facades.open("us")
    standby.pause()
    try:
        yield primary, standby, facades
    finally:
        standby.resume()
        facades.close()


@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_commit_that_was_sent_again_waits_for_the_standby_again(
    away: tuple[Postgres, Postgres, Facades], how: str
) -> None:
    primary, standby, facades = away
    space = facades.open("us")
    done = threading.Thread(target=lambda: space.create("k", 1, op_id="op"), daemon=True)
    done.start()
    disturb(primary, how)
    disturb(primary, how)  # it was sent again, and waits
    wait_until(lambda: bool(waiting(primary)), "it waits again", 15)
    assert done.is_alive()
    standby.resume()
    done.join()
    assert run(standby.url(), "SELECT key FROM interlock.log") == [("k",)]


@pytest.mark.parametrize("asked", ASKED)
def test_what_no_standby_confirmed_is_unknown(
    away: tuple[Postgres, Postgres, Facades], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cancels the waiting; the server says so in a warning, and has committed."""
    for driver in ("drive", "drive_async"):
        monkeypatch.setattr(f"interlock.backends.{driver}.RESUBMIT_FOR", 0)
    primary, _, facades = away
    normal, space = facades.open("us", durability="normal"), facades.open("us")
    commit(asked, normal)
    found: list[BaseException] = []

    def ask() -> None:
        try:
            ASKED[asked](space)
        except interlock.Unknown as unknown:
            found.append(unknown)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    disturb(primary, "pg_cancel_backend")
    asking.join()
    assert [getattr(each, "op_id", None) for each in found] == ["op"]
    assert "standby" in str(found[0])
