"""A server that crashes, restarts or is cut off while agents write: nothing acknowledged is lost.

The same tests for PostgreSQL and Redis, and for threads and asyncio tasks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.conftest import present
from tests.processes.faults import Work, check, writing
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

_numbers = itertools.count()


@pytest.fixture
def name() -> str:
    """The name of a space of the test's own."""
    return f"faults-{next(_numbers)}"


@pytest.fixture(scope="module", params=["postgres", "redis"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres | Redis]:
    """A server of these tests' own, that is crashed."""
    folder = tmp_path_factory.mktemp(request.param)
    with present():
        started: Postgres | Redis
        if request.param == "postgres":
            started = Postgres.start(folder)
        else:
            started = Redis.start(folder, {"appendfsync": "always"})
    with started:
        yield started


@pytest.fixture(params=["sync", "async"])
def facade(request: pytest.FixtureRequest) -> str:
    """How the writers write."""
    return str(request.param)


@pytest.mark.parametrize("way", ["kill", "stop"])
def test_a_server_that_goes_down_and_comes_back(
    server: Postgres | Redis, facade: str, name: str, way: str
) -> None:
    with writing(facade, server.url(), name, Work(20261121)) as ledger:
        for _ in range(2 if way == "kill" else 1):
            ledger.wait_for(20)
            server.kill() if way == "kill" else server.stop()
            server.start_again()
        ledger.wait_for(20)
    check(server.url(), name, ledger)
