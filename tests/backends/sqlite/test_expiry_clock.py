"""Values that expire by the store's clock, which the test sets."""

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

START, SECOND = 1_767_225_600_000_000, 1_000_000  # 2026-01-01


class Ticking(Space):
    """A space in memory whose clock the test sets."""

    now = START

    def __init__(self) -> None:
        self.backend = SQLiteBackend("sqlite://", "s", clock=lambda: self.now)
        writer = make_writer(self.backend.uid, "s", "a", None)
        super().__init__(Session(SyncDriver(self.backend), writer))


@pytest.fixture
def space() -> Iterator[Ticking]:
    made = Ticking()
    with closing(made):
        yield made


def test_a_value_lasts_as_long_as_it_was_given(space: Ticking) -> None:
    record = space.create("k", 1, expires=60)
    space.now += 60 * SECOND - 1
    assert space.read("k") == record
    assert space.trim().expired == 0
    space.now += 1
    assert space.read("k").expired
    assert space.trim().expired == 1


def test_a_clock_that_steps_back_acknowledges_nothing(space: Ticking) -> None:
    space.create("k", 1, expires=60)
    space.now += 60 * SECOND
    gone = space.read("k")
    space.now -= 30 * SECOND
    assert space.read("k").value == 1
    with pytest.raises(interlock.Conflict):
        space.write(gone, 2)
    with pytest.raises(interlock.Conflict):
        space.create("k", 2)


def test_the_log_says_when_values_expire(space: Ticking) -> None:
    space.create("k", 1, expires=60)
    space.create("stays", 1)
    assert [entry.expires_us for entry in space.log()] == [START + 60 * SECOND, 0]
    taken = space.group("g").take(1)
    assert [each.entry.expires_us for each in taken] == [START + 60 * SECOND]


def test_what_is_left_of_a_trimmed_log_still_expires(space: Ticking) -> None:
    space.create("k", 1, expires=100 * 86400)
    space.create("x", 1)
    space.now += 2 * 86400 * SECOND
    space.update("x", lambda n: n + 1)
    assert space.trim(keep=1).cut == 2
    cut = space.at(position=2)
    assert cut.read("k").value == 1
    space.now += 98 * 86400 * SECOND
    assert space.read("k").expired
    assert not space.at(time=space.time()).read("k").exists
