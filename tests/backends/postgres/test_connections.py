"""PostgreSQL: what one client can do to the others, and how many connections a process takes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

import interlock
from interlock.backends.postgres.connect import prepare
from tests.conftest import present
from tests.facades import Facades
from tests.repository import ROOT
from tests.servers.clients import run
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.process import wait_until

_numbers = itertools.count()
BIG = "x" * 1_000_000


@pytest.fixture
def url(postgres_server: Postgres) -> str:
    """The address of a database of the test's own, new."""
    name = f"connections{next(_numbers)}"
    run(postgres_server.url(), f"CREATE DATABASE {name}")
    return postgres_server.url(name)


@pytest.fixture(params=["sync", "async"])
def facade(request: pytest.FixtureRequest) -> str:
    """How the space is used."""
    return str(request.param)


def sessions(url: str, where: str = "true") -> int:
    """Return how many sessions others have in the database."""
    ours = "datname = current_database() AND pid <> pg_backend_pid()"
    return int(
        str(run(url, f"SELECT count(*) FROM pg_stat_activity WHERE {ours} AND ({where})")[0][0])
    )


# One client and the others


@pytest.mark.parametrize("call", ["refusals", "refusal", "lease", "group"])
def test_stopped_client_holds_up_no_writer(url: str, call: str) -> None:
    """What it is answered would not fit into the socket."""
    with interlock.open(url, "s", busy_timeout=5) as space:
        for n in range(8):
            space.create("big" if not n else f"big{n}", BIG)
        command = [sys.executable, "-m", "tests.processes.frozen_client", url, call]
        frozen = subprocess.Popen(command, cwd=ROOT)
        try:
            assert os.WIFSTOPPED(os.waitpid(frozen.pid, os.WUNTRACED)[1])
            working = "state = 'active' AND wait_event IS DISTINCT FROM 'ClientWrite'"
            wait_until(lambda: not sessions(url, working), "the server has answered")
            with suppress(interlock.Unavailable):  # it waited for the stopped one in vain
                space.create("k", 1)
            assert space.read("k").version == 1
        finally:
            frozen.send_signal(signal.SIGKILL)
            frozen.wait()


def test_transaction_that_holds_a_space_is_waited_for_as_long_as_asked(
    url: str, facade: str
) -> None:
    check_patience(Facades(facade, url, "s"), url)


def test_lock_is_waited_for_as_long_as_asked_through_a_pooler(
    url: str, facade: str, postgres_server: Postgres, tmp_path: Path
) -> None:
    with present(), PgBouncer.start(tmp_path, postgres_server) as pool:
        check_patience(Facades(facade, pool.url(url.rpartition("/")[2]), "s"), url)


def check_patience(facades: Facades, url: str) -> None:
    space = facades.open("us", busy_timeout=0.3)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM interlock.spaces FOR UPDATE")
        with pytest.raises(interlock.Unavailable, match="busy_timeout"):
            space.create("k", 1)
    assert space.create("k", 1).version == 1
    facades.close()


def test_server_ends_what_a_client_leaves_open(url: str) -> None:
    """Its settings are those of busy_timeout, but for what the URL says."""
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "tcp_user_timeout")
    told = f"{url}?options=-c%20idle_in_transaction_session_timeout%3D7s"
    with interlock.open(told, "s", busy_timeout=3) as space:
        store = space.session.driver.backend._store  # type: ignore[attr-defined]  # it is PostgreSQL's
        with closing(store._connection()) as connection:
            found = [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]
            assert found == ["3s", "7s", "3000"]
            store._pool.putconn(connection)


# Connections


def test_spaces_of_a_process_share_connections(
    tmp_path: Path, facade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more spaces than the server has connections, opened by several threads at once."""
    prepared: list[str] = []

    def counted(url: str, *options: Any) -> Any:
        prepared.append(url)
        return prepare(url, *options)

    monkeypatch.setattr("interlock.backends.postgres.backend.prepare", counted)
    few = {"max_connections": 12, "superuser_reserved_connections": 0}
    with present(), Postgres.start(tmp_path, few) as server, ExitStack() as stack:
        if facade == "async":
            all_facades = Facades(facade, server.url(), "s")
            spaces = [all_facades.open(f"a{n}") for n in range(60)]
            stack.callback(all_facades.close)
        else:
            with ThreadPoolExecutor(8) as threads:
                spaces = [*threads.map(lambda n: interlock.open(server.url(), f"s{n}"), range(60))]
            for space in spaces:
                stack.callback(space.close)
        for n, space in enumerate(spaces):
            assert space.create(f"k{n}", 1).version == 1
        assert len(prepared) == 1
        assert 0 < sessions(server.url()) <= 8 + (facade == "async")
        stack.close()
        wait_until(lambda: not sessions(server.url()), "the last space has closed the pool")


def test_watchers_of_many_spaces_share_a_listener(url: str) -> None:
    """And each is told of its own space."""
    with ExitStack() as stack:
        spaces = [stack.enter_context(interlock.open(url, f"s{n}")) for n in range(12)]
        threads = [threading.Thread(target=_watch_one, args=(space,)) for space in spaces]
        for thread in threads:
            thread.start()
        listening = "query LIKE 'LISTEN%' OR query LIKE '%listen_until%'"
        wait_until(lambda: sessions(url, listening) == 1, "somebody listens")
        for n, space in enumerate(spaces):
            space.create(f"k{n}", n)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert sessions(url) <= 9
        assert [each.name for each in threading.enumerate()].count("interlock-listen") == 1


def _watch_one(space: interlock.Space) -> None:
    for _ in space.watch(after=0):
        return


def test_open_waits_for_a_connection(tmp_path: Path) -> None:
    few = {"max_connections": 4, "superuser_reserved_connections": 0}
    with present(), Postgres.start(tmp_path, few) as server, ThreadPoolExecutor(1) as thread:
        taken = [psycopg.connect(server.url(), autocommit=True) for _ in range(4)]
        with pytest.raises(interlock.Unavailable, match=r"no connection left.*busy_timeout"):
            interlock.open(server.url(), "s", busy_timeout=0.2)
        opening = thread.submit(interlock.open, server.url(), "s")
        before = server.log.read_bytes().count(b"too many clients")
        wait_until(
            lambda: server.log.read_bytes().count(b"too many clients") > before, "it was refused"
        )
        for each in taken[:3]:
            each.close()
        with opening.result(30) as space:
            assert space.create("k", 1).version == 1
        taken[3].close()
