"""A Redis Cluster: spaces over all of its masters, and slots that move while agents write."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

import interlock
from tests.conftest import present
from tests.facades import Facades
from tests.processes.faults import Work, check, writing
from tests.servers.redis import RedisCluster

_numbers = itertools.count()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three masters of these tests' own."""
    folder = tmp_path_factory.mktemp("cluster")
    with present(), RedisCluster.start(folder, {"appendfsync": "always"}) as started:
        yield started


@pytest.fixture(params=["sync", "async"])
def facade(request: pytest.FixtureRequest) -> str:
    """How the writers write."""
    return str(request.param)


def slot_of(name: str) -> int:
    """Return the slot that a space lives in."""
    return key_slot(name.encode())


def names(count: int) -> list[str]:
    """Return the names of spaces of the test's own."""
    return [f"cluster-{next(_numbers)}" for _ in range(count)]


def test_spaces_are_spread_over_the_masters(cluster: RedisCluster, facade: str) -> None:
    used = set()
    for name in names(12):
        facades = Facades(facade, cluster.url(), name)
        space = facades.open("us", rules={"findings": interlock.merged("append")})
        space.create("a", 1)
        assert space.update("a", lambda n: n + 1).value == 2
        space.append("findings", "x")
        with space.lease("k") as lease:
            lease.write("held")
        assert len(list(space.log())) == 5
        assert space.at(position=2).read("a").value == 1
        owner = cluster.owner(slot_of(name))
        assert f"interlock:{{{name}}}" in owner.ask("KEYS", f"*{name}*")
        used.add(owner.port)
        facades.close()
    assert used == {node.port for node in cluster.nodes}


def test_a_slot_moves_while_agents_write(cluster: RedisCluster, facade: str) -> None:
    """There and back, with new spaces made in it on the way."""
    [name] = names(1)
    with writing(facade, cluster.url(), name, Work(8, turns="auto")) as ledger:
        for _ in range(4):
            ledger.wait_for(10)
            for step in cluster.move_slot(slot_of(name)):
                if step == "owned":
                    ledger.wait_for(5)
        ledger.wait_for(10)
    assert not ledger.refused
    assert not ledger.doubtful
    check(cluster.url(), name, ledger)


def test_a_slot_moves_from_under_a_client_that_was_idle(cluster: RedisCluster, facade: str) -> None:
    """Whatever it asks for first, it is told where to go."""
    for use in range(5):
        [name] = names(1)
        facades = Facades(facade, cluster.url(), name)
        space = facades.open("us", rules={"findings": interlock.merged("append")})
        record = space.create("k", 1)
        assert [*cluster.move_slot(slot_of(name))][-1] == "owned"
        if use == 0:
            assert space.write(record, 2).version == 2
        elif use == 1:
            assert space.read("k") == record
        elif use == 2:
            space.append("findings", 1)
        elif use == 3:
            with space.lease("k") as lease:
                assert lease.epoch == 1
        else:
            assert len(list(space.log())) == 2
        facades.close()


def test_what_a_moving_slot_refuses_is_waited_for(cluster: RedisCluster, facade: str) -> None:
    """Between the first step and the last, a script's keys may be on two masters."""
    [name] = names(1)
    with writing(facade, cluster.url(), name, Work(9, kinds=("create", "append"))) as ledger:
        ledger.wait_for(5)
        moving = cluster.move_slot(slot_of(name))
        assert next(moving) == "opened"
        known = len(ledger.acknowledged)
        assert next(moving) == "moved"
        assert next(moving) == "owned"
        ledger.wait_for(5)
        assert len(ledger.acknowledged) > known
    assert not ledger.refused
    check(cluster.url(), name, ledger)


def test_a_space_is_made_in_a_slot_that_moves(cluster: RedisCluster, facade: str) -> None:
    """What cannot be done yet is Unavailable after the patience given, and done afterwards."""
    [name] = names(1)
    moving = cluster.move_slot(slot_of(name))
    next(moving)
    facades = Facades(facade, cluster.url(), name)
    with pytest.raises(interlock.Unavailable, match="its slot is being moved"):
        facades.open("us", busy_timeout=0.1)
    assert [*moving] == ["moved", "owned"]
    assert facades.open("us").create("k", 1).position == 1
    facades.close()


def test_a_master_that_crashes_and_comes_back(cluster: RedisCluster) -> None:
    here, elsewhere = _on_different_masters(cluster)
    owner = cluster.owner(slot_of(here))
    with (
        writing("sync", cluster.url(), here, Work(10, prefix="sync/")) as one,
        writing("async", cluster.url(), here, Work(10, prefix="async/")) as two,
        interlock.open(cluster.url(), elsewhere) as other,
    ):
        one.wait_for(10)
        two.wait_for(10)
        owner.kill()
        assert other.create("k", 1).version == 1, "the others go on"
        owner.start_again()
        cluster.wait_until_ok()
        one.wait_for(10)
        two.wait_for(10)
    check(cluster.url(), here, one, two)


def _on_different_masters(cluster: RedisCluster) -> tuple[str, str]:
    first = cluster.nodes[0]
    found = {cluster.owner(slot_of(name)) is first: name for name in names(50)}
    return found[False], found[True]


def test_scripts_are_forgotten_on_all_masters(cluster: RedisCluster, facade: str) -> None:
    [name] = names(1)
    with writing(facade, cluster.url(), name, Work(11)) as ledger:
        for _ in range(5):
            ledger.wait_for(4)
            for node in cluster.nodes:
                node.ask("SCRIPT", "FLUSH")
    assert not ledger.refused
    check(cluster.url(), name, ledger)
