"""Redis keys that other programs use: what is compared, what stays, what a lost answer means."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from typing import Any

import pytest
import redis

import interlock
from interlock import guards
from interlock.core.requests import Load
from interlock.errors import AnswerLost
from interlock.guards.places.redis import receipts_of
from interlock.verify.torture.proxy import proxied as lead_through
from tests.servers.clients import once
from tests.servers.proxy import Proxy
from tests.servers.redis import Redis, RedisCluster
from tests.servers.redis import valkey as binary_of_valkey


@pytest.fixture
def key() -> str:
    """A key of the test's own."""
    return f"test:{uuid.uuid4().hex}"


@pytest.fixture
def proxied(redis_url: str) -> Iterator[tuple[Any, redis.Redis]]:
    """A client behind a proxy, which sends each request once."""
    with lead_through(redis_url) as (url, proxy), once(url) as through:
        assert proxy is not None
        yield proxy, through


def monitored(client: Any) -> Any:
    """Return what shows every command that the server gets."""
    return client.monitor()


def test_a_key_keeps_its_time_to_live(client: redis.Redis, key: str) -> None:
    guard = guards.redis(client)
    client.set(key, '{"n": 1}', px=100_000)
    guard.patch(key, {"n": 2})
    assert 0 < client.pttl(key) <= 100_000
    client.persist(key)
    guard.patch(key, {"n": 3})
    assert client.pttl(key) == -1


def test_what_is_no_string_with_json_is_refused(client: redis.Redis, key: str) -> None:
    guard = guards.redis(client)
    client.hset(key, "field", "1")
    with pytest.raises(interlock.Invalid, match="strings that hold JSON"):
        guard.read(key)
    with pytest.raises(interlock.Invalid, match="holds a hash"):
        guard.create(key, 1)
    assert client.hgetall(key) == {b"field": b"1"}
    client.delete(key)
    record = guard.read(key)
    client.set(key, "no json")
    with pytest.raises(interlock.Invalid, match="does not hold JSON"):
        guard.write(record, 1)
    with pytest.raises(interlock.Invalid, match="own"):
        guard.read(receipts_of(key))
    assert client.get(key) == b"no json"


def test_of_a_hash_all_is_compared_and_only_what_changes_is_written(
    client: redis.Redis, key: str
) -> None:
    guard = guards.redis(client, kind="hash", agent="planner")
    client.hset(key, mapping={"seat": "3C", "status": "PENDING", "_version": "4"})
    client.expire(key, 100)
    record = guard.read(key)
    assert (record.value["seat"], record.version) == ("3C", 4)
    with monitored(client) as monitor:
        written = guard.update_fields(record, {"seat": "12A"}, remove=["status"])
        client.echo(key)
        seen = [*takewhile(f"ECHO {key}".__ne__, (each["command"] for each in monitor.listen()))]
    assert [each for each in seen if each.startswith("HSET")] == [
        f"HSET {key} seat 12A",
        f"HSET {key} _version 5",
    ]
    assert client.hgetall(key) == {b"seat": b"12A", b"_version": b"5"}
    assert (written.version, written.value["_version"], client.ttl(key) > 0) == (5, "5", True)
    client.hset(key, "meal", "vegan")
    with pytest.raises(interlock.Conflict, match="changed by a writer outside") as caught:
        guard.write(written, {"seat": "1A"})
    assert caught.value.record.value["meal"] == "vegan"
    with pytest.raises(interlock.Invalid, match="at least one field"):
        guard.create(f"{key}:new", {})
    bad: list[Any] = [{"n": 1}, [1]]
    for value in bad:
        with pytest.raises(interlock.Invalid):
            guard.write(caught.value.record, value)
    guard.delete(caught.value.record)
    assert client.exists(key) == 0
    stamped = guards.redis(client, kind="hash", metadata=True).create(key, {"seat": "1A"})
    assert guard.read(key).at == stamped.at
    with pytest.raises(interlock.Conflict):
        guard.create(key, {"seat": "1B"})
    client.delete(key)
    client.set(key, "1")
    with pytest.raises(interlock.Invalid, match="for hashes"):
        guard.read(key)
    with pytest.raises(interlock.Invalid, match="kind="):
        guards.redis(client, kind="set")


def test_what_was_read_is_compared_beside_an_item_that_is_added(
    client: redis.Redis, key: str
) -> None:
    guard = guards.redis(client, kind="list")
    guard.append(f"{key}:read", 1)

    def compute(tx: interlock.Tx) -> None:
        tx.read(f"{key}:read")
        tx.append(key, "computed")
        client.rpush(f"{key}:read", "2")

    with pytest.raises(interlock.Contended):
        guard.transact(compute, attempts=1)
    assert client.exists(key) == 0


