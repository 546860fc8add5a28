"""PostgreSQL and Redis: the clock steps back, a commit is lost, a client forks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
import redis

import interlock
from interlock.core.plan import PUT, Expect, Write
from interlock.core.writer import Writer

LATER = 4_000_000_000_000_000  # microseconds since 1970: in a hundred years


class Postgres:
    """A space in PostgreSQL, and its tables."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        where = self._run("SELECT space FROM interlock.spaces WHERE name = %s", name)
        self._space = where[0]

    def _run(self, statement: str, *values: object) -> Any:
        with psycopg.connect(self._url, autocommit=True) as raw:
            cursor = raw.execute(statement, values)
            return cursor.fetchone() if cursor.description else None

    def wrote_later(self) -> None:
        """Make the last commit one of the future."""
        change = "UPDATE interlock.log SET time = %s WHERE space = %s AND op = 'first'"
        self._run(change, LATER, self._space)

    def connections(self) -> int:
        """Return how many there are, with the one that asks."""
        return int(self._run("SELECT count(*) FROM pg_stat_activity WHERE client_port > 0")[0])

    def replace_last(self, op_id: str) -> None:
        """Have another operation at the place of the last one."""
        change = "UPDATE interlock.log SET op = 'another' WHERE space = %s AND op = %s"
        self._run(change, self._space, op_id)


class Redis:
    """A space in Redis, and its hash."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._state = f"interlock:{{{name}}}"

    def wrote_later(self) -> None:
        """Make the last commit one of the future."""
        with closing(redis.Redis.from_url(self._url)) as raw:
            raw.hset(self._state, "t", str(LATER))

    def connections(self) -> int:
        """Return how many there are, with the one that asks."""
        with closing(redis.Redis.from_url(self._url)) as raw:
            found: Any = raw.info("clients")
        return int(found["connected_clients"])

    def replace_last(self, op_id: str) -> None:
        """Have another operation at the place of the last one."""
        with closing(redis.Redis.from_url(self._url)) as raw:
            assert raw.hdel(self._state, f"o:{op_id}") == 1


@pytest.fixture(params=["postgres", "redis"])
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[interlock.Space, Postgres | Redis]]:
    """A space with one commit, `k` by the operation `first`, and what can be done to its store."""
    url, name = request.getfixturevalue(f"{request.param}_url"), f"tampered-{uuid.uuid4().hex[:12]}"
    with interlock.open(url, space=name, agent="a") as space:
        space.create("k", 1, op_id="first")
        yield space, Postgres(url, name) if request.param == "postgres" else Redis(url, name)


def test_times_do_not_fall_though_the_clock_does(
    opened: tuple[interlock.Space, Postgres | Redis],
) -> None:
    space, store = opened
    store.wrote_later()
    space.create("alone", 1)
    with space.transaction() as tx:
        tx.create("a", 1)
        tx.create("b", 1)
    times = [entry.time_us for entry in space.log()]
    assert times[1:] == [LATER] * 3 > times[:1]


def test_refused_plan_of_a_group_uses_up_no_position(
    opened: tuple[interlock.Space, Postgres | Redis],
) -> None:
    space = opened[0]
    backend: Any = space.session.driver.backend
    writer = Writer("", "a", 0)
    stale = writer.plan("stale", expects=(Expect("k", 7, None),), writes=(Write(PUT, "k", "2"),))
    several = writer.plan("several", writes=(Write(PUT, "x", "1"), Write(PUT, "y", "1")))
    assert [type(each).__name__ for each in backend._apply((stale, several))] == [
        "Conflict",
        "Committed",
    ]
    assert [entry.position for entry in space.log()] == [1, 2, 3]


def commit_several(space: interlock.Space) -> None:
    with space.transaction() as tx:
        tx.create("a", 1)
        tx.create("b", 1)


USES: dict[str, Callable[[interlock.Space], object]] = {
    "write": lambda space: space.create("other", 1),
    "transaction": commit_several,
    "read": lambda space: space.read("k"),
    "log": lambda space: list(space.log()),
}


@pytest.mark.parametrize("use", USES)
def test_whoever_committed_what_is_lost_is_told(
    opened: tuple[interlock.Space, Postgres | Redis], use: str
) -> None:
    """The log is as long as it was: another commit has the position."""
    space, store = opened
    store.replace_last("first")
    with pytest.raises(interlock.LostCommits):
        USES[use](space)


def test_a_forked_child_has_connections_of_its_own(
    opened: tuple[interlock.Space, Postgres | Redis],
) -> None:
    """Two processes that read from one connection would get each other's answers."""
    space, store = opened
    before = store.connections()
    told, tell = os.pipe()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writable)
            os.write(tell, str(space.read("k").value).encode())
            os.read(readable, 1)  # until the parent has counted
        finally:
            os._exit(0)
    os.close(tell)
    try:
        assert os.read(told, 10) == b"1"
        assert store.connections() > before
    finally:
        for each in (told, readable, writable):
            os.close(each)
        os.waitpid(pid, 0)
    assert space.read("k").value == 1


def test_a_value_that_does_not_decode_is_corrupt(redis_url: str) -> None:
    """PostgreSQL itself refuses such a value."""
    name = f"tampered-{uuid.uuid4().hex[:12]}"
    with interlock.open(redis_url, space=name, agent="a") as space:
        space.create("k", 1)
        with closing(redis.Redis.from_url(redis_url)) as raw:
            raw.hset(f"interlock:{{{name}}}", "b:k", '{"seat"')
        with pytest.raises(interlock.Corrupt, match="does not decode"):
            space.read("k")
