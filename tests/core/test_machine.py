"""State machines without a store: tables that contradict themselves, and the ready-made ones."""

from __future__ import annotations

import re
from typing import Any

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


ODD = 'say "no" \\N'
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
        "odd",
        "s",
        "a b",
        {"a b": [ODD, "->"], "->": [ODD]},
        guards={("a b", ODD): "is it?"},
    ),
    interlock.Machine(
        "ring",
        "s",
        "a",
        {"a": ["b"], "b": ["c", "a"], "c": ["d", "b", "a"], "d": ["e", "a", "c"], "e": ["a", "e"]},
    ),
]


@pytest.mark.parametrize("machine", DRAWN, ids=lambda machine: machine.name)
def test_each_arrow_of_the_graph_runs_from_its_state_to_its_target(
    machine: interlock.Machine,
) -> None:
    quoted = r'"((?:[^"\\]|\\.)*)"'
    arrow = re.compile(rf"    {quoted} -> {quoted}(?: \[label={quoted}\])?")
    state = re.compile(rf'    {quoted} \[style="rounded([a-z,]*)"\]')
    first, *lines, last = interlock.draw_machine(machine, "dot").splitlines()
    assert re.fullmatch(rf"digraph {quoted} \{{", first)
    assert last == "}"
    arrows, styles = [], {}
    for line in lines[2:]:
        if found := arrow.fullmatch(line):
            arrows.append(tuple(plain(each) for each in found.groups()))
        else:
            found = state.fullmatch(line)
            assert found, line
            styles[plain(found[1])] = (",bold" in found[2], ",dashed" in found[2])
    guards = machine.guards
    assert sorted(arrows) == sorted(
        (one, other, guards.get(f"{one}->{other}") or guards.get(other, ""))
        for one in machine.states
        for other in machine.targets(one)
    )
    assert styles == {
        each: (each in machine.initial, each in machine.final) for each in machine.states
    }


def plain(quoted: str | None) -> str:
    """Return a name as Graphviz reads it."""
    return re.sub(r"\\(.)", r"\1", quoted or "")


def test_a_machine_is_drawn_from_its_table() -> None:
    def enough(old: object, new: object, agent: str) -> bool:
        return True

    machine = interlock.Machine(
        "sale <1>", "state", "open", {"open": ["paid", "dropped"]}, guards={"paid": enough}
    )
    assert interlock.draw_machine(machine) == (
        "sale <1>: field 'state'\n"
        "* open    -> paid [enough], dropped\n"
        "  paid    -> (final)\n"
        "  dropped -> (final)\n"
        "* a new value begins here"
    )
    mermaid = interlock.draw_machine(machine, "mermaid").splitlines()
    assert mermaid[0] == "stateDiagram-v2"
    assert sorted(line.strip() for line in mermaid[1:]) == [
        "[*] --> open",
        "dropped --> [*]",
        "open --> dropped",
        "open --> paid : enough",
        "paid --> [*]",
    ]
    assert '"sale <1>"' in interlock.draw_machine(machine, "dot").splitlines()[0]
    with pytest.raises(ValueError, match="no diagram of kind 'svg': use text, mermaid, dot"):
        interlock.draw_machine(machine, "svg")
