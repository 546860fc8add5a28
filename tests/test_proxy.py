"""The proxy loses what it is told to lose, and nothing else."""

from __future__ import annotations

import threading
import time
from itertools import count

import psycopg
import pytest
import redis

from tests.servers.clients import once, run
from tests.servers.postgres import Postgres
from tests.servers.process import free_port
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis

pytestmark = pytest.mark.slow

_NAMES = count()


@pytest.fixture
def table(postgres_server: Postgres) -> str:
    """A new table with one column."""
    name = f"servers_{next(_NAMES)}"
    run(postgres_server.url(), f"CREATE TABLE {name} (n int)")
    return name


def test_a_request_cut_before_never_arrives(postgres_server: Postgres, table: str) -> None:
    with Proxy(postgres_server.host, postgres_server.port) as proxy:
        url = postgres_server.url(port=proxy.port)
        with psycopg.connect(url, autocommit=True) as connection:
            cut = proxy.cut_before_next(b"INSERT INTO")
            assert connection.execute("SELECT 1").fetchall() == [(1,)]
            assert (cut.happened, proxy.cuts) == (False, 0)
            with pytest.raises(psycopg.OperationalError):
                connection.execute(f"INSERT INTO {table} VALUES (1)")
        cut.wait()
        assert (cut.happened, proxy.cuts) == (True, 1)
        assert run(url, f"SELECT n FROM {table}") == []


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_request_cut_after_is_done_and_its_reply_lost(
    postgres_server: Postgres, table: str, rows: int
) -> None:
    insert = f"INSERT INTO {table} SELECT n FROM generate_series(1, {rows}) AS n RETURNING n"
    with Proxy(postgres_server.host, postgres_server.port) as proxy:
        url = postgres_server.url(port=proxy.port)
        for done in range(1, 11):
            with psycopg.connect(url, autocommit=True) as connection:
                cut = proxy.cut_after_next()
                with pytest.raises(psycopg.OperationalError):
                    connection.execute(insert)
            assert cut.happened
            assert proxy.cuts == done
            assert run(url, f"SELECT count(*) FROM {table}") == [(done * rows,)]


def test_redis_replies_are_lost_too(redis_server: Redis) -> None:
    name = f"servers:{next(_NAMES)}"
    with Proxy(redis_server.host, redis_server.port) as proxy:
        with once(redis_server.url(port=proxy.port)) as client:
            for done in range(1, 51):
                client.ping()
                proxy.cut_after_next(b"INCR")
                with pytest.raises(redis.ConnectionError):
                    client.incr(name)
                assert int(redis_server.ask("GET", name)) == done
                proxy.cut_before_next(b"INCR")
                with pytest.raises(redis.ConnectionError):
                    client.incr(name)
                assert int(redis_server.ask("GET", name)) == done
        assert proxy.cuts == 100


def test_one_of_many_connections_is_cut(redis_server: Redis) -> None:
    name = f"servers:{next(_NAMES)}"
    failed: list[Exception] = []
    with Proxy(redis_server.host, redis_server.port) as proxy:

        def work() -> None:
            with once(redis_server.url(port=proxy.port)) as client:
                client.ping()
                gate.wait()
                for _ in range(20):
                    try:
                        client.incr(name)
                    except redis.ConnectionError as problem:
                        failed.append(problem)

        gate = threading.Barrier(9)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        cut = proxy.cut_before_next(b"INCR")
        gate.wait()
        for thread in threads:
            thread.join()
        assert cut.happened
        with pytest.raises(TimeoutError):
            proxy.cut_before_next().wait(0.01)
        with pytest.raises(RuntimeError, match="ordered already"):
            proxy.cut_after_next()
    assert len(failed) == 1
    assert int(redis_server.ask("GET", name)) == 8 * 20 - 1


def test_a_request_in_two_pieces_is_found(redis_server: Redis) -> None:
    with (
        Proxy(redis_server.host, redis_server.port) as proxy,
        once(redis_server.url(port=proxy.port)) as client,
    ):
        client.ping()
        cut = proxy.cut_before_next(b"x" * 1000 + b"y")
        with pytest.raises(redis.ConnectionError):
            client.set("servers:long", b"x" * 5_000_000 + b"y")
        assert cut.happened
        assert redis_server.ask("EXISTS", "servers:long") == 0


def test_connections_are_cut_refused_and_held_back(redis_server: Redis) -> None:
    with (
        Proxy(redis_server.host, redis_server.port) as proxy,
        once(redis_server.url(port=proxy.port)) as client,
    ):
        client.ping()
        proxy.refuse(True)
        client.ping()  # a connection that is there stays
        proxy.cut_all()
        for _ in range(2):
            with pytest.raises(redis.ConnectionError):
                client.ping()
        proxy.refuse(False)
        client.ping()
        proxy.delay(0.05)
        began = time.monotonic()
        client.ping()
        assert time.monotonic() - began >= 0.05


def test_a_proxy_to_nobody_disconnects() -> None:
    with (
        Proxy("127.0.0.1", free_port()) as proxy,
        once(f"redis://127.0.0.1:{proxy.port}") as client,
        pytest.raises(redis.ConnectionError),
    ):
        client.ping()
