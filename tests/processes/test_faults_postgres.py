"""What can go wrong with PostgreSQL alone: connections, poolers, settings, rights, other stores."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

import interlock
from tests.conftest import present
from tests.facades import Facades
from tests.processes.faults import RULES, Work, check, writing
from tests.processes.writers import disagreements
from tests.repository import ROOT
from tests.servers.clients import run
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.process import wait_until

_numbers = itertools.count()


@pytest.fixture
def database(postgres_server: Postgres) -> str:
    """The name of a database of the test's own, new."""
    name = f"faults{next(_numbers)}"
    run(postgres_server.url(), f"CREATE DATABASE {name}")
    return name


@pytest.fixture(params=["sync", "async"])
def facade(request: pytest.FixtureRequest) -> str:
    """How the writers write."""
    return str(request.param)


# Sessions


def test_sessions_that_are_ended_or_cancelled_while_agents_write(
    postgres_server: Postgres, database: str, facade: str
) -> None:
    url = postgres_server.url(database)
    ours = f"FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    with writing(facade, url, "s", Work(12, turns="auto")) as ledger:
        for n in range(10):
            ledger.wait_for(3)
            how = "pg_cancel_backend" if n % 2 else "pg_terminate_backend"
            run(url, f"SELECT {how}(pid) {ours}")
        ledger.wait_for(5)
    assert not ledger.doubtful
    check(url, "s", ledger)


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
def test_a_stricter_isolation_by_default_is_not_noticed(
    postgres_server: Postgres, database: str, isolation: str
) -> None:
    """By two processes that write at once, one of threads and one of tasks."""
    url = postgres_server.url(database)
    run(url, f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")
    with ExitStack() as stack:
        ledgers = [
            stack.enter_context(writing(facade, url, "s", Work(17, prefix=f"{facade}/")))
            for facade in ("sync", "async")
        ]
        for ledger in ledgers:
            ledger.wait_for(20)
    for ledger in ledgers:
        assert not ledger.refused
        assert not ledger.doubtful
    check(url, "s", *ledgers)


def test_connections_are_used_up(
    tmp_path: Path, facade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has none waits; then it is Unavailable, and it goes on as soon as there are some."""
    for driver in ("drive", "drive_async"):
        monkeypatch.setattr(f"interlock.backends.{driver}.RESUBMIT_FOR", 0.2)
    few = {"max_connections": 8, "superuser_reserved_connections": 0}
    with present(), Postgres.start(tmp_path, few) as server:
        facades = Facades(facade, server.url(), "s")
        space = facades.open("us", busy_timeout=0.3)
        record = space.create("k", 1)
        run(
            server.url(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'interlock'",
        )
        taken = _take_all(server)
        with pytest.raises(interlock.Unavailable):  # finds that its connection is gone
            space.read("k")
        with pytest.raises(interlock.Unavailable, match="busy_timeout"):
            space.write(record, 2)
        with pytest.raises(interlock.Unavailable, match="too many clients"):
            interlock.open(server.url(), "s", busy_timeout=0.4)
        taken.pop().close()
        assert space.write(record, 2).version == 2
        for each in taken:
            each.close()
        facades.close()


def _take_all(server: Postgres) -> list[Any]:
    taken: list[Any] = []

    def is_full() -> bool:
        try:
            taken.append(psycopg.connect(server.url(), autocommit=True))
        except psycopg.OperationalError:
            return len(taken) >= 8
        return False

    wait_until(is_full, "all connections are taken")
    return taken


def test_two_processes_share_few_connections(tmp_path: Path) -> None:
    """Each of them would take more."""
    few = {"max_connections": 11, "superuser_reserved_connections": 0}
    with present(), Postgres.start(tmp_path, few) as server, ExitStack() as stack:
        ledgers = []
        for facade in ("sync", "async"):
            work = Work(14, 12, prefix=f"{facade}/")
            writing_too = writing(facade, server.url(), "s", work, busy_timeout=0.5)
            ledgers.append(stack.enter_context(writing_too))
            ledgers[-1].wait_for(5)
        for ledger in ledgers:
            ledger.wait_for(20)
        for ledger in ledgers:
            ledger.over.set()
        stack.close()
        check(server.url(), "s", *ledgers)


# Disks


@pytest.mark.parametrize("what", ["data", "log"])
def test_a_full_disk(what: str) -> None:
    """That of the tables, and that of the server's own log, which it does not survive."""
    mount = ["unshare", "--mount", "--"]
    if os.geteuid() or subprocess.run([*mount, "true"], check=False).returncode:
        pytest.skip("only root may mount a small disk for the server's user")
    with tempfile.TemporaryDirectory() as folder:  # one that the servers' user may enter
        command = [sys.executable, "-m", "tests.processes.fill_disk", folder, what]
        done = subprocess.run(
            [*mount, *command], cwd=ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]


# PgBouncer


def test_a_pooler_that_shares_sessions_by_transaction(
    postgres_server: Postgres, database: str, facade: str, tmp_path: Path
) -> None:
    with present(), PgBouncer.start(tmp_path, postgres_server, {"default_pool_size": 2}) as pool:
        url = pool.url(database)
        facades = Facades(facade, url, "s")
        space = facades.open("us", rules=RULES)
        assert space.update("k", lambda n: n + 1, default=0, turns="always").value == 1
        with space.lease("report", ttl=0.3) as lease:
            lease.write("draft")
            lease.renew()
        seen: list[Any] = []
        watching = threading.Thread(target=_watch, args=(url, seen))
        watching.start()
        with writing(facade, url, "s", Work(13, turns="auto")) as ledger:
            ledger.wait_for(20)
            pool.kill()
            pool.start_again()
            ledger.wait_for(20)
        space.create("end", 1)
        watching.join()
        facades.close()
        entries = check(url, "s", ledger)
        assert [entry.position for entry in seen] == [entry.position for entry in entries]


def _watch(url: str, seen: list[Any]) -> None:
    with interlock.open(url, "s", "watcher", busy_timeout=20) as space:
        while not seen or seen[-1].key != "end":
            after = seen[-1].position if seen else 0
            try:
                for entry in space.watch(after=after):
                    seen.append(entry)
                    if entry.key == "end":
                        break
            except interlock.Unavailable:
                continue  # the pooler is away: go on from there


# Settings


def test_a_server_that_answers_before_its_disk_does_not_weaken_us(tmp_path: Path) -> None:
    """It crashes with what `synchronous_commit = off` had not written yet."""
    lazy = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
    with present(), Postgres.start(tmp_path, lazy) as server, ExitStack() as stack:
        url = server.url()
        one, two = (stack.enter_context(interlock.open(url, "s", durability="off")) for _ in "12")
        one.create("first", 1)
        full = stack.enter_context(interlock.open(url, "s", "full"))
        full.create("durable", 1)
        one.create("lost", 1)
        two.create("lost, too", 1)
        server.kill()
        server.start_again()
        assert sorted(full.scan()) == ["durable", "first"]
        with pytest.raises(interlock.LostCommits):  # the log is shorter than what it knows
            one.read("first")
        for n in range(5):
            full.create(f"{n}", n)
        with pytest.raises(interlock.LostCommits):  # it is longer, and not the same
            two.create("more", 1)
        with pytest.raises(interlock.LostCommits):
            two.read("first")
        lease = full.lease("k").acquire()
        server.kill()
        server.start_again()
        assert lease.write(1).epoch == 1
        lease.release()
        assert disagreements(full) == []


def test_a_database_that_became_read_only(
    postgres_server: Postgres, database: str, facade: str
) -> None:
    url = postgres_server.url(database)
    interlock.open(url, "s", rules=RULES).close()
    facades = Facades(facade, url, "s")
    run(url, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    space = facades.open("us")
    assert space.read("k").version == 0
    uses: list[Callable[[], Any]] = [
        lambda: space.create("k", 1),
        lambda: space.append("findings", 1),
        lambda: space.lease("k").acquire(),
        lambda: space.update("k", lambda _: 1, turns="always"),
    ]
    for use in uses:
        with pytest.raises(interlock.Unavailable, match="read-only"):
            use()
    facades.close()
    with interlock.open(url, "s") as space:
        assert len(list(space.log())) == 1


def test_a_hot_standby_is_not_a_store(tmp_path: Path) -> None:
    with present(), Postgres.start(tmp_path) as server:
        interlock.open(server.url(), "s").close()
        server.stop()
        (server.data / "standby.signal").touch()
        server.start_again()
        with pytest.raises(interlock.Unavailable, match="name the primary"):
            interlock.open(server.url(), "s")


# Rights


def test_a_role_that_may_only_call_the_functions_can_do_everything(
    postgres_server: Postgres, database: str, facade: str
) -> None:
    role = f"agent_{database}"
    owner = postgres_server.url(database)
    interlock.open(owner, "s").close()
    run(owner, f"CREATE ROLE {role} LOGIN")
    agent = postgres_server.url(database, role)
    with pytest.raises(interlock.Unavailable, match="permission denied"):
        interlock.open(agent, "s")
    run(owner, f"GRANT USAGE ON SCHEMA interlock TO {role}")
    with pytest.raises(interlock.Unavailable, match="permission denied"):
        interlock.open(agent, "s")
    run(owner, f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA interlock TO {role}")
    facades = Facades(facade, agent, "new")
    space = facades.open("us", rules=RULES, exclusive=True)
    assert space.update("k", lambda n: n + 1, default=0, turns="always").value == 1
    space.append("findings", 1)
    with space.lease("k") as lease:
        lease.write(2)
    space.reclaim("k")
    assert space.at(position=2).read("k").value == 1
    assert len(list(space.log())) == 4
    with pytest.raises(interlock.Conflict):
        space.create("k", 1)
    assert space.conflicts().refusals
    facades.close()
    ours = "SET search_path = interlock; "
    for statement in (
        "SELECT * FROM interlock.log",
        "INSERT INTO interlock.leases VALUES (1, 'k', 9, 'me', 'me', 0, 0)",
        "UPDATE interlock.heads SET epoch = 99",
        "DELETE FROM interlock.log",
        "TRUNCATE interlock.agents",
        f"{ours} SELECT apply(2, 9, 0, 'o', 'me', NULL, 'put', 'k', '1', NULL, false)",
        f"{ours} SELECT set_lease(2, 'k', false, 'me', 'me', 0, 0)",
        "CREATE TABLE interlock.mine (n int)",
        "DROP SCHEMA interlock CASCADE",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(agent, statement)


# What is not ours


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_many_open_a_new_database_at_once(
    postgres_server: Postgres, database: str, isolation: str
) -> None:
    run(
        postgres_server.url(),
        f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'",
    )
    url, gate = postgres_server.url(database), threading.Barrier(8)

    def open_it(n: int) -> str:
        gate.wait()
        with interlock.open(url, "s", f"a{n}") as space:
            space.create(f"{n}", n)
            return space.session.driver.backend.uid

    with ThreadPoolExecutor(8) as threads:
        assert len({*threads.map(open_it, range(8))}) == 1
    with interlock.open(url, "s") as space:
        assert len(space.scan()) == 8
        assert disagreements(space) == []


def test_a_newer_store_is_not_opened(postgres_server: Postgres, database: str) -> None:
    url = postgres_server.url(database)
    interlock.open(url).close()
    run(
        url,
        "CREATE OR REPLACE FUNCTION interlock.version() RETURNS integer LANGUAGE sql IMMUTABLE"
        " AS $$ SELECT 99 $$",
    )
    with pytest.raises(interlock.IncompatibleStore, match="99"):
        interlock.open(url)


def test_what_somebody_else_made_is_left_alone(postgres_server: Postgres, database: str) -> None:
    url = postgres_server.url(database)
    run(url, "CREATE SCHEMA interlock")
    run(url, "CREATE TABLE interlock.doors (n int)")
    with pytest.raises(interlock.IncompatibleStore, match="another program"):
        interlock.open(url)
    assert run(url, "SELECT count(*) FROM interlock.doors") == [(0,)]


def test_a_database_in_another_encoding_is_not_a_store(
    postgres_server: Postgres, database: str
) -> None:
    name = f"{database}_latin"
    run(
        postgres_server.url(),
        f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    with pytest.raises(interlock.IncompatibleStore, match="UTF8"):
        interlock.open(postgres_server.url(name))
