"""A connection that is cut before or after the server has done what was asked: it is done once.

The same tests for PostgreSQL and Redis, and for threads and asyncio tasks.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import interlock
from interlock.backends.redis.calls import SCRIPTS
from interlock.core import read
from tests.facades import Facades
from tests.processes.faults import Work, check, writing
from tests.servers.postgres import Postgres
from tests.servers.process import wait_until
from tests.servers.proxy import Cut, Proxy
from tests.servers.redis import Redis

AWAY = 3.0  # seconds
_numbers = itertools.count()


class Net:
    """A space of the test's own on a server that is reached through a proxy."""

    def __init__(self, kind: str, facade: str, server: Postgres | Redis, proxy: Proxy) -> None:
        self.kind = kind
        self.facade = facade
        self.proxy = proxy
        self.name = f"network-{next(_numbers)}"
        self.direct = server.url()
        self.url = server.url(port=proxy.port)
        self.facades = Facades(facade, self.url, self.name)

    def open(self, agent: str = "us", **options: Any) -> Any:
        """Open the space through the proxy."""
        return self.facades.open(agent, **options)

    def cut(self, way: str, matching: bytes) -> Cut:
        """Order a cut `before` or `after` the server does what was asked."""
        order = self.proxy.cut_before_next if way == "before" else self.proxy.cut_after_next
        return order(matching)


