"""Several keys in one step: rows of a table, Redis keys."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import psycopg_pool
import pytest
import redis
import redis.asyncio
import sqlalchemy

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.shelf import Shelf
from tests.guards.tables import bookings, sqlite_file
from tests.servers.redis import RedisCluster


class Accounts(NamedTuple):
    """Three accounts: how to guard them, and what is in them."""

    guard: Callable[..., Any]
    keys: tuple[str, str, str]
    balance: Callable[[str], int]
    overwrite: Callable[[str, int], object]
    connection: Any = None

    @property
    def balances(self) -> list[int]:
        """What is in each."""
        return [self.balance(key) for key in self.keys]


@pytest.fixture(params=["sqlite", "postgres", "postgres-pool", "postgres-async", "redis", "hash"])
def accounts(
    request: pytest.FixtureRequest, tmp_path: Path, loop: asyncio.AbstractEventLoop
) -> Iterator[Accounts]:
    """Three accounts with 10 each."""
    kind, _, mode = request.param.partition("-")
    with ExitStack() as stack:
        if kind in ("redis", "hash"):
            yield of_redis(kind, request.getfixturevalue("redis_url"), stack)
            return
        where = sqlite_file(tmp_path)
        where = where if kind == "sqlite" else request.getfixturevalue("postgres_url")
        table = stack.enter_context(bookings(kind, where))
        for key in (1, 2, 3):
            table.add(key, n=10)
        connection: Any = table.plain
        if kind == "sqlite":
            connection = sqlalchemy.create_engine(table.url)
            stack.callback(connection.dispose)
        if mode == "pool":
            connection = stack.enter_context(psycopg_pool.ConnectionPool(where, open=True))
        if mode == "async":
            connection = loop.run_until_complete(
                psycopg.AsyncConnection.connect(where, autocommit=True)
            )
            stack.callback(lambda: loop.run_until_complete(connection.close()))

        def guard(**options: Any) -> Any:
            found = table.guard(connection, columns=["n"], version=None, **options)
            return Bridge(found, loop) if mode == "async" else found

        yield Accounts(
            guard,
            ("1", "2", "3"),
            lambda key: table.run("SELECT n FROM %t WHERE id = ?", int(key))[0][0],
            lambda key, n: table.run("UPDATE %t SET n = ? WHERE id = ?", n, int(key)),
            table.plain,
        )


def of_redis(kind: str, url: str, stack: ExitStack) -> Accounts:
    """Accounts that are strings or hashes."""
    client = stack.enter_context(redis.Redis.from_url(url, decode_responses=True))
    tag = uuid.uuid4().hex
    keys = (f"a:{{{tag}}}", f"b:{{{tag}}}", f"c:{{{tag}}}")
    guard = guards.redis(client, kind="hash" if kind == "hash" else "json")

    def put(key: str, n: int) -> None:
        if kind == "hash":
            client.hset(key, "n", str(n))
        else:
            client.set(key, f'{{"n": {n}}}')

    for key in keys:
        put(key, 10)
    return Accounts(
        lambda **options: guards.redis(
            client, kind="hash" if kind == "hash" else "json", **options
        ),
        keys,
        lambda key: int(guard.read(key).value["n"]),
        put,
    )


def more(record: Any, by: int) -> dict[str, Any]:
    """Return the value of an account with more in it, as its place has numbers."""
    n = record.value["n"]
    return {**record.value, "n": type(n)(int(n) + by)}


def move(tx: Any, one: str, other: str, by: int = 1) -> None:
    """Move money."""
    a, b = tx.read(one), tx.read(other)
    tx.write(a, more(a, -by))
    tx.write(b, more(b, by))


def test_several_keys_are_written_together(accounts: Accounts) -> None:
    guard, (one, two, three) = accounts.guard(), accounts.keys
    with guard.transaction() as tx:
        move(tx, one, two, 4)
        tx.delete(tx.read(three))
    assert [accounts.balance(key) for key in (one, two)] == [6, 14]
    assert not guard.read(three).exists
    record = guard.read(one)
    with guard.transaction() as tx:
        tx.write(record, more(record, 1))
        tx.create(three, {"n": record.value["n"]})
    assert accounts.balances == [7, 14, 6]
    if not isinstance(guard, Bridge):
        guard.transact(lambda tx: move(tx, one, two))
        assert accounts.balances == [6, 15, 6]


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_if_any_of_what_was_read_has_changed_nothing_is_written(
    accounts: Accounts, changed: int
) -> None:
    guard, (one, two, three) = accounts.guard(), accounts.keys

    def decide() -> None:
        with guard.transaction() as tx:
            tx.read(three)  # only read: the decision rests on it all the same
            move(tx, one, two)
            accounts.overwrite(accounts.keys[changed], 50)

    with pytest.raises(interlock.Conflict) as caught:
        decide()
    assert caught.value.key == accounts.keys[changed]
    assert int(caught.value.record.value["n"]) == 50
    assert sorted(accounts.balances) == [10, 10, 50]


def test_a_record_read_before_is_compared_with_what_the_transaction_reads(
    accounts: Accounts,
) -> None:
    guard, (one, *_) = accounts.guard(), accounts.keys
    record = guard.read(one)
    accounts.overwrite(one, 50)

    def decide() -> None:
        with guard.transaction() as tx:
            tx.read(one)
            tx.write(record, more(record, 1))

    with pytest.raises(interlock.Conflict, match="between two readings"):
        decide()
    assert accounts.balance(one) == 50


def test_transfers_at_once_lose_nothing(accounts: Accounts) -> None:
    guard, (one, two, three) = accounts.guard(), accounts.keys
    if isinstance(guard, Bridge):
        return  # the others are what it is made of
    pairs = [(one, two), (two, one), (two, three), (three, one)] * 2
    with ThreadPoolExecutor(3) as threads:
        done = [
            threads.submit(guard.transact, lambda tx, p=pair: move(tx, *p), attempts=200)
            for pair in pairs
        ]
        [each.result() for each in done]
    assert sum(accounts.balances) == 30


def test_the_entries_of_a_transaction_are_one_commit(accounts: Accounts, redis_url: str) -> None:
    one, two, _ = accounts.keys
    if isinstance(accounts.guard(), Bridge):
        return
    with interlock.open("sqlite://" if accounts.connection else redis_url, space=one) as space:
        guard = accounts.guard(log=space, name="accounts")
        with guard.transaction() as tx:
            move(tx, one, two, 4)

        def decide(tx: Any) -> None:
            move(tx, one, two, 4)
            accounts.overwrite(two, 50)

        with pytest.raises(interlock.Contended):
            guard.transact(decide, attempts=1)
        entries = list(space.log())
    events = [(entry.key, entry.value["event"]) for entry in entries]
    last = {entry.key: entry for entry in entries}.values()
    names = [guards.log_key("accounts", key) for key in (one, two)]
    done = [each for each in events if each[1] not in ("in doubt", "not written")]
    assert done[:2] == [(names[0], "written"), (names[1], "written")]
    assert sorted(done[2:]) == [(names[1], "changed outside"), (names[1], "refused")]
    assert not any("in_doubt" in entry.value for entry in last)
    assert accounts.balances == [6, 50, 10]


def test_in_a_callers_transaction_a_refusal_undoes_its_own_writes_only(tmp_path: Path) -> None:
    with bookings("sqlite", sqlite_file(tmp_path)) as table:
        for key in (1, 2):
            table.add(key, n=10)
        guard = table.guard()
        table.run("BEGIN IMMEDIATE")
        guard.patch("1", {"n": 11})

        def decide() -> None:
            with guard.transaction() as tx:
                move(tx, "1", "2")
                table.run("UPDATE %t SET n = 50 WHERE id = 2")

        with pytest.raises(interlock.Conflict):
            decide()
        table.run("COMMIT")
        assert table.run("SELECT n FROM %t ORDER BY id") == [(11,), (50,)]


def test_keys_of_several_slots_of_a_cluster_are_refused(tmp_path: Path) -> None:
    with RedisCluster.start(tmp_path) as cluster:
        node = cluster.nodes[0]
        with redis.RedisCluster(host=node.host, port=node.port) as client:
            guard = guards.redis(client)
            for key in ("a", "b", "{t}a", "{t}b"):
                guard.create(key, {"n": 10})
            with guard.transaction() as tx:
                move(tx, "{t}a", "{t}b")
            assert guard.read("{t}b").value == {"n": 11}
            with pytest.raises(interlock.Invalid, match="different slots"):
                guard.transact(lambda tx: move(tx, "a", "b"))
            assert guard.read("a").value == {"n": 10}


def test_what_a_place_cannot_do_is_refused_before(tmp_path: Path, client: redis.Redis) -> None:
    shelf = Shelf()
    for guard in (guards.custom(shelf.load, shelf.replace), guards.file(tmp_path)):
        with pytest.raises(interlock.Invalid, match="no transactions"):
            guard.transaction()
        with pytest.raises(interlock.Invalid, match="no transactions"):
            guard.transact(lambda tx: None)
    tx = guards.redis(client).transaction()
    with pytest.raises(interlock.Invalid, match="can't be scanned"):
        tx.scan("booking")
    with pytest.raises(interlock.Invalid, match="own"), guards.redis(client).transaction() as tx:
        tx.read("interlock:mine")
    with (
        pytest.raises(interlock.Invalid, match="expires"),
        guards.redis(client).transaction() as tx,
    ):
        tx.create(uuid.uuid4().hex, 1, expires=5)
