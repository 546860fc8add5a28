"""Agents and invariants that the explorer's tests share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interlock import Space, Tx
from interlock.core.records import Record
from interlock.verify import View

Agent = Callable[[Space], Any]


def increment(space: Space) -> Record:
    return space.update("count", lambda value: value + 1, default=0)


def increment_in_turn(space: Space) -> Record:
    return space.update("count", lambda value: value + 1, default=0, turns="always")


def every_write_counts(view: View) -> str | None:
    """The count is the number of writes: whoever overwrote another's increment lost it."""
    writes, count = len(view.log("count")), view.read("count").value or 0
    return None if writes == count else f"{writes} writes, but the count is {count}"


def everybody_alive_has_counted(view: View) -> None:
    for agent in view.acknowledged.keys() - view.crashed:
        assert isinstance(view.results[agent], Record), f"{agent} ended with {view.results[agent]}"
        assert len(view.acknowledged[agent]) == 1, f"{agent} was acknowledged twice"


def two_doctors_on_call(space: Space) -> None:
    space.create("on_call/alice", True)
    space.create("on_call/bob", True)


def goes_home(doctor: str, colleague: str) -> Agent:
    """A doctor who leaves if the colleague is on call: each writes what only the other reads."""

    def agent(space: Space) -> None:
        def leave(tx: Tx) -> None:
            mine, other = tx.read(f"on_call/{doctor}"), tx.read(f"on_call/{colleague}")
            if other.value:
                tx.write(mine, False)

        space.transact(leave)

    return agent


def somebody_is_on_call(view: View) -> str | None:
    doctors = view.scan("on_call/").values()
    return None if any(doctor.value for doctor in doctors) else "nobody is on call"


def books(guest: str) -> Agent:
    """A guest who takes the only room if the scan finds no booking."""

    def agent(space: Space) -> None:
        def book(tx: Tx) -> None:
            if not tx.scan("booking/"):
                tx.create(f"booking/{guest}", {"guest": guest})

        space.transact(book)

    return agent


def one_booking_at_most(view: View) -> str | None:
    guests = sorted(view.scan("booking/"))
    return None if len(guests) <= 1 else f"the room was booked twice: {guests}"
