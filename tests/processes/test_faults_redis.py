"""What can go wrong with a Redis server alone: scripts, memory, clients, a replica, loading."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import interlock
from tests.conftest import present
from tests.facades import Facades
from tests.processes.faults import Work, check, writing
from tests.processes.writers import disagreements
from tests.servers.process import wait_until
from tests.servers.redis import Redis

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """The name of a space of the test's own."""
    return f"redis-{next(_numbers)}"


@pytest.fixture(params=["sync", "async"])
def facade(request: pytest.FixtureRequest) -> str:
    """How the writers write."""
    return str(request.param)


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with present():
        started = Redis.start(tmp_path_factory.mktemp("redis"), {"appendfsync": "always"})
    with started:
        yield started


@pytest.fixture
def server(_server: Redis) -> Iterator[Redis]:
    """A server whose settings a test may change; they are put back."""
    yield _server
    for setting, value in {
        "maxmemory": 0,
        "maxmemory-policy": "noeviction",
        "maxclients": 1000,
    }.items():
        _server.ask("CONFIG", "SET", setting, value)


def test_scripts_are_forgotten_while_agents_write(server: Redis, facade: str, name: str) -> None:
    with writing(facade, server.url(), name, Work(3, turns="auto")) as ledger:
        for _ in range(15):
            ledger.wait_for(4)
            server.ask("SCRIPT", "FLUSH")
    assert not ledger.refused
    assert not ledger.doubtful
    check(server.url(), name, ledger)


def test_scripts_are_forgotten_before_a_group_of_commits(server: Redis, name: str) -> None:
    async def commit() -> None:
        async with interlock.open_async(server.url(), name, "us") as space:
            for n in range(3):
                server.ask("SCRIPT", "FLUSH")
                await asyncio.gather(*(space.create(f"{n}/{k}", k) for k in range(20)))

    asyncio.run(commit())
    with interlock.open(server.url(), name) as space:
        assert disagreements(space) == []
        assert len(space.scan()) == 60


def test_memory_that_runs_out_while_agents_write(server: Redis, facade: str, name: str) -> None:
    work = Work(4, turns="auto")
    with writing(facade, server.url(), name, work) as ledger:
        for _ in range(3):
            ledger.wait_for(10)
            server.ask("CONFIG", "SET", "maxmemory", 1)
            refused = len(ledger.refused)
            wait_until(partial(_more_than, ledger.refused, refused + 5), "writes are refused")
            server.ask("CONFIG", "SET", "maxmemory", 0)
        ledger.wait_for(10)
    assert all("maxmemory" in str(problem) for problem in ledger.refused.values())
    check(server.url(), name, ledger)


def _more_than(items: Sized, number: int) -> bool:
    return len(items) > number


def test_memory_that_runs_out_within_a_group_of_commits(server: Redis, name: str) -> None:
    """A group is applied whole or not at all; each is told what became of it."""

    async def commit() -> list[Any]:
        async with interlock.open_async(server.url(), name, "us") as space:
            used = int(server.ask("INFO", "memory").split("used_memory:")[1].split()[0])
            server.ask("CONFIG", "SET", "maxmemory", used + 5_000_000)
            big = "x" * 200_000
            told: list[Any] = []
            for group in range(4):
                creating = (space.create(f"{group}-{n}", big) for n in range(10))
                told += await asyncio.gather(*creating, return_exceptions=True)
            return told

    told = asyncio.run(commit())
    server.ask("CONFIG", "SET", "maxmemory", 0)
    names = [f"{group}-{n}" for group in range(4) for n in range(10)]
    written = zip(names, told, strict=True)
    kept = {key for key, each in written if isinstance(each, interlock.Record)}
    assert all(isinstance(each, interlock.Record | interlock.Unavailable) for each in told)
    assert 0 < len(kept) < 40
    with interlock.open(server.url(), name) as space:
        assert space.scan().keys() == kept
        assert disagreements(space) == []


