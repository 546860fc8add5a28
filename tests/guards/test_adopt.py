"""Moving keys from where they are into a space, and back."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import interlock
from interlock import guards
from interlock.guards import Adopted, Adoption
from tests.guards.shelf import Shelf


@pytest.fixture
def space() -> Iterator[interlock.Space]:
    """Where the keys go."""
    with interlock.open("sqlite://") as opened:
        yield opened


@pytest.fixture
def tag() -> str:
    """A beginning of keys that no other test has."""
    return f"b{uuid.uuid4().hex[:8]}"


@pytest.fixture
def redis_keys(client: redis.Redis, space: interlock.Space, tag: str) -> tuple[Adoption, list[str]]:
    """Three keys of Redis."""
    keys = [f"{tag}:{number}" for number in range(3)]
    for key in keys:
        client.set(key, json.dumps({"seat": key[-1]}))
    client.hset(f"{tag}:hash", "no", "json")
    return guards.adopt(guards.redis(client), space), keys


def test_keys_are_copied_again_where_they_changed_and_read_there_after_the_cut_over(
    redis_keys: tuple[Adoption, list[str]], client: redis.Redis, space: interlock.Space, tag: str
) -> None:
    adoption, keys = redis_keys
    assert adoption.keys(f"{tag}:*") == keys
    assert adoption.copy(keys, dry_run=True) == Adopted((*keys,), (), ())
    assert space.position() == 0
    seen: list[tuple[int, int]] = []
    assert adoption.copy(keys, progress=lambda *each: seen.append(each)).copied == (*keys,)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    client.set(keys[0], '{"seat": "9Z"}')
    client.delete(keys[1])
    assert adoption.read(keys[0]).value == {"seat": "9Z"}
    assert space.read(keys[0]).value == {"seat": "0"}
    again = adoption.copy(adoption.keys(f"{tag}:*"), cut_over=True)
    assert again == Adopted((*keys[:2],), (keys[2],), ())
    assert (space.read(keys[0]).value, space.read(keys[1]).exists) == ({"seat": "9Z"}, False)
    space.update(keys[0], lambda value: {**value, "seat": "1A"})
    assert adoption.read(keys[0]).value == {"seat": "1A"}
    assert adoption.read(keys[2]).value == {"seat": "2"}


def test_what_both_sides_have_changed_is_left_and_named(
    redis_keys: tuple[Adoption, list[str]], client: redis.Redis, space: interlock.Space
) -> None:
    adoption, keys = redis_keys
    adoption.copy(keys)
    client.set(keys[0], '{"seat": "9Z"}')
    space.update(keys[0], lambda value: {"seat": "1A"})
    space.update(keys[1], lambda value: {"seat": "1B"})
    done = adoption.copy(keys, cut_over=True)
    assert done == Adopted((), (keys[2],), (keys[0], keys[1]))
    assert space.read(keys[0]).value == {"seat": "1A"}
    client.set(keys[2], '{"seat": "written on the wrong side"}')
    assert adoption.copy(keys).differs == (*keys,)
    assert adoption.back(keys).differs == (keys[0], keys[2])
    assert adoption.read(keys[1]).value == json.loads(client.get(keys[1]) or "") == {"seat": "1B"}


def test_back_is_what_was_written_in_the_space_and_is_read_outside_again(
    redis_keys: tuple[Adoption, list[str]], client: redis.Redis, space: interlock.Space, tag: str
) -> None:
    adoption, keys = redis_keys
    adoption.copy(keys, cut_over=True)
    space.update(keys[0], lambda value: {"seat": "1A"})
    space.delete(space.read(keys[1]))
    assert adoption.back(keys, dry_run=True).copied == (keys[0], keys[1])
    assert client.get(keys[0]) == b'{"seat": "0"}'
    assert adoption.back(keys) == Adopted((keys[0], keys[1]), (keys[2],), ())
    assert adoption.keys(f"{tag}:*") == keys
    assert client.mget(keys) == [b'{"seat":"1A"}', None, b'{"seat": "2"}']
    client.set(keys[0], '{"seat": "3C"}')
    assert adoption.read(keys[0]).value == {"seat": "3C"}
    assert adoption.back([f"{tag}:other"]) == Adopted((), (f"{tag}:other",), ())


def test_a_change_outside_at_the_moment_of_the_cut_over_is_copied_too(
    space: interlock.Space,
) -> None:
    shelf = Shelf()
    shelf.put("plan", {"step": 1})
    loads = iter(range(99))

    def load(key: str) -> Any:
        if next(loads) == 1:  # the look after the cut-over
            shelf.put("plan", {"step": 2})
        return shelf.load(key)

    adoption = guards.adopt(guards.custom(load, shelf.replace), space, prefix="adopted/")
    assert adoption.copy(["plan"], cut_over=True).copied == ("plan",)
    assert space.read("adopted/plan").value == adoption.read("plan").value == {"step": 2}
    with pytest.raises(interlock.Invalid, match="can't list"):
        adoption.keys()


def test_a_writer_of_the_space_at_the_moment_of_the_copy_is_not_overwritten(
    space: interlock.Space,
) -> None:
    shelf = Shelf()
    shelf.put("plan", {"step": 1})

    class Interrupted(guards.Adoption):
        def _there(self, key: str) -> Any:
            found = super()._there(key)
            if not space.read("plan").exists:
                space.create("plan", {"step": "by an agent"})
            return found

    adoption = Interrupted(guards.custom(shelf.load, shelf.replace), space)
    assert adoption.copy(["plan"]).differs == ("plan",)
    assert space.read("plan").value == {"step": "by an agent"}


def test_rows_of_a_table_are_adopted(space: interlock.Space) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.execute("CREATE TABLE t (a TEXT, b INTEGER, seat TEXT, PRIMARY KEY (a, b))")
        connection.execute("INSERT INTO t VALUES ('x/y', 1, '1A'), ('z', 2, '2B')")
        adoption = guards.adopt(guards.table(connection, "t", key=("a", "b")), space, prefix="t/")
        keys = adoption.keys()
        assert keys == [guards.row_key("x/y", 1), guards.row_key("z", 2)]
        assert adoption.keys("z*") == keys[1:]
        adoption.copy(keys, cut_over=True)
        target = adoption.target(keys[0])
        space.update(target, lambda row: {**row, "seat": "3C"})
        adoption.back(keys)
        assert connection.execute("SELECT seat FROM t ORDER BY b").fetchall() == [("3C",), ("2B",)]
    finally:
        connection.close()


def test_bad_arguments_are_refused(space: interlock.Space) -> None:
    with pytest.raises(interlock.Invalid, match="needs"):
        guards.adopt(space, space)  # type: ignore[arg-type]  # on purpose
