"""Rebase: disjoint changes of one document merge without a second thought."""

from __future__ import annotations

from typing import Any

import pytest

import interlock
from tests.facades import Facades, elsewhere

RULES = {"doc/*": interlock.guarded(on_conflict="rebase", machine=None)}
PLAN = {"title": "trip", "days": {"mon": "museum", "tue": "sea"}, "notes": ["a"]}


pytestmark = [pytest.mark.interlock_space(agent="us", rules=RULES)]


def test_disjoint_changes_merge(space: Any) -> None:
    record = space.create("doc/1", PLAN)
    space.write(record, {**PLAN, "title": "voyage", "notes": ["a", "theirs"]})
    merged = space.write(
        record, {**PLAN, "days": {"mon": "museum", "tue": "hills"}, "notes": ["a", "mine"]}
    )
    assert merged.value == {
        "title": "voyage",
        "days": {"mon": "museum", "tue": "hills"},
        "notes": ["a", "theirs", "mine"],
    }
    assert merged.version == 3
    assert space.read("doc/1") == merged


def test_the_same_path_changed_twice_is_a_conflict_that_shows_all_sides(space: Any) -> None:
    record = space.create("doc/1", PLAN)
    space.write(record, {**PLAN, "days": {"mon": "park", "tue": "sea"}})
    with pytest.raises(interlock.Conflict, match="both changed days/mon") as refused:
        space.write(record, {**PLAN, "title": "x", "days": {"mon": "zoo", "tue": "sea"}})
    (clash,) = refused.value.clashes
    assert (clash.path, clash.base, clash.mine, clash.theirs) == (
        ("days", "mon"),
        "museum",
        "zoo",
        "park",
    )
    assert refused.value.record.version == space.read("doc/1").version == 2


def test_the_base_is_what_was_read_though_the_value_was_changed_in_place(space: Any) -> None:
    record = space.create("doc/1", PLAN)
    mine = space.read("doc/1")
    mine.value["title"] = "changed in place"
    space.write(record, {**PLAN, "notes": []})
    assert space.write(mine, mine.value).value["title"] == "changed in place"
    assert space.read("doc/1").value["notes"] == []


def test_an_update_thinks_once_where_others_changed_something_else(
    facades: Facades, space: Any
) -> None:
    space.create("doc/1", {"a": 0, "b": 0})
    other = facades.peer("other")
    thoughts: list[Any] = []

    def think(value: Any) -> Any:
        thoughts.append(dict(value))
        if len(thoughts) == 1:
            elsewhere(lambda: other.write(other.read("doc/1"), {"a": 0, "b": 7}))
        return {**value, "a": value["a"] + 1}

    assert space.update("doc/1", think).value == {"a": 1, "b": 7}
    assert thoughts == [{"a": 0, "b": 0}]

    def clashing(value: Any) -> Any:
        thoughts.append(dict(value))
        if len(thoughts) == 2:
            elsewhere(lambda: other.write(other.read("doc/1"), {"a": 5, "b": 7}))
        return {**value, "a": value["a"] + 1}

    assert space.update("doc/1", clashing).value == {"a": 6, "b": 7}
    assert thoughts[1:] == [{"a": 1, "b": 7}, {"a": 5, "b": 7}]
    other.close()


def test_what_was_deleted_or_created_meanwhile_is_a_conflict(space: Any) -> None:
    record = space.create("doc/1", PLAN)
    space.delete(record)
    with pytest.raises(interlock.Conflict):
        space.write(record, {**PLAN, "title": "x"})
    absent = space.read("doc/2")
    space.create("doc/2", {"a": "x"})
    with pytest.raises(interlock.Conflict):
        space.write(absent, {"b": "x"})
    assert space.write(absent, {"a": "x"}).value == {"a": "x"}, "both made the same"


def test_two_increments_to_the_same_number_are_not_one(space: Any) -> None:
    record = space.create("doc/1", {**PLAN, "count": 2})
    space.write(record, {**PLAN, "count": 3})
    with pytest.raises(interlock.Conflict) as refused:
        space.write(record, {**PLAN, "count": 3})
    assert [clash.path for clash in refused.value.clashes] == [("count",)]


def test_a_rebased_write_sent_again_is_applied_once(space: Any) -> None:
    record = space.create("doc/1", PLAN)
    space.write(record, {**PLAN, "title": "voyage"})
    mine = {**PLAN, "notes": []}
    first = space.write(record, mine, op_id="mine")
    again = space.write(record, mine, op_id="mine")
    assert first == again
    assert space.position() == 4


def test_a_rebased_value_obeys_the_machine(facades: Facades) -> None:
    rule = interlock.guarded(on_conflict="rebase", machine=interlock.BOOKING)
    space = facades.open("us", rules={"booking/*": rule})
    record = space.create("booking/1", {"status": "PENDING", "seat": None})
    space.transition("booking/1", "CANCELLED")
    merged = space.write(record, {"status": "PENDING", "seat": "1A"})
    assert merged.value == {"status": "CANCELLED", "seat": "1A"}
    with pytest.raises(interlock.Conflict, match="both changed status"):
        space.write(record, {"status": "PENDING_PAYMENT", "seat": "1A"})