def test_leases_and_turns_are_given_up_without_memory(server: Redis, name: str) -> None:
    with interlock.open(server.url(), name, "us") as space:
        lease = space.lease("k").acquire()
        lease.write(1)
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(interlock.Unavailable, match="maxmemory"):
            lease.write(2)
        with pytest.raises(interlock.Unavailable, match="maxmemory"):
            space.lease("other").acquire()
        assert space.read("k").value == 1
        lease.release()
        server.ask("CONFIG", "SET", "maxmemory", 0)
        with space.lease("k", wait=0) as again:
            assert again.epoch == 2
        with space.lease("other", wait=0) as again:
            assert again.epoch == 1


def test_a_server_that_evicts_keys_is_refused(server: Redis, name: str) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")  # the limit may come at any time
    with pytest.raises(interlock.IncompatibleStore, match="allow_eviction=1"):
        interlock.open(server.url(), name)
    interlock.open(server.url() + "?allow_eviction=1", name).close()
    server.ask("CONFIG", "SET", "maxmemory-policy", "volatile-lru")  # ours do not expire
    interlock.open(server.url(), name).close()


def test_too_many_clients(server: Redis, name: str) -> None:
    urls = [f"{server.url()}?wait_timeout={n}" for n in range(1, 12)]  # they share no connections
    spaces = [interlock.open(url, name, f"a{n}") for n, url in enumerate(urls[:10])]
    server.ask("CONFIG", "SET", "maxclients", 16)  # 20 are connected already
    with pytest.raises(interlock.Unavailable, match="clients"):
        interlock.open(urls[10], name)
    for n, space in enumerate(spaces):
        assert space.create(f"{n}", n).version == 1
    for space in spaces[1:]:
        space.close()
    wait_until(lambda: _finds(server, name, 10), "the server has seen that they left")
    spaces[0].close()


def _finds(server: Redis, name: str, records: int) -> bool:
    try:
        with interlock.open(server.url(), name) as another:
            return len(another.scan()) == records
    except interlock.Unavailable:
        return False


def test_a_replica_is_not_a_store(tmp_path: Path, facade: str, name: str) -> None:
    """Neither when it is opened, nor when the primary becomes one."""
    with Redis.start(tmp_path / "primary") as primary, primary.replica() as replica:
        facades = Facades(facade, primary.url(), name)
        space = facades.open(busy_timeout=0.3)
        record = space.create("k", 1)
        primary.ask("WAIT", 1, 5000)
        with pytest.raises(interlock.Unavailable, match="name the primary"):
            interlock.open(replica.url(), name)
        replica.promote()
        primary.ask("REPLICAOF", replica.host, replica.port)
        with pytest.raises(interlock.Unavailable, match=r"t use .* now"):
            space.write(record, 2)
        with pytest.raises(interlock.Unavailable):
            space.lease("k").acquire()
        primary.ask("REPLICAOF", "NO", "ONE")
        assert space.write(record, 3).version == 2
        with space.lease("k", wait=0) as lease:
            assert lease.epoch == 1
        facades.close()


def test_a_server_that_is_loading_is_waited_for(tmp_path: Path, facade: str, name: str) -> None:
    """Its data comes from a file, slowly; it answers now and then, that it is loading."""
    with Redis.start(tmp_path, {"appendonly": "no", "rdbcompression": "no"}) as server:
        facades = Facades(facade, server.url(), name)
        space = facades.open("us")
        record = space.create("k", 1)
        fill = "for i = 1, 100 do redis.call('SET', i, string.rep('x', 100000)) end"
        server.ask("EVAL", fill, 0)
        server.ask("SAVE")
        server.kill()
        server.options["key-load-delay"] = 8000  # microseconds
        starting = threading.Thread(target=server.start_again)
        starting.start()
        wait_until(lambda: _is_loading(server), "it is loading")
        assert space.write(record, 2).version == 2
        assert facades.open("late").read("k").value == 2
        starting.join()
        facades.close()


def _is_loading(server: Redis) -> bool:
    try:
        server.ask("GET", "k")
    except redis.exceptions.BusyLoadingError:
        return True
    except redis.exceptions.ConnectionError:
        return False
    raise AssertionError("it has loaded everything already")
