"""Guards under every schedule: a writer outside at each point, a crash, and a lost answer."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import interlock
from interlock import guards
from interlock.guards import Guard
from interlock.verify import Violation
from tests.guards.tables import bookings, sqlite_file
from tests.verify.explored_guards import FIRST, Kept, OneFile, RedisKey, Row, explore_guard, outside

COLUMNS = "id INTEGER PRIMARY KEY, by TEXT, over TEXT, version INTEGER NOT NULL DEFAULT 1"


@pytest.fixture(params=["redis", "row", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    """A key of Redis, a row of SQLite, and a file."""
    if request.param == "row":
        with bookings("sqlite", sqlite_file(tmp_path), COLUMNS) as made:
            yield Row(made)
    elif request.param == "file":
        yield OneFile(tmp_path)
    else:
        with redis.Redis.from_url(request.getfixturevalue("redis_url")) as client:
            yield RedisKey(client, f"booking:{uuid.uuid4().hex}")


def mine(value: Any, by: str) -> Any:
    """What an agent writes over a value."""
    return {**(value or {}), "by": by, "over": value and value["by"]}


def updates(key: str, attempts: int = 2) -> Callable[[Guard], Any]:
    """An agent that updates, and thinks again after a conflict."""

    def agent(guard: Guard) -> Any:
        try:
            return guard.update(
                key, lambda value: mine(value, guard.agent), attempts=attempts, turns="never"
            )
        except interlock.Unknown:
            return None

    return agent


def writes(key: str) -> Callable[[Guard], Any]:
    """An agent that reads, thinks, and writes once."""

    def agent(guard: Guard) -> Any:
        record = guard.read(key)
        value = mine(record.value, guard.agent)
        try:
            return guard.write(record, value) if record.exists else guard.create(key, value)
        except interlock.Unknown:
            return None

    return agent


def test_a_guard_destroys_nothing_unseen_under_any_schedule(place: Kept) -> None:
    agents = {
        "a": updates(place.key),
        "b": writes(place.key),
        "outside": outside({"by": "theirs", "over": None}, FIRST),
    }
    explored, ends = explore_guard(place, agents)
    assert explored.states > 400
    assert ends == {"Record", "Conflict", "Contended", "NoneType"}


def test_a_file_that_others_create_and_delete_is_never_overwritten_unseen(tmp_path: Path) -> None:
    agents = {
        "a": updates("a.json"),
        "b": updates("a.json"),
        "outside": outside(None, {"by": "theirs", "over": None}),
    }
    explore_guard(OneFile(tmp_path), agents)


def seems_same(read: Any, there: Any) -> bool:
    """What is compared where nothing is: only that something was there, and is."""
    return read is not guards.ABSENT and there is not guards.ABSENT


def test_a_place_that_compares_nothing_is_found(place: Kept) -> None:
    agents = {"b": writes(place.key), "outside": outside({"by": "theirs", "over": None})}
    place.lost_replies = 0
    with pytest.raises(Violation, match="b-1 was computed from 'first' and replaced 'theirs'"):
        explore_guard(place, agents, careless=seems_same)


def test_comparing_the_version_alone_is_found(tmp_path: Path) -> None:
    with bookings("sqlite", sqlite_file(tmp_path), COLUMNS) as made:
        agents = {"b": writes("1"), "outside": outside({"by": "theirs", "over": None})}
        with pytest.raises(Violation, match="computed from 'first' and replaced 'theirs'"):
            explore_guard(Row(made, compare="version"), agents)


def test_a_key_without_receipts_is_found(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        place = RedisKey(client, f"booking:{uuid.uuid4().hex}", receipts=False)
        with pytest.raises(Violation, match="a refusal means that nothing happened"):
            explore_guard(place, {"b": writes(place.key)})
