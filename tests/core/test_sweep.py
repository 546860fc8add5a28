"""The sweep of expired keys, step by step: what is refused is left, the rest is deleted."""

from __future__ import annotations

from typing import Any

import pytest

from interlock.core.plan import DELETE, Expect, Write
from interlock.core.records import Committed, KeyInfo, Written, absent
from interlock.core.refusals import conflict, replaced
from interlock.core.requests import Commit, ListExpired
from interlock.core.trim import sweep
from interlock.core.writer import Writer

A, B = KeyInfo("a", 1, 0, "w", 1, 1), KeyInfo("b", 3, 2, "w", 1, 2)


def committed(request: Commit) -> Committed:
    writes = tuple(Written(w.key, DELETE, 2, 0, 9, None) for w in request.plan.writes)
    return Committed(9, 1, "s", writes)


def test_of_a_batch_that_is_refused_each_key_is_tried_alone() -> None:
    steps: Any = sweep(Writer("", "s", 1000), "op")
    assert next(steps) == ListExpired(100)
    both = steps.send((A, B))
    assert both.plan.writes == (Write(DELETE, "a", None), Write(DELETE, "b", None))
    assert both.plan.expects == (Expect("a", 1, 0, True), Expect("b", 3, 2, True))
    moved = conflict(both.plan.expects[0], absent("a", ""))
    alone = [steps.send(moved)]
    alone.append(steps.send(committed(alone[0])))
    assert {each.plan.writes[0].key for each in alone} == {"a", "b"}
    assert len({both.plan.op_id, *(each.plan.op_id for each in alone)}) == 3
    last = alone[1].plan.expects[0]
    assert steps.send(conflict(last, absent(last.key, ""))) == ListExpired(101)
    with pytest.raises(StopIteration) as end:  # it is still listed, and not tried again
        steps.send((A if last.key == "a" else B,))
    assert end.value.value == 1


def test_whoever_was_replaced_stops() -> None:
    steps: Any = sweep(Writer("", "s", 1000), "op")
    next(steps)
    steps.send((A,))
    with pytest.raises(StopIteration) as end:
        steps.send(replaced("s", 1, 2))
    assert end.value.value == 0