def test_a_client_that_decodes_is_as_good(redis_url: str, key: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        guard = guards.redis(client)
        record = guard.create(key, {"name": "Zoë"})
        client.set(key, '{"name":"Zoé"}')
        with pytest.raises(interlock.Conflict) as caught:
            guard.write(record, {})
        assert guard.write(caught.value.record, {"name": "Zoe"}).value == {"name": "Zoe"}


def test_other_bytes_are_another_value_even_where_they_mean_the_same(
    client: redis.Redis, key: str
) -> None:
    guard = guards.redis(client)
    record = guard.create(key, {"n": 1})
    client.set(key, '{"n": 1}')
    with pytest.raises(interlock.Conflict):
        guard.write(record, {"n": 2})


@pytest.mark.parametrize("metadata", [True, False])
def test_an_increment_whose_answer_was_lost_is_applied_once(
    proxied: tuple[Proxy, redis.Redis], client: redis.Redis, key: str, metadata: bool
) -> None:
    proxy, through = proxied
    guard = guards.redis(through, metadata=metadata)
    client.set(key, '{"n": 0}')
    guard.update(key, lambda value: {**value, "n": value["n"] + 1})
    for cut in (proxy.cut_after_next, proxy.cut_before_next):
        cut(key.encode() + b"}")  # the receipts: of the script and of nothing else
        made = guard.update(key, lambda value: {**value, "n": value["n"] + 1})
        assert made.value == json.loads(client.get(key) or "")
    assert (proxy.cuts, made.value["n"]) == (2, 3)


def test_a_lost_answer_counts_though_others_wrote_before_it_was_sent_again(
    proxied: tuple[Proxy, redis.Redis], client: redis.Redis, key: str
) -> None:
    proxy, through = proxied
    client.set(key, '{"n": 0}')
    guard = guards.redis(through)
    guard.read(key)
    thoughts = []

    def think(value: Any) -> Any:
        thoughts.append(value)
        cut = proxy.cut_after_next(key.encode() + b"}")

        def overwrite() -> None:
            cut.wait()
            client.set(key, '{"n": 0}')  # so that the bytes match again, too

        threading.Thread(target=overwrite).start()
        return {"n": value["n"] + 1}

    guard.update(key, think)
    assert len(thoughts) == 1
    assert client.get(key) == b'{"n": 0}'


def test_an_interrupted_write_leaves_no_reply_on_a_connection_of_the_clients_pool(
    redis_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis.Redis.from_url(redis_url, max_connections=1) as client:
        guard = guards.redis(client)
        record = guard.create(key, {"n": 1})
        with monkeypatch.context() as patched:

            def interrupt(*_: object, **__: object) -> None:
                raise KeyboardInterrupt

            patched.setattr(redis.Connection, "read_response", interrupt)
            with pytest.raises(KeyboardInterrupt):
                guard.write(record, {"n": 2})
        assert client.echo("next") == b"next"
        assert guard.read(key).value in ({"n": 1}, {"n": 2})


def test_a_client_of_a_class_of_the_applications_own_is_asked_itself(
    redis_url: str, key: str
) -> None:
    class Counting(redis.Redis):
        calls = 0

        def execute_command(self, *args: Any, **options: Any) -> Any:
            Counting.calls += args[0] in ("EVALSHA", "EVAL")
            theirs: Any = super().execute_command
            return theirs(*args, **options)

    with Counting.from_url(redis_url) as client:
        guards.redis(client).create(key, {"n": 1})
    assert Counting.calls >= 1


def test_a_server_that_is_gone_is_a_fault(redis_server: Redis, key: str) -> None:
    with Proxy(redis_server.host, redis_server.port) as proxy:
        url = redis_server.url(port=proxy.port)
    with once(url) as nowhere, pytest.raises((interlock.Fault, AnswerLost)):
        guards.redis(nowhere).session.driver.backend.perform(Load((key,)))


def test_blind_writers_lose_nothing_to_the_guard(client: redis.Redis, key: str) -> None:
    """Each writer has a field: the legacy ones SET the whole value with all that they know of it.

    What a guarded write replaced is what it was computed from, whatever came in between.
    """
    guard, log = guards.redis(client), []
    client.set(key, '{"by": "nobody", "n": 0}')
    over = threading.Event()

    def legacy(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            client.set(key, json.dumps({"by": f"legacy-{number}", "n": count}))

    def guarded(number: int) -> None:
        for count in range(5):

            def think(value: Any, count: int = count) -> Any:
                return {"by": f"agent-{number}", "n": count, "over": [value["by"], value["n"]]}

            made = guard.update(key, think, attempts=10_000, turns="never")
            log.append(made.value)

    with ThreadPoolExecutor(15) as pool, monitored(client) as monitor:
        legacies = [pool.submit(legacy, number) for number in range(5)]
        agents = [pool.submit(guarded, number) for number in range(10)]
        for each in agents:
            each.result()
        over.set()
        for each in legacies:
            each.result()
        client.echo(key)
        seen = [*takewhile(f"ECHO {key}".__ne__, (each["command"] for each in monitor.listen()))]
    before, checked = {"by": "nobody", "n": 0}, 0
    for command in seen:
        if not command.startswith(f"SET {key} "):
            continue
        text = command.removeprefix(f"SET {key} ").removesuffix(" KEEPTTL")
        value = json.loads(text.encode().decode("unicode_escape").strip('"'))
        if "over" in value:
            assert value["over"] == [before["by"], before["n"]]
            checked += 1
        before = value
    assert checked == len(log) == 50


def test_a_cluster_takes_any_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    with RedisCluster.start(tmp_path_factory.mktemp("cluster")) as cluster:
        node = cluster.nodes[0]
        with redis.RedisCluster(host=node.host, port=node.port) as client:
            guard = guards.redis(client)
            for key in ("plain", "{tag}:1", "a{}b", "{unfinished"):
                guard.create(key, {"n": 1})
                assert guard.patch(key, {"n": 2}).value == {"n": 2}


def test_items_are_added_to_a_list_whoever_adds_at_the_same_time(
    proxied: tuple[Proxy, redis.Redis], client: redis.Redis, key: str
) -> None:
    proxy, through = proxied
    guard = guards.redis(through, kind="list")
    client.rpush(key, '"by others"')
    client.expire(key, 100)
    assert guard.append(key, {"n": 1}).version == 2
    proxy.cut_after_next(key.encode() + b"}")
    guard.append(key, {"n": 2})  # its answer is lost, and it is sent again
    assert (proxy.cuts, client.ttl(key) > 0) == (1, True)
    record = guard.read(key)
    assert record.value == ["by others", {"n": 1}, {"n": 2}]
    with pytest.raises(interlock.Forbidden, match="append"):
        guard.write(record, [])
    client.rpush(key, "3")
    with pytest.raises(interlock.Conflict, match="changed by a writer outside"):
        guard.delete(record)
    guard.delete(guard.read(key))
    assert client.exists(key) == 0
    client.rpush(key, "no json")
    with pytest.raises(interlock.Invalid, match="an item that is no JSON"):
        guard.read(key)
    client.delete(key)
    client.set(key, "1")
    with pytest.raises(interlock.Invalid, match="for lists"):
        guard.append(key, 1)
    with pytest.raises(interlock.Invalid, match="A list has no machine="):
        guards.redis(client, kind="list", machine=interlock.BOOKING)
    with pytest.raises(interlock.Forbidden):
        guards.redis(client).append(key, 1)


def test_items_that_are_added_are_entries(redis_url: str, client: redis.Redis, key: str) -> None:
    with interlock.open(redis_url, space=key) as space:
        guard = guards.redis(client, kind="list", log=space)
        guard.append(key, 1)
        client.rpush(key, "2")
        guard.append(key, 3)
        events = [entry.value["event"] for entry in space.history(guards.log_key("redis", key))]
    assert events == ["appended", "changed outside", "appended"]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.Redis]:
    """A server that has SET ... IFEQ."""
    with (
        Redis.start(tmp_path_factory.mktemp("valkey"), binary=binary_of_valkey()) as server,
        redis.Redis.from_url(server.url()) as found,
    ):
        yield found


def test_one_command_compares_and_replaces_where_the_server_has_it(
    valkey: redis.Redis, key: str
) -> None:
    guard = guards.redis(valkey, receipts=False)
    valkey.set(key, '{"n": 1}', ex=100)
    record = guard.read(key)
    with monitored(valkey) as monitor:
        made = guard.write(record, {"n": 2})
        valkey.echo(key)
        seen = [*takewhile(f"ECHO {key}".__ne__, (each["command"] for each in monitor.listen()))]
    assert [each for each in seen if "{" in each] == [
        f'SET {key} {{"n":2}} IFEQ {{"n": 1}} KEEPTTL GET'
    ]
    assert 0 < valkey.ttl(key) <= 100
    with pytest.raises(interlock.Conflict) as caught:
        guard.write(record, {"n": 3})
    assert caught.value.record.value == {"n": 2}
    valkey.delete(key)
    with pytest.raises(interlock.Conflict):
        guard.write(made, {"n": 3})
    assert valkey.exists(key) == 0
    valkey.hset(key, "field", "1")
    with pytest.raises(interlock.Invalid, match="strings that hold JSON"):
        guard.write(made, {"n": 3})
    valkey.delete(key)


def test_a_log_and_a_transaction_on_valkey(valkey: redis.Redis, key: str) -> None:
    with interlock.open(connection=valkey, space=key) as space:
        guard = guards.redis(valkey, log=space)
        guard.create(f"{key}a", 1)
        guard.create(f"{key}b", 1)
        with guard.transaction() as tx:
            tx.write(tx.read(f"{key}a"), 2)
            tx.write(tx.read(f"{key}b"), 3)
        assert [entry.value["event"] for entry in space.log()] == [
            *("created", "created", "written", "written")
        ]


def test_a_server_without_it_is_sent_the_script(client: redis.Redis, key: str) -> None:
    guard = guards.redis(client, receipts=False)
    client.set(key, "1", ex=100)
    assert guard.update(key, lambda n: n + 1).value == 2
    assert (client.get(key), client.ttl(key) > 0) == (b"2", True)
