"""Guards of MongoDB's documents.

On the server that INTERLOCK_TEST_MONGODB names, otherwise on mongomock-ng, in this process, whose
asyncio collection is a view of the synchronous one.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import bson
import mongomock_ng
import pymongo
import pytest

import interlock
from interlock import guards
from tests.facades import Bridge
from tests.guards.documents import Atomic


class AsyncView:
    """A collection whose methods are awaited."""

    def __init__(self, plain: Any) -> None:
        self._plain, self.name = plain, plain.name

    async def find_one(self, *arguments: Any) -> Any:
        """The same."""
        return self._plain.find_one(*arguments)

    async def insert_one(self, *arguments: Any) -> Any:
        """The same."""
        return self._plain.insert_one(*arguments)

    async def find_one_and_update(self, *arguments: Any, **options: Any) -> Any:
        """The same."""
        return self._plain.find_one_and_update(*arguments, **options)

    async def find_one_and_delete(self, *arguments: Any) -> Any:
        """The same."""
        return self._plain.find_one_and_delete(*arguments)


class Bookings(NamedTuple):
    """A collection, as a program without guards has it, and how it is guarded."""

    plain: Any
    guard: Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def bookings(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Iterator[Bookings]:
    """A collection of its own, with each API."""
    url, name = os.environ.get("INTERLOCK_TEST_MONGODB"), f"bookings-{uuid.uuid4().hex[:8]}"
    client: Any = pymongo.MongoClient(url) if url else mongomock_ng.MongoClient()
    plain = given = client.interlock[name]
    used: Any = None
    if request.param == "async":
        used = pymongo.AsyncMongoClient(url) if url else None
        given = used.interlock[name] if used else AsyncView(plain)

    def guard(**options: Any) -> Any:
        made = guards.collection(given, **{"version": "version", "make_id": int, **options})
        return Bridge(made, loop) if request.param == "async" else made

    yield Bookings(plain, guard)
    plain.drop()
    client.close()
    if used:
        loop.run_until_complete(used.close())


def test_verbs_write_documents(bookings: Bookings) -> None:
    guard = bookings.guard(machine=interlock.BOOKING)
    assert not guard.read("1").exists
    made = guard.create("1", {"status": "PENDING", "info": {"a": [1]}, "n": 0})
    assert (made.version, made.value["_id"]) == (1, 1)
    with pytest.raises(interlock.Conflict, match="already exists"):
        guard.create("1", {"status": "PENDING"})
    guard.update("1", lambda value: {**value, "n": value["n"] + 1})
    guard.patch("1", {"info": None, "more": {"b": None}})
    gone = guard.transition("1", "CANCELLED")
    assert bookings.plain.find_one() == {
        "_id": 1, "status": "CANCELLED", "n": 1, "more": {}, "version": 4,
    }  # fmt: skip
    assert not guard.delete(gone).exists
    assert bookings.plain.find_one() is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 2), (1, [1]), ({"a": 1}, {"a": 2}), ([1, 2], [2, 1]), (None, 1), ([1], [[1]]), (1, None)],
)
def test_a_field_that_a_blind_writer_changed_conflicts_whatever_it_was(
    bookings: Bookings, before: Any, after: Any
) -> None:
    bookings.plain.insert_one({"_id": 1, "n": before, "version": 1})
    guard = bookings.guard()
    record = guard.read("1")
    bookings.plain.update_one({"_id": 1}, {"$set": {"n": after}})
    writes: list[Callable[[], Any]] = [
        lambda: guard.write(record, {**record.value, "note": "mine"}),
        lambda: guard.delete(record),
    ]
    for write in writes:
        with pytest.raises(interlock.Conflict, match="outside") as caught:
            write()
        assert caught.value.record.value["n"] == after


def test_a_field_that_a_blind_writer_added_or_removed_is_not_overwritten(
    bookings: Bookings,
) -> None:
    bookings.plain.insert_one({"_id": 1, "version": 1, "old": None})
    guard = bookings.guard()
    record = guard.read("1")
    bookings.plain.update_one({"_id": 1}, {"$set": {"note": "theirs"}})
    with pytest.raises(interlock.Conflict) as caught:
        guard.write(record, {**record.value, "note": "mine"})
    bookings.plain.update_one({"_id": 1}, {"$unset": {"old": ""}})
    with pytest.raises(interlock.Conflict):
        guard.write(caught.value.record, {"note": "mine"})
    assert bookings.plain.find_one() == {"_id": 1, "version": 1, "note": "theirs"}


def test_types_of_bson_stay_what_they_are(bookings: Bookings) -> None:
    some: Any = bson.ObjectId("0" * 24)
    at = datetime(2026, 1, 2, 3, 4, 5)
    before = {"_id": 1, "ref": some, "at": at, "price": bson.Decimal128("1.50"), "in": {"at": at}}
    bookings.plain.insert_one(dict(before))
    guard = bookings.guard(version=None)
    record = guard.read("1")
    assert record.value["price"] == "1.50"
    changes = {"in": {**record.value["in"], "n": 1}, "price": "2.50"}
    guard.update_fields(record, changes)
    after = bookings.plain.find_one()
    assert after == {**before, "price": bson.Decimal128("2.50"), "in": {"at": at, "n": 1}}
    with pytest.raises(interlock.Invalid, match="datetime"):
        guard.update_fields("1", {"at": "tomorrow"})


def test_bad_input_is_refused_and_changes_nothing(bookings: Bookings) -> None:
    bookings.plain.insert_one({"_id": 1, "n": 1, "version": 1})
    guard = bookings.guard()
    record = guard.read("1")
    calls: list[Callable[[], Any]] = [
        lambda: guard.write(record, [1]),
        lambda: guard.patch(record, {"$set": 1}),
        lambda: guard.patch(record, {"a.b": 1}),
        lambda: guard.patch(record, {"_id": 2}),
        lambda: guard.patch(record, {"version": 7}),
        lambda: guard.create("2", {"_id": 3}),
        lambda: guard.read("x"),
        lambda: bookings.guard(version="_id"),
        lambda: bookings.guard(version="$x"),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()
    assert list(bookings.plain.find()) == [{"_id": 1, "n": 1, "version": 1}]


def test_a_find_and_a_replace_lose_what_a_guard_does_not(bookings: Bookings) -> None:
    bookings.plain.insert_one({"_id": 1, "n": 0})

    def snippet(between: Callable[[], object]) -> None:
        found = bookings.plain.find_one({"_id": 1})
        between()
        bookings.plain.replace_one({"_id": 1}, {**found, "n": found["n"] + 1})

    snippet(lambda: snippet(lambda: None))
    assert bookings.plain.find_one() == {"_id": 1, "n": 1}  # two were counted
    given = []

    def think(value: Any) -> Any:
        given.append(value["n"])
        if len(given) == 1:
            snippet(lambda: None)
        return {**value, "n": value["n"] + 1}

    assert bookings.guard().update("1", think).value["n"] == 3


def test_a_hundred_agents_on_one_document_lose_none_and_fail_none() -> None:
    url = os.environ.get("INTERLOCK_TEST_MONGODB")
    client: Any = pymongo.MongoClient(url) if url else mongomock_ng.MongoClient()
    plain = client.interlock[f"bookings-{uuid.uuid4().hex[:8]}"]
    plain.insert_one({"_id": 1, "n": 0})
    atomic = plain if url else Atomic(plain)
    start = threading.Barrier(100)

    def agent(_: int) -> None:
        guard = guards.collection(atomic, version="version", make_id=int)
        start.wait()
        guard.update("1", lambda value: {**value, "n": value["n"] + 1}, attempts=10_000)

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(agent, range(100)))
    assert plain.find_one() == {"_id": 1, "n": 100, "version": 100}
    plain.drop()
    client.close()
