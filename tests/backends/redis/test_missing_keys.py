"""Redis: a key of the space was evicted or deleted.  What is left tells so, to every process."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis

import interlock
from interlock.backends.redis.wire import state_key
from interlock.core.requests import ReadLog
from tests.facades import Facades


@pytest.fixture
def store_url(redis_url: str) -> str:
    """The server that all tests share."""
    return redis_url


@pytest.fixture
def name() -> str:
    return f"missing-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def raw(redis_url: str) -> Iterator[Any]:
    with closing(redis.Redis.from_url(redis_url, decode_responses=True)) as client:
        yield client


RULES = {"found": interlock.merged("append")}


@pytest.fixture
def filled(store_url: str, name: str) -> None:
    """A space with a record, a merged key, and a group with an entry pending."""
    with interlock.open(store_url, space=name, agent="a", rules=RULES) as space:
        space.create("k", 1)
        for number in range(3):
            space.append("found", number)
        with space.group("g", consumer="c", start=0) as group:
            assert group.take(1)


def take(space: Any) -> object:
    with space.group("g", consumer="another", start=0) as group:
        return group.take(1)


USES: dict[str, Callable[[Any], object]] = {
    "open": lambda space: None,
    "read": lambda space: space.read("k"),
    "merged": lambda space: space.read("found"),
    "append": lambda space: space.append("found", 4),
    "create": lambda space: space.create("new", 1),
    "scan": lambda space: space.scan(""),
    "log": lambda space: space.session.driver.backend.perform(ReadLog(after=0, limit=10)),
    "history": lambda space: [*space.history("k")],
    "at": lambda space: space.at(position=3).read("found"),
    "take": take,
}
MISSING = {
    "": ("open", "open"),
    ":log": (
        *("open", "read", "merged", "append", "create", "scan", "log", "history", "at", "take"),
    ),
    ":keys": ("open", "read", "append", "create", "scan", "log", "take"),
    ":m:found": ("merged", "append", "scan", "at"),
    ":groups": ("take",),
    ":g:g": ("take",),
    ":d:g": ("take",),
}


@pytest.mark.parametrize(
    ("part", "use"), sorted({(part, use) for part, uses in MISSING.items() for use in uses})
)
def test_a_missing_key_is_named(
    store_url: str, name: str, filled: None, raw: Any, part: str, use: str
) -> None:
    key = state_key(name) + part
    with interlock.open(store_url, space=name, agent="before") as before:
        before.read("nothing")
        assert raw.delete(key) == 1
        with (
            pytest.raises(interlock.Corrupt) as told,
            interlock.open(store_url, space=name, agent="after") as after,
        ):
            USES[use](after)
        assert f"{key} " in str(told.value)
        assert raw.exists(key) == 0, "nothing was written"
        if use != "open":
            with pytest.raises((interlock.Corrupt, interlock.LostCommits)):
                USES[use](before)
            assert raw.exists(key) == 0, "nothing was written"


def test_a_part_of_the_log_or_of_a_list_that_is_missing_is_named(
    facades: Facades, raw: Any
) -> None:
    space = facades.open("parts", rules=RULES)
    for number in range(3):
        space.append("found", number)
    space.read("found")
    for number in range(3, 6):
        space.append("found", number)
    key = state_key(facades.space)
    raw.rpop(f"{key}:m:found")
    for use in (space.read, lambda key: space.append(key, 6)):
        with pytest.raises(interlock.Corrupt, match=":m:found has"):
            use("found")
    raw.xdel(f"{key}:log", "2-0")
    with pytest.raises(interlock.Corrupt, match=":log has 6 entries instead of 7"):
        space.create("new", 1)


def test_a_fold_keeps_count_of_the_contributions(facades: Facades) -> None:
    space = facades.open("folds", rules=RULES)
    for number in range(40):
        space.append("found", number)
        if number % 7 == 0:
            assert len(space.read("found").value) == number + 1
    space.delete(space.read("found"))
    space.append("found", "again")
    assert space.read("found").value == ["again"]


AS_SCHEMA_1 = """
local head = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'h:found'))
head[7] = nil
redis.call('HSET', KEYS[1], 'schema', 1, 'h:found', cmsgpack.pack(head))
"""


def test_a_space_of_schema_1_is_read_and_counted_from_then_on(facades: Facades, raw: Any) -> None:
    old = facades.open("old", rules=RULES)
    old.append("found", 1)
    key = state_key(facades.space)
    raw.eval(AS_SCHEMA_1, 1, key)
    space = facades.open("old", rules=RULES)
    assert space.read("found").value == [1]
    space.append("found", 2)
    assert raw.hget(key, "schema") == "2"
    raw.lpop(f"{key}:m:found")
    with pytest.raises(interlock.Corrupt, match=":m:found has 1 contributions instead of 2"):
        space.read("found")
    raw.eval(AS_SCHEMA_1, 1, key)
    raw.delete(f"{key}:m:found")
    with pytest.raises(interlock.Corrupt, match=":m:found has 0 contributions instead of some"):
        space.read("found")


def test_what_a_space_of_schema_1_fences_is_exported(facades: Facades, raw: Any) -> None:
    old = facades.open("old", rules=RULES)
    old.append("found", 1)
    facades.open("only", exclusive=True)
    old.lease("k", ttl=1000).acquire()
    key = state_key(facades.space)
    raw.eval(AS_SCHEMA_1, 1, key)
    raw.delete(f"{key}:fenced")
    facades.open("old")
    with interlock.Store(facades.url) as store:
        lines = list(store.export(facades.space))
    assert [line for line in lines if line.startswith(('{"epoch"', '{"agent"'))] == [
        '{"epoch":{"key":"k","epoch":2}}',
        '{"agent":{"agent":"only","incarnation":1}}',
    ]