@pytest.fixture(params=["postgres", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of the server."""
    return str(request.param)


@pytest.fixture(params=["sync", "async"])
def net(kind: str, request: pytest.FixtureRequest) -> Iterator[Net]:
    """A proxy before a server, and a space on it."""
    server = request.getfixturevalue(f"{kind}_server")
    with Proxy(server.host, server.port) as proxy:
        found = Net(kind, request.param, server, proxy)
        yield found
        found.facades.close()


both_ways = pytest.mark.parametrize("way", ["before", "after"])


@both_ways
def test_a_commit_is_applied_once(net: Net, way: str) -> None:
    space = net.open()
    first = space.create("k", 1)
    cut = net.cut(way, b"marked")
    second = space.write(first, "marked")
    assert cut.happened
    assert (second.version, second.position) == (2, 2)
    cut = net.cut(way, b"changed")
    assert space.update("k", lambda _: "changed").version == 3
    assert cut.happened
    assert [entry.value for entry in space.log()] == [1, "marked", "changed"]


@both_ways
def test_a_transaction_and_a_contribution_are_applied_once(net: Net, way: str) -> None:
    space = net.open(rules={"findings": interlock.merged("append")})
    cut = net.cut(way, b"marked")

    def both(tx: Any) -> None:
        tx.create("a", "marked")
        tx.create("b", "marked")

    space.transact(both)
    assert cut.happened
    cut = net.cut(way, b"contributed")
    space.append("findings", "contributed")
    assert cut.happened
    entries = [entry for entry in space.log() if not entry.key.startswith("$")]
    assert [entry.key for entry in entries] == ["a", "b", "findings"]
    assert space.read("findings").value == ["contributed"]


@both_ways
def test_each_commit_of_a_group_is_applied_once(
    net: Net, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits of ten writers travel together, and one of them is cut with its group."""
    sizes: list[int] = []
    monkeypatch.setattr("interlock.backends.remote.RemoteBackend._acknowledged", _counting(sizes))
    work = Work(7, 10, ("create", "append"))
    with writing(net.facade, net.url, net.name, work) as ledger:
        for _ in range(3):
            ledger.wait_for(10)
            net.proxy.delay(0.01)  # so that the others gather meanwhile
            net.cut(way, b"own/w3:").wait()
            net.proxy.delay(0)
        ledger.wait_for(20)
    assert not ledger.refused
    assert not ledger.doubtful
    assert max(sizes) > 2
    check(net.direct, net.name, ledger)


def _counting(sizes: list[int]) -> Callable[..., Any]:
    from interlock.backends.remote import RemoteBackend

    real = RemoteBackend._acknowledged

    def acknowledged(self: Any, plans: Any, outcomes: Any) -> Any:
        sizes.append(len(plans))
        return real(self, plans, outcomes)

    return acknowledged


@both_ways
def test_cuts_of_anything_while_agents_write(net: Net, way: str) -> None:
    work = Work(20261121, turns="auto")
    with writing(net.facade, net.url, net.name, work) as ledger:
        for _ in range(6):
            ledger.wait_for(3)
            net.cut(way, b"").wait()
        for _ in range(2):
            ledger.wait_for(3)
            net.proxy.cut_all()
        ledger.wait_for(10)
    assert not ledger.doubtful
    check(net.direct, net.name, ledger)


@both_ways
def test_a_lease_raises_the_epoch_once(net: Net, way: str) -> None:
    space = net.open()
    cut = net.cut(way, b"report.md")
    with space.lease("report.md") as lease:
        assert cut.happened
        assert lease.epoch == 1
        lease.write("draft")
        cut = net.cut(way, b"report.md")
        lease.renew()
        assert cut.happened
        cut = net.cut(way, b"report.md")
    assert cut.happened
    cut = net.cut(way, b"report.md")
    assert space.reclaim("report.md").epoch == 2
    assert cut.happened
    assert space.create("report.md/2", 1).epoch == 0
    with space.lease("report.md", wait=0) as lease:
        assert lease.epoch == 3


@both_ways
def test_a_turn_is_taken_once(net: Net, way: str) -> None:
    space = net.open()
    space.create("k", 0)
    cut = net.cut(way, b"thought/0")  # the name that the turn is taken under
    thoughts = itertools.count(1)
    done = space.update("k", lambda n: n + next(thoughts), turns="always", op_id="thought")
    assert cut.happened
    assert (done.value, done.version) == (1, 2)
    assert _queued(net, "k") == {}, "nobody waits for the turn of a request that was sent twice"


def _queued(net: Net, key: str) -> Any:
    with interlock.open(net.direct, net.name) as looking:
        snapshot: Any = looking.session.driver.run(read.load(looking.session.writer, (key,)))
        return snapshot.queued


@both_ways
def test_a_name_is_taken_over_once(net: Net, way: str) -> None:
    first = net.open("planner", exclusive=True)
    record = first.create("k", 1)
    cut = net.cut(way, b"planner")
    second = net.open("planner", exclusive=True)
    assert cut.happened
    with pytest.raises(interlock.Fenced) as fenced:
        first.write(record, 2)
    assert (fenced.value.held, fenced.value.current) == (1, 2)
    assert second.write(second.read("k"), 3).version == 2


@both_ways
def test_opening_is_cut(net: Net, way: str) -> None:
    net.open().create("k", 1)
    said = {"postgres": b"open_space", "redis": SCRIPTS["open"].sha.encode()}[net.kind]
    cut = net.cut(way, said)
    again = net.open()
    assert cut.happened
    assert again.read("k").value == 1
    net.proxy.refuse(True)
    net.proxy.cut_all()  # spaces of one store share their connections
    with pytest.raises(interlock.Unavailable):
        net.open(busy_timeout=0.2)


@both_ways
def test_a_store_that_stays_away_is_unknown_and_can_be_asked_later(
    net: Net, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for driver in ("drive", "drive_async"):
        monkeypatch.setattr(f"interlock.backends.{driver}.RESUBMIT_FOR", 0.2)
    space = net.open(busy_timeout=0.1)
    record = space.create("k", 1)
    net.proxy.refuse(True)  # the connection that is there stays
    cut = net.cut(way, b"marked")
    with pytest.raises(interlock.Unknown) as unknown:
        space.write(record, "marked")
    assert cut.happened
    net.proxy.refuse(False)
    wait_until(lambda: _reached(space), "the store is back")
    done = space.outcome(unknown.value.op_id)
    assert (done is not None) == (way == "after")
    written = space.write(record, "marked", op_id=unknown.value.op_id)
    assert (written.version, written.position) == (2, 2)
    assert [entry.value for entry in space.log()] == [1, "marked"]


def _reached(space: Any) -> bool:
    """Say whether the store answers: opening a connection may take longer than the patience."""
    try:
        space.read("k")
    except interlock.Unavailable:
        return False
    return True


def test_a_server_that_was_away_for_long_is_used_as_soon_as_it_is_back(net: Net) -> None:
    """Nobody waits as long again as it was away."""
    with writing(
        net.facade, net.url, net.name, Work(1, kinds=("create",)), busy_timeout=0.3
    ) as ledger:
        ledger.wait_for(5)
        net.proxy.refuse(True)
        net.proxy.cut_all()
        since = time.monotonic()
        wait_until(lambda: time.monotonic() > since + AWAY, "the server is away for a while")
        net.proxy.refuse(False)
        back = time.monotonic()
        ledger.wait_for(5)
        took = time.monotonic() - back
    assert took < AWAY
    check(net.direct, net.name, ledger)
