"""The stores that the contract suite runs on: five of ours, or the one that `--store` names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import interlock
from interlock.server.http.identity import SERVICE_SPACE, create_token
from tests.conftest import present
from tests.facades import Capabilities, Facades
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres
from tests.servers.redis import RedisCluster
from tests.servers.service import Service

# These ask a store for nothing that the other parts do not ask for; whole spaces are for operators,
# who need no pool.
ASK_NOTHING_NEW = (
    *("runs", "breaker", "types", "schemas", "events", "partial_changes", "cipher"),
    *("coordinator", "curator", "rules", "machines", "rebase", "observed", "bad_input"),
)
STORES = ("sqlite", "postgres", "redis")
STORES_OF_MOST = (*STORES, "pgbouncer", "redis_cluster")
# Two of them run code that runs on another store, too.  What a pool or a cluster could change is in
# these parts, and is done with both APIs; the others with one.
ONE_FACADE = {"pgbouncer": "sync", "redis_cluster": "async", "http": "sync"}
# A service has a store that runs them all, and `tests/backends/http` shows that every request and
# answer travels.  `make contract STORE=http` runs everything over it.
OVER_HTTP = {"reads_and_writes", "transactions", "leases"}
SERVICE_LACKS = {
    "here": "a service is a process of its own",
    "spaces": "whole spaces are made and moved where the store is",
}
BOTH_FACADES = {
    "cancellation",
    "leases",
    "log",
    "reads_and_writes",
    "transactions",
    "updates",
    "waits",
}
# Of each store, `make quick` runs one API of these parts.  It runs nearly all on SQLite.
QUICK = {
    "postgres": ("sync", {"reads_and_writes", "transactions"}),
    "redis": ("async", {"reads_and_writes", "transactions"}),
}
SLOW_ON_SQLITE = {"group_order", "trimming"}
BOTH_FACADES_ON_SQLITE = {"reads_and_writes", "updates"}


def part_of(item: pytest.Function | pytest.Metafunc) -> str:
    """Return the part of the suite that a test is in."""
    return str(item.module.__name__).rpartition(".test_")[2]


@pytest.hookimpl(tryfirst=True)  # so that its name comes first in those of tests
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `store_url`, as it is here, on each store."""
    if "contract_store" in metafunc.fixturenames:
        own = metafunc.config.getoption("store")
        if own:
            stores: tuple[str, ...] = ("http",) if own == "http" else ("own",)
        elif part_of(metafunc) in OVER_HTTP:
            stores = (*STORES_OF_MOST, "http")
        else:
            some = part_of(metafunc).startswith((*ASK_NOTHING_NEW, "whole_spaces"))
            stores = STORES if some else STORES_OF_MOST
            if metafunc.definition.get_closest_marker("any_store"):
                stores = STORES[:1]
        metafunc.parametrize("contract_store", stores, scope="session")


def is_repeated(item: pytest.Item) -> bool:
    """Say whether another store shows the same with a test's API."""
    if not isinstance(item, pytest.Function) or part_of(item) in BOTH_FACADES:
        return False
    only = ONE_FACADE.get(str(item.callspec.params["contract_store"]))
    return only is not None and item.callspec.params.get("facades", only) != only


def is_quick(item: pytest.Function) -> bool:
    """Say whether `make quick` runs a test of the suite."""
    store = str(item.callspec.params["contract_store"])
    facade = item.callspec.params.get("facades")
    part = part_of(item)
    if store == "sqlite":
        either = facade in (None, "sync") or part in BOTH_FACADES_ON_SQLITE
        return either and part not in SLOW_ON_SQLITE
    wanted, parts = QUICK.get(store, ("", set[str]()))
    return facade == wanted and part in parts


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is not wanted
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow what of the suite is not quick, and leave out what only repeats; with `--store`,
    leave out what is not of the suite.
    """
    suite = [item for item in items if "contract_store" in getattr(item, "fixturenames", ())]
    if config.getoption("store"):
        left_out = [item for item in items if item not in {*suite}]
        config.hook.pytest_deselected(items=left_out)
        items[:] = suite
        return
    repeated = {item for item in suite if is_repeated(item)}
    if repeated:
        config.hook.pytest_deselected(items=[*repeated])
    items[:] = [item for item in items if item not in repeated]
    for item in suite:
        if isinstance(item, pytest.Function) and not is_quick(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def store_url(contract_store: str, request: pytest.FixtureRequest) -> str:
    """The store that a test of the suite runs on: each has spaces of its own in it."""
    if contract_store == "own":
        return str(request.config.getoption("store"))
    return str(request.getfixturevalue(f"{contract_store}_url"))


@pytest.fixture(scope="session")
def store_capabilities(request: pytest.FixtureRequest, contract_store: str) -> Capabilities:
    """What the store has: ours have everything, another all but what `--lacks` says."""
    lacks = (each.partition("=") for each in request.config.getoption("lacks"))
    of_http = SERVICE_LACKS if contract_store == "http" else {}
    return Capabilities({**of_http, **{name: reason for name, _, reason in lacks}})


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file for all tests of the suite: making files takes long."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'store.db'}"


@pytest.fixture(scope="session")
def pgbouncer_url(
    postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A pool in front of the server that all tests share.  It gives a connection away after each
    transaction: no prepared statements and no notifications.
    """
    with present():
        pool = PgBouncer.start(tmp_path_factory.mktemp("pgbouncer"), postgres_server)
    with pool:
        yield pool.url()


@pytest.fixture(scope="session")
def redis_cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster, where each space is in one hash slot."""
    with present():
        cluster = RedisCluster.start(tmp_path_factory.mktemp("cluster"))
    with cluster:
        yield cluster.url()


@pytest.fixture(scope="session")
def http_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service, to which every caller is a token that may be any agent: what it judges of a client
    that may be malicious must refuse none that is not."""
    folder = tmp_path_factory.mktemp("service")
    with interlock.open(f"sqlite:///{folder / 'store.db'}", SERVICE_SPACE) as space:
        token, _ = create_token(space, "*", role="admin")
    with Service.start(
        folder, "--tokens", "--rate", "100000", "--max-body", "100000000"
    ) as service:
        yield service.url(token)


@pytest.fixture
def other(facades: Facades) -> Any:
    """Another agent, with the synchronous API, so that it can be called from anywhere."""
    return facades.peer("other")
