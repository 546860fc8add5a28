"""State machines without a store: tables that contradict themselves, and the ready-made ones."""

from __future__ import annotations

from itertools import combinations, pairwise, product
from typing import Any
from xml.etree import ElementTree

import pytest

import interlock


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transitions": {"a": ["b"], "c": ["a"]}}, "no transition leads to 'c'"),
        ({"transitions": {"a": ["b"]}, "final": ["c"]}, "'c' is not a state"),
        ({"transitions": {"a": ["b", "c"]}, "final": ["b"]}, "'c' has no way out"),
        ({"transitions": {"a": ["b"], "b": ["a"]}, "final": ["b"]}, "final and has transitions"),
        ({"transitions": {"a": ["b"]}, "initial": "z"}, "'z' is not a state"),
        ({"transitions": {"a": ["b"]}, "guards": {("b", "a"): "g"}}, "guards no transition"),
        ({"transitions": {"a": ["b"]}, "name": ""}, "needs a name"),
        ({"transitions": {"a": [""]}}, "is not a name"),
    ],
)
def test_a_table_that_contradicts_itself(options: dict[str, Any], message: str) -> None:
    arguments = {"name": "m", "field": "f", "initial": "a", **options}
    with pytest.raises(interlock.MachineError, match=message):
        interlock.Machine(**arguments)


def test_the_ready_made_machines() -> None:
    lifecycle = interlock.AGENT_LIFECYCLE
    assert lifecycle.targets("AwaitingInput") == ("Processing", "Completed", "Failed")
    assert set(lifecycle.final) == {"Completed", "Failed"}
    assert interlock.BOOKING.targets("COMPLETED") == ("REFUND_PENDING",)


DRAWN = [
    interlock.BOOKING,
    interlock.AGENT_LIFECYCLE,
    interlock.Machine(
        "order",
        "s",
        ["NEW", "IMPORTED"],
        {
            "NEW": ["PAID", "NEW", "CANCELLED"],
            "IMPORTED": ["PAID", "SHIPPED"],
            "PAID": ["SHIPPED", "REFUNDED"],
            "SHIPPED": ["RETURNED", "DELIVERED"],
            "RETURNED": ["PAID", "REFUNDED"],
        },
    ),
    interlock.Machine(
        "ring",
        "s",
        "a",
        {"a": ["b"], "b": ["c", "a"], "c": ["d", "b", "a"], "d": ["e", "a", "c"], "e": ["a", "e"]},
    ),
]
Corner = tuple[int, int]
Line = tuple[int, int, int, int]  # the box around one straight piece of an arrow


def lines_of(corners: list[Corner]) -> list[Line]:
    return [
        (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        for (x1, y1), (x2, y2) in pairwise(corners)
        if (x1, y1) != (x2, y2)
    ]


def share(one: Line, other: Line) -> bool:
    """Whether two upright boxes have more than a point in common."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width >= 0 and height >= 0 and (width > 0 or height > 0)


@pytest.mark.parametrize("machine", DRAWN, ids=lambda machine: machine.name)
def test_each_arrow_of_the_picture_runs_from_its_state_to_its_target(
    machine: interlock.Machine,
) -> None:
    picture = ElementTree.fromstring(interlock.draw_machine(machine, "svg"))
    svg = "{http://www.w3.org/2000/svg}"
    names = [each.text for each in picture.iter(f"{svg}text")]
    boxes: dict[str, Line] = {}
    for name, rect in zip(names, picture.iter(f"{svg}rect"), strict=True):
        x, y, width, height = (int(rect.attrib[at]) for at in ("x", "y", "width", "height"))
        boxes[str(name)] = (x, y, x + width, y + height)
    arrows: dict[tuple[str, ...], list[Corner]] = {}
    for path in picture.findall(f"{svg}path"):
        title = path.find(f"{svg}title")
        assert title is not None
        points = (point.split() for point in path.attrib["d"].removeprefix("M").split("L"))
        arrows[tuple(str(title.text).split(" to "))] = [(int(x), int(y)) for x, y in points]
    assert arrows.keys() == {(s, t) for s in machine.states for t in machine.targets(s)}

    for (state, target), corners in arrows.items():
        (x1, y1), (x2, y2) = corners[0], corners[-1]
        assert x1 == boxes[state][2]
        assert boxes[state][1] < y1 < boxes[state][3]
        assert x2 == boxes[target][0]
        assert boxes[target][1] < y2 < boxes[target][3]
        for line in lines_of(corners):
            for box in boxes.values():
                left, top, right, bottom = box
                inside = (left + 1, top + 1, right - 1, bottom - 1)
                assert not share(line, inside), f"{state} to {target} runs through a state"
    for one, other in combinations(arrows, 2):
        for line, crossed in product(lines_of(arrows[one]), lines_of(arrows[other])):
            assert not share(line, crossed), f"{one} and {other} run on one line"
