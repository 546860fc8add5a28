"""What captures, append-only files, logs and tables hold, as events."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

import interlock
from interlock import Entry
from interlock.forensics import (
    BadTrace,
    Event,
    Keyspace,
    Watcher,
    find_losses,
    history_sql,
    open_feed,
    open_source,
)
from interlock.forensics.history import NOTHING, PUT, READ
from interlock.forensics.history_table import install
from interlock.forensics.sources import event_of_entry
from tests.servers.redis import Redis


def resp(*words: object) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)


def monitored(*lines: str) -> bytes:
    shown = [f"{1700000000 + n}.{n:06d} {line}\n" for n, line in enumerate(lines)]
    return "".join(["OK\n", *shown]).encode()


def events_of(file: Path, data: bytes) -> list[Event]:
    file.write_bytes(data)
    return list(open_source(str(file)).read())


def shown(events: list[Event]) -> list[tuple[Any, ...]]:
    return [(e.key, e.kind, e.agent, None if e.value is NOTHING else e.value) for e in events]


def test_monitor_lines_become_events(tmp_path: Path) -> None:
    data = monitored(
        '[0 10.0.0.1:5] "CLIENT" "SETNAME" "scout"',
        '[0 10.0.0.1:5] "GET" "k"',
        r'[0 10.0.0.1:5] "SET" "k" "{\"a\": \"\xc3\xa4\\n\"}"',
        '[2 10.0.0.2:6] "set" "k" "plain"',
        '[0 10.0.0.1:5] "EVALSHA" "abc" "1" "k"',
        '[0 lua] "GET" "k"',
        '[0 lua] "SET" "k" "3"',
        '[0 10.0.0.1:5] "RPUSH" "write_log:k" "x"',
        '[0 10.0.0.1:5] "HGET" "h" "f"',
        '[0 10.0.0.1:5] "HSET" "h" "f" "1" "g" "two"',
        '[0 10.0.0.1:5] "DEL" "k" "h"',
    )
    assert shown(events_of(tmp_path / "capture", data)) == [
        ("k", "read", "scout", None),
        ("k", "put", "scout", {"a": "ä\n"}),
        ("db2:k", "put", "10.0.0.2:6", "plain"),
        ("k", "read", "scout", None),
        ("k", "put", "scout", 3),
        ("h", "read", "scout", ["f"]),
        ("h", "fields", "scout", {"f": 1, "g": "two"}),
        ("k", "delete", "scout", None),
        ("h", "delete", "scout", None),
    ]


def test_a_set_that_finds_the_key_there_is_no_write(tmp_path: Path) -> None:
    lock = '[0 a:1] "SET" "lock" "a" "NX" "EX" "1"'
    other = '[0 b:1] "SET" "lock" "b" "NX" "PX" "5000"'
    found = events_of(tmp_path / "capture", monitored(lock, other, other, other))
    assert [event.value for event in found] == ["a", "b"]


def test_what_is_no_line_of_monitor_is_named(tmp_path: Path) -> None:
    data = monitored('[0 a:1] "GET" "k"') + b"nonsense\n"
    with pytest.raises(BadTrace, match="line 3: is not a line of MONITOR"):
        events_of(tmp_path / "capture", data)


def test_an_append_only_file_has_commands_times_and_databases(tmp_path: Path) -> None:
    data = b"#TS:1700000000\r\n" + resp("SELECT", 0) + resp("SET", "k", '{"n": 1}')
    data += resp("SELECT", 3) + resp("HSET", "h", "f", "x") + resp("INCRBY", "n", 2)
    found = events_of(tmp_path / "file.aof", data + resp("SET", "k", "cut off")[:-4])
    assert [(e.key, e.kind, e.value) for e in found] == [
        ("k", "put", {"n": 1}),
        ("db3:h", "fields", {"f": "x"}),
        ("db3:n", "add", 2),
    ]
    assert {e.time_us for e in found} == {1_700_000_000_000_000}


def test_commands_after_an_rdb_are_found(tmp_path: Path) -> None:
    base = b"REDIS0009\xfa\x05redis\xfe\x00\xfb\x01\x00\x00\x01k\x01v\xff" + b"12345678"
    found = events_of(tmp_path / "file.aof", base + resp("SELECT", 0) + resp("SET", "k", 1))
    assert [(e.key, e.value) for e in found] == [("k", 1)]
    assert not open_source(str(tmp_path / "file.aof")).from_start


def test_a_folder_is_read_in_the_order_of_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.1.base.aof").write_bytes(resp("SET", "k", 1))
    (tmp_path / "a.2.incr.aof").write_bytes(resp("SET", "k", 3))
    (tmp_path / "a.1.incr.aof").write_bytes(resp("SET", "k", 2))
    (tmp_path / "a.manifest").write_text(
        "file a.1.base.aof seq 1 type b\nfile a.2.incr.aof seq 2 type i\n"
        "file a.1.incr.aof seq 1 type i\nfile a.0.incr.aof seq 0 type h\n"
    )
    assert [event.value for event in open_source(str(tmp_path)).read()] == [1, 2, 3]
    with pytest.raises(interlock.Unavailable, match="manifest"):
        open_source(str(tmp_path.parent))


@pytest.mark.parametrize(
    "line",
    [
        {"agent": "a", "ts": 1700000000.5, "value": {"x": 1}},
        {"agent_id": "a", "timestamp": "2023-11-14T22:13:20.5+00:00", "data": {"x": 1}},
        {"writer": "a", "time": 1700000000500, "content": {"x": 1}, "op": "set", "extra": None},
    ],
)
def test_logs_may_name_things_their_way(redis_url: str, line: dict[str, Any]) -> None:
    with Keys(redis_url) as keys:
        keys.push("forensics-log:plan", json.dumps(line))
        (event,) = open_source(redis_url, log_prefix="forensics-log:").read()
    assert event[:6] == ("plan", 1_700_000_000_500_000, PUT, {"x": 1}, "a", 1)


def test_a_log_entry_that_is_not_json_is_named(redis_url: str) -> None:
    with Keys(redis_url) as keys:
        keys.push("forensics-log:plan", "ann wrote")
        with pytest.raises(BadTrace, match="forensics-log:plan, line 1: is not JSON"):
            list(open_source(redis_url, log_prefix="forensics-log:").read())


class Keys:
    """Keys of a Redis that others use, too, removed in the end."""

    def __init__(self, url: str) -> None:
        from interlock.forensics.sources import redis_client

        self.client = redis_client(url)
        self.names: set[str] = set()

    def __enter__(self) -> Keys:
        return self

    def push(self, key: str, item: str) -> None:
        self.names.add(key)
        self.client.rpush(key, item)

    def __exit__(self, *exc: object) -> None:
        self.client.delete(*self.names)
        self.client.close()


def test_fields_are_compared_with_what_was_read_of_them() -> None:
    def line(kind: str, agent: str, value: Any) -> Event:
        return Event("h", 0, kind, value, agent)

    start = [line("fields", "a", {"f": 1, "g": 1}), line(READ, "a", ["f"]), line(READ, "b", None)]
    others = [line("fields", "b", {"g": 2}), line("fields", "b", {"f": 2})]
    (loss,) = find_losses([*start, *others, line("fields", "a", {"f": 5})]).losses
    assert [(str(fact), loss.certainty) for fact in loss.facts] == [("f: 1 -> 2", "certain")]
    assert find_losses([*start, others[0], line("fields", "a", {"f": 5})]).losses == []


def test_a_table_shows_transactions_when_all_before_them_have_ended(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS fed CASCADE; CREATE SCHEMA fed")
        connection.execute("CREATE TABLE fed.t (id int PRIMARY KEY, v jsonb)")
        install(postgres_url, history_sql("fed.t"))
        feed = open_feed(postgres_url, table="fed.t")
        with psycopg.connect(postgres_url) as slow:
            slow.execute("INSERT INTO fed.t VALUES (1, '1')")
            connection.execute("INSERT INTO fed.t VALUES (2, '2')")
            assert feed.poll(0) == []
        polled: list[str] = []
        while len(polled) < 2:  # others' transactions on this server may be open a moment longer
            polled += [event.key for event in feed.poll(0.01)]
        assert polled == ["fed.t/1", "fed.t/2"]


def test_keyspace_events_are_switched_on_only_if_asked(tmp_path: Path) -> None:
    with Redis.start(tmp_path / "redis") as redis:
        redis.ask("SET", "plan", '["x"]')
        with pytest.raises(interlock.Invalid, match="--enable-events"):
            Keyspace(redis.url())
        keyspace = Keyspace(redis.url(), enable=True, agent_field="by")
        assert shown(keyspace.poll(0)) == [("plan", "change", "", ["x"])]
        redis.ask("SET", "plan", '{"by": "ann"}')
        redis.ask("RPUSH", "list", "1")
        found: list[Event] = []
        while len(found) < 2:
            found += keyspace.poll(1.0)
        keyspace.close()
        assert shown(found) == [("plan", "put", "ann", {"by": "ann"}), ("list", "change", "", [1])]
        assert redis.ask("CONFIG", "GET", "notify-keyspace-events")[1] == ""


def test_a_watcher_survives_its_own_restart_and_the_server_s(tmp_path: Path) -> None:
    file = tmp_path / "position.json"

    def watcher() -> Watcher:
        return Watcher(
            lambda position: open_feed(redis.url(), position=position), position_file=file
        )

    def log(agent: str, at: float, *items: str) -> None:
        entry = json.dumps({"agent": agent, "ts": at, "value": items})
        redis.ask("RPUSH", "write_log:plan", entry)

    with Redis.start(tmp_path / "redis", {"appendfsync": "always"}) as redis:
        log("ann", 1.0, "x")
        first = watcher()
        assert first.poll(0) == []
        first.close()
        log("ben", 2.0, "x", "b")
        log("ann", 3.0, "x", "a")
        second = watcher()
        assert [alert.kind for alert in second.poll(0)] == ["loss"]
        redis.stop()
        assert second.poll(0) == []
        assert second.away is not None
        redis.start_again()
        log("ben", 4.0, "x", "b2")
        while not (alerts := second.poll(0.05)):
            assert threading.active_count() > 0
        assert second.away is None
        assert [alert.key for alert in alerts] == ["plan"]
        second.close()


def test_what_a_guard_has_logged_shows_what_writers_around_it_destroyed() -> None:
    def entry(position: int, event: str, before: int | None, value: Any) -> Entry:
        logged = {"event": event, "value": value}
        logged["before"] = None if before is None else {"position": before}
        key = "guard/redis/plan"
        return Entry(position, key, position, 0, "put", logged, "ann", position * 10**6, "o", None)

    log = [
        entry(1, "created", None, ["x"]),
        entry(2, "written", 1, ["x", "a"]),
        entry(3, "refused", 2, None),
        entry(4, "changed outside", 2, ["x", "b"]),
        entry(5, "written", 4, ["x"]),
    ]
    events = [event for each in log if (event := event_of_entry(each))]
    (loss,) = find_losses(events).losses
    assert (loss.position, loss.lost_position, loss.certainty) == (4, 2, "likely")
