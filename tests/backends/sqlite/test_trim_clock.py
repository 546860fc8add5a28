"""Trimming by the store's clock: how long entries are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

import interlock
from interlock import Space
from interlock.backends.drive import SyncDriver
from interlock.backends.sqlite import SQLiteBackend
from interlock.session import Session
from interlock.settings import make_writer

START, HOUR = 1_767_225_600_000_000, 3_600_000_000  # 2026-01-01
RULES = {"short/*": interlock.guarded(keep=2), "long/*": interlock.guarded(keep=10)}


class Aging(Space):
    """A space in memory whose clock the test sets."""

    now = START

    def __init__(self) -> None:
        self.backend = SQLiteBackend("sqlite://", "s", clock=lambda: self.now)
        writer = make_writer(self.backend.uid, "s", "a", None)
        super().__init__(Session(SyncDriver(self.backend), writer))
        self.apply_rules(RULES)

    def kept(self, hours: float, keep: float | None = None) -> list[str]:
        """Trim so many hours after the start; return the keys of the entries that are kept."""
        self.now = START + int(hours * HOUR)
        self.trim(keep=keep)
        return [entry.key for entry in self.log()]


@pytest.fixture
def space() -> Iterator[Aging]:
    made = Aging()
    with closing(made):
        yield made


def test_an_entry_is_kept_as_its_rule_says(space: Aging) -> None:
    for key in ("short/1", "long/1", "short/2", "other"):
        space.create(key, 1)
    assert space.kept(47.99) == ["short/1", "long/1", "short/2", "other"]
    assert space.kept(48) == ["long/1", "short/2", "other"]
    assert space.kept(239.99) == ["long/1", "short/2", "other"]
    assert space.kept(240) == ["other"]
    assert space.kept(10_000) == ["other"]
    assert space.kept(10_000, keep=500) == ["other"]
    assert space.kept(10_000, keep=400) == []
    assert len(space.scan()) == 4


def test_nothing_goes_within_a_day(space: Aging) -> None:
    space.create("other", 1)
    assert space.kept(23.99, keep=0) == ["$rules", "other"]
    assert space.kept(24, keep=0) == []


def test_an_entry_of_the_future_is_kept(space: Aging) -> None:
    """The clock stepped back."""
    space.create("other", 1)
    assert space.kept(-100, keep=0) == ["$rules", "other"]


def test_the_rules_are_those_in_force(space: Aging) -> None:
    """Another process's, too."""
    space.create("short/1", 1)
    other = Space(space.session.under_name("b"))
    other.apply_rules({"short/*": interlock.guarded(keep=1)})
    assert space.kept(24) == []
    assert space.at(position=3).read("short/1").value == 1
