"""Changing a part of a value, several keys in one commit, pages, and writes that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from tests.facades import Facades

SEAT = {"status": "PENDING", "seat": {"row": 12, "letter": "A"}, "hold": True}


@pytest.fixture
def space(facades: Facades) -> Any:
    rules = {
        "found": interlock.merged("append"),
        "agent/{agent}/**": interlock.private(),
        "bound": interlock.guarded(machine=interlock.BOOKING),
    }
    return facades.open("planner", rules=rules)


def test_a_patch_changes_parts_and_leaves_what_others_changed(space: Any) -> None:
    space.create("k", SEAT)
    patched = space.patch("k", {"seat": {"row": 14}, "hold": None})
    assert patched.value == {"status": "PENDING", "seat": {"row": 14, "letter": "A"}}
    assert patched == space.read("k")
    assert patched.version == 2


def test_fields_are_set_whole_and_removed(space: Any) -> None:
    space.create("k", SEAT)
    changed = space.update_fields("k", {"seat": {"row": 1}, "gate": None}, remove=["hold"])
    assert changed.value == {"status": "PENDING", "seat": {"row": 1}, "gate": None}


def test_a_record_in_hand_conflicts_only_where_its_own_fields_moved(space: Any) -> None:
    record = space.create("k", SEAT)
    space.patch("k", {"seat": {"letter": "B"}, "note": "by somebody else"})
    assert space.patch(record, {"seat": {"row": 14}}).value["seat"] == {"row": 14, "letter": "B"}
    with pytest.raises(interlock.Conflict) as refused:
        space.patch(record, {"seat": {"letter": "C"}})
    assert refused.value.record.value["seat"]["letter"] == "B"
    with pytest.raises(interlock.Conflict):
        space.update_fields(record, {"seat": {"row": 12}})
    with pytest.raises(interlock.Conflict):
        space.update_fields(record, {}, remove="note")
    assert space.update_fields(record, {"hold": False}).value["note"] == "by somebody else"
    space.delete(space.read("k"))
    with pytest.raises(interlock.Conflict):
        space.patch(record, {"hold": True})


def test_a_patch_obeys_the_rules(space: Any) -> None:
    space.append("found", {"a": 1})
    space.create("bound", {"status": "PENDING"})
    with pytest.raises(interlock.Forbidden, match="use append"):
        space.patch("found", {"a": 2})
    with pytest.raises(interlock.IllegalTransition):
        space.patch("bound", {"status": "COMPLETED"})
    with pytest.raises(interlock.Invalid, match="the field 'status'"):
        space.update_fields("bound", {}, remove=["status"])


def test_a_patch_that_was_sent_before_is_applied_once(space: Any) -> None:
    space.create("k", {"n": 1})
    first = space.patch("k", {"n": 2}, op_id="patch-1")
    space.patch("k", {"n": 3})
    assert space.patch("k", {"n": 2}, op_id="patch-1") == first
    assert space.read("k").value == {"n": 3}


@pytest.mark.any_store
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: s.patch("k", [1]), "A patch is an object"),
        (lambda s: s.patch("k", {}), "A patch is an object"),
        (lambda s: s.patch("absent", {"a": 1}), "'absent' does not exist"),
        (lambda s: s.patch("list", {"a": 1}), "holds no object"),
        (lambda s: s.patch("$rules", {"a": 1}), "reserved"),
        (lambda s: s.patch("k", {"a": {1, 2}}), "is a set, which is not JSON"),
        (lambda s: s.update_fields("k", {}), "at least one field"),
        (lambda s: s.update_fields("k", {"a": 1}, remove=["a"]), "none in both"),
        (lambda s: s.append_many("k/", [1]), "empty segment"),
        (lambda s: s.append_many("found", [1, {1}]), "A set is not JSON"),
        (lambda s: s.create_many({"new": 1, "k": {1}}), "A set is not JSON"),
        (lambda s: s.write_many([("k", 1)]), "Expected a Record"),
        (lambda s: s.scan(limit=0), "limit"),
    ],
)
def test_bad_input_changes_nothing(space: Any, call: Any, said: str) -> None:
    space.create("k", {"n": 1})
    space.create("list", [1])
    before = space.position()
    with pytest.raises(interlock.Invalid, match=said):
        call(space)
    assert space.position() == before


def test_contributions_are_added_in_one_commit_and_in_order(space: Any) -> None:
    entries = space.append_many("found", ["a", "b", "c"], op_id="all")
    assert [entry.value for entry in entries] == ["a", "b", "c"]
    assert {entry.op_id for entry in entries} == {"all"}
    assert list(space.history("found")) == entries
    assert space.append_many("found", ["a", "b", "c"], op_id="all") == entries
    assert space.read("found").value == ["a", "b", "c"]
    with pytest.raises(interlock.Invalid, match="already belongs to another operation"):
        space.append_many("found", ["a", "b", "x"], op_id="all")
    assert space.append_many("found", []) == []


def test_several_keys_are_written_in_one_commit_or_not_at_all(space: Any) -> None:
    made = space.create_many({"b": 2, "a": 1})
    assert {key: record.value for key, record in made.items()} == {"a": 1, "b": 2}
    with pytest.raises(interlock.Conflict):
        space.create_many({"c": 3, "a": 1})
    assert not space.read("c").exists
    written = space.write_many([(made["a"], 10), (made["b"], 20)])
    assert written == space.read_many(["a", "b"])
    ops = [entry.op_id for entry in space.log() if entry.key in "ab"][-2:]
    assert ops[0] == ops[1]
    with pytest.raises(interlock.Conflict):
        space.write_many([(written["a"], 11), (made["b"], 21)])
    assert space.read("a") == written["a"]


def test_a_scan_in_pages_finds_every_key_once(space: Any) -> None:
    space.create_many({f"page/{n}": n for n in range(5)})
    space.delete(space.read("page/3"))
    pages, after = [], None
    while page := space.scan("page/", after=after, limit=2):
        pages.append([record.value for record in page.values()])
        after = [*page][-1]
    assert pages == [[0, 1], [2, 4]]


def test_a_write_that_changes_nothing_makes_no_entry_unless_asked_to(space: Any) -> None:
    record = space.create("k", SEAT)
    before = space.position()
    assert space.write(record, dict(SEAT)) == record
    assert space.update("k", lambda value: value) == record
    assert space.update("k", lambda value: value, turns="always") == record
    assert space.patch("k", {"hold": True}) == record
    assert space.update_fields("k", {"hold": True}, remove=["none"]) == record
    assert space.position() == before
    assert space.write(record, SEAT, touch=True).version == 2
    assert space.update("k", lambda value: value, touch=True).version == 3
    assert space.write(space.read("k"), SEAT, op_id="mine").version == 4
    assert space.outcome("mine") is not None
    assert space.patch("k", {"hold": True}, op_id="too").version == 5


def test_a_write_that_changes_nothing_is_judged_nevertheless(space: Any) -> None:
    record = space.create("k", 1)
    space.update("k", lambda _: 2)
    with pytest.raises(interlock.Conflict) as refused:
        space.write(record, 1)
    assert refused.value.record.value == 2
    fresh = space.read("k")
    space.reclaim("k")
    with pytest.raises(interlock.Fenced):
        space.write(fresh, 2)
    private = space.read("agent/somebody/k")
    with pytest.raises(interlock.Forbidden):
        space.write(private, None)


def test_an_update_that_changes_nothing_gives_its_turn_up(space: Any) -> None:
    space.create("k", 1)
    space.update("k", lambda value: value, turns="always")
    assert space.update("k", lambda value: value + 1, turns="always", patience=0.0).value == 2


def test_a_leased_key_is_updated_by_a_function(space: Any) -> None:
    space.create("k", {"n": 1})

    def counted(value: Any) -> Any:
        value["n"] += 1
        return value

    with space.lease("k") as lease:
        assert lease.update(counted).value == {"n": 2}
        assert lease.update(counted) == space.read("k")
        with pytest.raises(interlock.Invalid, match="is a return missing"):
            lease.update(lambda value: None)
        assert not lease.update(lambda value: interlock.DELETE).exists


def test_a_part_of_a_leased_key_is_changed(space: Any) -> None:
    space.create("k", SEAT)
    with space.lease("k") as lease:
        patched = lease.patch({"seat": {"row": 14}, "hold": None})
        assert patched.value == {"status": "PENDING", "seat": {"row": 14, "letter": "A"}}
        changed = lease.update_fields({"seat": None, "gate": 3}, remove=["status"])
        assert changed.value == lease.value == {"seat": None, "gate": 3}
        assert lease.patch({"gate": 3}).version == changed.version == 3
        assert lease.patch({"gate": 3}, op_id="asked").version == 4
        end = space.position()
        calls: list[Callable[[], Any]] = [
            lambda: lease.patch({}),
            lambda: lease.patch(3),
            lambda: lease.update_fields({}),
            lambda: lease.update_fields({"a": 1}, remove=["a"]),
            lambda: lease.update_fields({"a": 1}, remove=[3]),
        ]
        for call in calls:
            with pytest.raises(interlock.Invalid):
                call()
    with space.lease("new") as lease, pytest.raises(interlock.Invalid, match="does not exist"):
        lease.patch({"a": 1})
    space.append("found", {"a": 1})
    with space.lease("found") as lease, pytest.raises(interlock.Forbidden, match="use append"):
        lease.patch({"a": 2})
    assert space.position() == end + 1
    with pytest.raises(interlock.Invalid, match="released"):
        lease.patch({"a": 1})


def test_an_update_under_a_lease_never_overwrites_what_its_lease_wrote_meanwhile(
    space: Any,
) -> None:
    space.create("k", {"n": 0})
    with space.lease("k") as lease:

        def decide(value: Any) -> Any:
            lease.write({"n": 0, "inner": True})
            return {"n": value["n"] + 1}

        with pytest.raises(interlock.Conflict):
            lease.update(decide)
        assert lease.update(lambda value: {**value, "n": 1}).value == {"n": 1, "inner": True}
        with pytest.raises(interlock.Conflict):
            lease.update(lambda _: (lease.write({"n": 2}), interlock.DELETE)[1])
    assert space.read("k").value == {"n": 2}


def test_writes_of_several_keys_refuse_what_would_lose_a_value(space: Any) -> None:
    record = space.create("k", 1)
    wrong: Any
    for wrong in ([(record, 2), (record, 3)], {"k": 2}, None, ["ab"], [(record, 2, 3)], [("k", 2)]):
        with pytest.raises(interlock.Invalid):
            space.write_many(wrong)
    for wrong in ("text", {"n": 1}, None):
        with pytest.raises(interlock.Invalid, match="list of contributions"):
            space.append_many("found", wrong)
    for wrong in ([("a", 1)], None):
        with pytest.raises(interlock.Invalid, match="values by key"):
            space.create_many(wrong)
    for wrong in (5, [["hold"]], [1]):
        with pytest.raises(interlock.Invalid, match="as texts"):
            space.update_fields("k", {}, remove=wrong)
    assert space.read_many(["k", "found", "a"])["k"] == record
    assert len(list(space.log(prefix="found"))) == 0
