"""What is said of the health of a space."""

from __future__ import annotations

import pytest

from interlock.core.health import (
    GroupLag,
    QueueState,
    SpaceState,
    bytes_of,
    of_skew,
    of_space,
)

FINE = SpaceState(
    name="s",
    entries=5,
    position=7,
    importing=False,
    ahead=-3.0,
    leases=(("a", "ann", 10.0), ("b", "bob", -5.0)),
    queues=(QueueState("a", 2, 0),),
    groups=(GroupLag("g", 7, 3, 0),),
)


def test_a_space_that_is_fine_is_counted() -> None:
    (found,) = of_space(FINE)
    assert (found.check, found.level) == ("space 's'", "ok")
    assert "1 leases, 2 waiting in 1 queues, 1 groups" in found.found


@pytest.mark.parametrize(
    ("change", "level", "said", "advice"),
    [
        ({"importing": True}, "wrong", "not finished", "spaces drop s"),
        ({"ahead": 90.0}, "wrong", "90 s ahead", "NTP"),
        ({"leases": (("k", "bob", -61.0),)}, "wrong", "'bob' did not give it up", "reclaim k"),
        ({"queues": (QueueState("k", 3, 2),)}, "note", "2 of 3", "Nothing to do"),
        ({"groups": (GroupLag("g", 7, 3, 2),)}, "wrong", "2 entries pending", "groups drop g"),
        ({"entries": 10_000_001}, "note", "10,000,001", "interlock trim"),
    ],
)
def test_what_is_wrong_comes_with_advice(
    change: dict[str, object], level: str, said: str, advice: str
) -> None:
    found, *_ = of_space(FINE._replace(**change))  # type: ignore[arg-type]  # a test's table
    assert found.level == level
    assert said in found.found
    assert advice in found.advice


@pytest.mark.parametrize(("seconds", "level"), [(0.5, "ok"), (-2.0, "wrong"), (2.0, "wrong")])
def test_a_clock_that_differs_is_said(seconds: float, level: str) -> None:
    assert of_skew(seconds).level == level


def test_sizes_are_for_people() -> None:
    assert [bytes_of(n) for n in (0, 999, 12_345, 5 * 10**13)] == [
        *("0 bytes", "999 bytes", "12.3 kB", "50.0 TB"),
    ]
