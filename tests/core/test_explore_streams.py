"""Consumer groups and coordinators under every schedule, with one crash and one lost reply.

The numbers are pinned, as in `test_explore`.
"""

from __future__ import annotations

import pytest

from interlock import Space
from interlock.errors import Held
from interlock.streams.coordinator import Progress
from interlock.verify import View, explore
from tests.core.conftest import Pin


def two_tasks(space: Space) -> None:
    space.create("task/a", "a")
    space.create("task/b", "b")


def consumes(space: Space) -> list[int]:
    """Take two entries, one at a time, and acknowledge each."""
    group, done = space.group("workers", consumer=space.agent), []
    for _ in range(2):
        for delivery in group.take(1):
            done.append(delivery.entry.position)
            group.ack(delivery)
    return done


def nothing_is_done_twice(view: View) -> str | None:
    done = sorted(position for result in view.results.values() for position in result)
    return None if len(set(done)) == len(done) else f"done: {done}"


def all_is_done_unless_somebody_died(view: View) -> str | None:
    done = {position for result in view.results.values() for position in result}
    return None if view.crashed or done == {1, 2} else f"done: {done}"


def test_a_group_of_three_consumers(pin: Pin) -> None:
    explored = explore(
        dict.fromkeys("abc", consumes),
        setup=two_tasks,
        invariants=nothing_is_done_twice,
        final=all_is_done_unless_somebody_died,
    )
    pin("consumer group: three consumers", explored, (65_334, 2_506))


def three_parts(space: Space) -> None:
    for part, amount in (("a", 1), ("b", 2), ("c", 4)):
        space.create(f"part/{part}", amount)


def coordinates(wait: float | None) -> object:
    def agent(space: Space) -> Progress | str:
        coordinator = space.coordinator(
            "total", source="part/", merge=lambda total, part: total + part, initial=0, wait=wait
        )
        try:
            return coordinator.catch_up()
        except Held as held:
            return f"{held.holder} coordinates"

    return agent


def each_part_counts_once(view: View) -> str | None:
    total = view.read("total").value
    finished = any(isinstance(result, Progress) for result in view.results.values())
    allowed = (7,) if finished else (None, 7)
    return None if total in allowed else f"the total is {total}"


@pytest.mark.parametrize(
    ("wait", "counts"),
    [(0.0, (624, 325)), pytest.param(None, (83_466, 10_131), marks=pytest.mark.slow)],
)
def test_two_coordinators(pin: Pin, wait: float | None, counts: tuple[int, int]) -> None:
    """The second one stands by while the first one lives."""
    explored = explore(
        dict.fromkeys("ab", coordinates(wait)), setup=three_parts, invariants=each_part_counts_once
    )
    name = "coordinator: two of one name" + (", who do not wait" if wait == 0 else "")
    pin(name, explored, counts)
