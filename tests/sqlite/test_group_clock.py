"""Consumer groups by the store's clock: who is dead, and whose name is forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from interlock import Space
from interlock.backends.drive import SyncDriver
from interlock.backends.sqlite import SQLiteBackend
from interlock.core.group import FORGOTTEN_AFTER, Deliveries
from interlock.core.requests import AckGroup, DropGroup, GroupState, ReadGroup
from interlock.session import Session
from interlock.settings import make_writer

START = 1_767_225_600_000_000  # 2026-01-01


class Store:
    """A store in memory whose clock the test sets, with one entry in its log."""

    def __init__(self) -> None:
        self.now = START
        self.backend = SQLiteBackend("sqlite://", "s", clock=lambda: self.now)
        self._count = 0
        writer = make_writer(self.backend.uid, "s", "a", None)
        Space(Session(SyncDriver(self.backend), writer)).create("k", 1)

    def read(self, consumer: str, ttl: float = 10.0) -> list[int]:
        self._count += 1
        asked = ReadGroup(
            "g",
            consumer=consumer,
            prefix="",
            limit=5,
            ttl=ttl,
            name=f"n{self._count}",
        )
        taken = self.backend.perform(asked)
        assert isinstance(taken, Deliveries)
        return [item.entry.position for item in taken.items]

    def consumers(self) -> dict[str, bool]:
        info: Any = self.backend.perform(GroupState("g"))
        return {consumer.name: consumer.alive for consumer in info.consumers}


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    with closing(made.backend):
        yield made


def test_a_consumer_is_dead_when_its_ttl_is_over(store: Store) -> None:
    assert store.read("one") == [1]
    store.now += 9_999_999
    assert (store.read("two"), store.consumers()) == ([], {"one": True, "two": True})
    store.now += 1
    assert (store.read("two"), store.consumers()) == ([1], {"one": False, "two": True})


def test_a_sign_of_life_from_the_future_is_none(store: Store) -> None:
    """The clock stepped back."""
    assert store.read("one") == [1]
    store.now -= 3_600_000_000
    assert store.consumers() == {"one": False}
    assert store.read("two") == [1]


def test_dead_consumers_with_nothing_pending_are_forgotten(store: Store) -> None:
    store.read("idle")
    store.backend.perform(AckGroup("g", consumer="idle", positions=(1,), deliveries=(1,)))
    store.now += int((FORGOTTEN_AFTER + 11) * 1e6)
    store.read("idle")
    assert list(store.consumers()) == ["idle"], "whoever comes again is not new"
    store.now += int((FORGOTTEN_AFTER + 9) * 1e6)
    store.read("two")
    assert list(store.consumers()) == ["idle", "two"]
    store.now += 2_000_000
    store.read("three")
    assert list(store.consumers()) == ["three", "two"]


def test_a_group_that_is_dropped_leaves_no_rows(store: Store) -> None:
    store.read("one")
    store.backend.perform(DropGroup("g"))
    with closing(sqlite3.connect(":memory:")) as reader:
        reader.deserialize(store.backend.dump())
        for table in ("groups", "group_consumers", "group_pending"):
            assert reader.execute(f"SELECT COUNT(*) FROM {table}").fetchone() == (0,)


def test_waiting_for_nothing_writes_nothing(store: Store) -> None:
    store.read("one")
    before = store.backend.dump()
    store.now += 1_000_000
    assert store.read("one") == []
    assert store.backend.dump() == before
    store.now += 3_000_000
    assert store.read("one") == []
    assert store.backend.dump() != before, "now it was a sign of life"
