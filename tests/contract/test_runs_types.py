"""Results of steps and effects as a type, when they are made and when they are recalled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

import interlock
from tests.facades import Facades


@dataclass(frozen=True)
class Seat:
    row: int


def test_a_typed_result_is_the_same_when_it_is_recalled(sync_facades: Facades) -> None:
    space, calls = sync_facades.open("us"), []

    def choose(row: int, near: Seat) -> Seat:
        calls.append(near)
        return Seat(row)

    def book(key: str, seat: Seat) -> Seat:
        calls.append(seat)
        return seat

    for _ in range(2):
        with space.run("trip") as run:  # the second time it has ended, and everything is recalled
            seat = run.step("choose", choose, Seat, 12, near=Seat(1))
            booked = run.effect("book", book, Seat, seat)
            assert (seat, booked) == (Seat(12), Seat(12))
            assert run.step("all", lambda: {2, 1}, set[int]) == {1, 2}
            assert run.step("plain", lambda: Seat(3)) == {"row": 3}
    assert calls == [Seat(1), Seat(12)]


def test_a_result_that_does_not_fit_is_not_recorded(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    results: list[Any] = ["12", Seat("x"), Seat(1)]  # type: ignore[arg-type]  # that is the point
    for message in ("Expected object, got str", r"at \$\.row"):
        with pytest.raises(interlock.Invalid, match=message), space.run("trip") as run:
            run.step("choose", lambda: results.pop(0), Seat)
    with space.run("trip") as run:
        assert run.step("choose", lambda: results.pop(0), Seat) == Seat(1)


def test_an_effect_is_looked_up_and_undone_with_the_type(sync_facades: Facades) -> None:
    space, undone = sync_facades.open("us"), []

    def fail(key: str) -> Seat:
        raise OSError

    def trip(run: Any) -> None:
        with run:
            seat = run.effect(
                "book",
                fail,
                Seat,
                check=lambda key: Seat(7),
                compensate=lambda key, seat: undone.append(seat),
            )
            assert seat == Seat(7)
            raise interlock.RunFailed("full")

    with pytest.raises(interlock.RunFailed):
        trip(space.run("trip"))
    assert undone == [Seat(7)]


@dataclass(frozen=True)
class Place:
    """It was {"at": "Rome"} at first."""

    city: str


interlock.upcast(Place, 1, lambda fields: {"city": fields["at"]})


def test_a_result_that_was_recorded_before_its_class_changed_is_lifted(
    sync_facades: Facades,
) -> None:
    space = sync_facades.open("us")
    with space.run("trip") as run:  # the program as it was
        run.step("choose", lambda: {"at": "Rome"})
        run.effect("book", lambda key: {"at": "Rome"})
    with space.run("trip") as run:
        assert run.step("choose", lambda: Place("Bonn"), Place) == Place("Rome")
        assert run.effect("book", lambda key: Place("Bonn"), Place) == Place("Rome")


def test_the_input_and_what_is_sent_are_of_a_type(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    space.runs.start("trip", "book", Seat(12))
    space.runs.send("trip", "seat", Seat(7))
    for _ in range(2):  # the second time what was sent is recalled
        with space.run("trip") as run:
            assert run.input_as(Seat) == Seat(12)
            assert run.wait_for("seat", type=Seat) == Seat(7)


def test_an_input_or_an_answer_that_does_not_fit_is_refused(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    message = r"does not fit Seat: Expected int, got str at \$\.row"
    with (
        pytest.raises(interlock.Invalid, match=f"The input of run 'trip' {message}"),
        space.run("trip", input={"row": "x"}) as run,
    ):
        run.input_as(Seat)
    space.runs.send("trip", "seat", {"row": "x"})
    with (
        pytest.raises(interlock.Invalid, match=f"What run 'trip' got as 'seat' {message}"),
        space.run("trip") as run,
    ):
        run.wait_for("seat", type=Seat)
    with pytest.raises(interlock.Invalid, match="3 can't be the type"), space.run("trip") as run:
        run.wait_for("seat", type=3)
