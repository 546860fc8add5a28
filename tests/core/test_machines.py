"""State machines without a store: tables that contradict themselves, and the ready-made ones."""

from __future__ import annotations

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
