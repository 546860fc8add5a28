"""What a single write promises: one winner, a fresh record for the others, nothing half done."""

from __future__ import annotations

import os
import pickle
from typing import Any

import pytest

import interlock
from interlock import settings
from tests.facades import Facades

STEPS = interlock.Machine("steps", "state", "A", {"A": ["B"]})


def test_a_key_that_was_never_written_has_version_zero(space: Any) -> None:
    record = space.read("booking/1")
    assert (record.version, record.epoch, record.value, record.exists) == (0, 0, None, False)
    assert (record.writer, record.at) == (None, None)


def test_a_write_is_read_back_with_version_writer_and_time(space: Any) -> None:
    written = space.write(space.read("booking/1"), {"seat": "12A"})
    assert space.read("booking/1") == written
    assert (written.version, written.writer, written.value) == (1, "tester", {"seat": "12A"})
    assert written.at.utcoffset().total_seconds() == 0


def test_of_two_writes_from_one_record_the_second_is_refused_with_the_fresh_record(
    facades: Facades,
) -> None:
    ours, theirs = facades.open("us"), facades.open("them")
    record = ours.read("booking/1")
    fresh = theirs.write(record, "theirs")
    with pytest.raises(interlock.Conflict) as refused:
        ours.write(record, "ours")
    conflict = refused.value
    assert conflict.retryable
    assert (conflict.key, conflict.expected, conflict.actual) == ("booking/1", 0, 1)
    assert (conflict.record, conflict.writer, conflict.at) == (fresh, "them", fresh.at)
    assert ours.read("booking/1") == fresh
    assert ours.position() == 1


def test_a_refusal_survives_pickling_between_processes(space: Any) -> None:
    record = space.read("k")
    space.write(record, 1)
    with pytest.raises(interlock.Conflict) as refused:
        space.write(record, 2)
    copy = pickle.loads(pickle.dumps(refused.value))
    assert (type(copy), copy.record, str(copy)) == (
        interlock.Conflict,
        refused.value.record,
        str(refused.value),
    )


def test_create_makes_a_key_once(space: Any) -> None:
    assert space.create("k", 1).version == 1
    with pytest.raises(interlock.Conflict) as refused:
        space.create("k", 2)
    assert refused.value.expected is None
    assert space.read("k").value == 1


def test_a_deleted_key_keeps_its_version_and_an_old_record_never_matches_again(space: Any) -> None:
    first = space.create("k", "old")
    gone = space.delete(first)
    assert (gone.version, gone.exists, gone.value) == (2, False, None)
    assert space.read("k") == gone
    again = space.create("k", "new")
    assert again.version == 3
    for stale in (first, gone):
        with pytest.raises(interlock.Conflict):
            space.write(stale, "zombie")
    assert space.read("k") == again


def test_deleting_what_is_not_there_is_invalid(space: Any) -> None:
    with pytest.raises(interlock.Invalid, match="does not exist"):
        space.delete(space.read("k"))


def test_a_tombstone_can_be_written_over(space: Any) -> None:
    gone = space.delete(space.create("k", 1))
    assert space.write(gone, 2).version == 3


def test_null_is_a_value(space: Any) -> None:
    record = space.write(space.read("k"), None)
    assert record.exists
    assert space.read("k").exists
    assert list(space.scan()) == ["k"]


def test_read_many_and_scan_name_what_they_found(space: Any) -> None:
    for key in ("a/1", "a/2", "b/1"):
        space.create(key, key)
    space.delete(space.read("a/2"))
    assert {k: r.version for k, r in space.read_many(["b/1", "a/2", "c"]).items()} == {
        "b/1": 1,
        "a/2": 2,
        "c": 0,
    }
    assert list(space.scan("a/")) == ["a/1"]
    assert list(space.scan()) == ["a/1", "b/1"]


def test_the_same_operation_twice_is_applied_once_and_answers_twice_the_same(space: Any) -> None:
    record = space.read("k")
    first = space.write(record, 1, op_id="charge-1")
    assert space.write(record, 1, op_id="charge-1") == first
    assert space.position() == 1
    assert space.outcome("charge-1").position == 1
    assert space.outcome("charge-2") is None


def test_one_operation_id_for_two_operations_is_invalid(space: Any) -> None:
    record = space.write(space.read("k"), 1, op_id="charge-1")
    with pytest.raises(interlock.Invalid, match="already belongs to"):
        space.write(record, 2, op_id="charge-1")
    with pytest.raises(interlock.Invalid, match="already belongs to"):
        space.create("other", 1, op_id="charge-1")
    assert space.position() == 1


def test_an_epoch_that_moved_fences_a_writer_whose_version_still_matches(space: Any) -> None:
    record = space.create("k", 1)
    with pytest.raises(interlock.Fenced) as refused:
        space.write(record._replace(epoch=7), 2)
    assert not refused.value.retryable
    assert (refused.value.held, refused.value.current) == (7, 0)
    assert space.read("k") == record


def test_spaces_of_one_store_share_nothing(facades: Facades) -> None:
    red, blue = facades.open(space="red"), facades.open(space="blue")
    record = red.create("k", 1)
    assert not blue.read("k").exists
    assert blue.position() == 0
    with pytest.raises(interlock.Invalid, match="another space"):
        blue.write(record, 2)
    assert blue.create("k", 2).position == 1


def test_an_operation_id_of_another_agent_is_refused(facades: Facades) -> None:
    rules = {"list": interlock.merged("append"), "job": interlock.guarded(machine=STEPS)}
    space, theirs = facades.open("us", rules=rules), facades.peer("them")
    done = theirs.create("k", 1, op_id="x")
    theirs.create("job", {"state": "A"}, op_id="job-1")

    def never(value: Any) -> Any:
        raise AssertionError("it must not think")

    calls: tuple[Any, ...] = (
        lambda: space.create("k", 1, op_id="x"),
        lambda: space.write(done._replace(version=0), 1, op_id="x"),
        lambda: space.update("k", never, op_id="x"),
        lambda: space.transact(never, op_id="x"),
        lambda: space.transition("job", "A", op_id="job-1"),
    )
    for call in calls:
        with pytest.raises(interlock.Invalid, match="already belongs to an operation of 'them'"):
            call()
    with (
        pytest.raises(interlock.Invalid, match="operation of 'them'"),
        space.transaction(op_id="x") as tx,
    ):
        tx.write(done, 1)
    with space.lease("k") as lease, pytest.raises(interlock.Invalid, match="operation of 'them'"):
        lease.write(1, op_id="x")
    assert (space.outcome("x").agent, space.read("k").version) == ("them", 1)
    once = theirs.append("list", {"found": 1}, id="1")
    assert space.append("list", {"found": 1}, id="1") == once  # one contribution, whoever adds it


def test_who_has_no_name_may_send_the_operation_of_an_earlier_process_again(
    facades: Facades, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = facades.peer()
    made = first.create("k", 1, op_id="x")
    monkeypatch.setattr(settings, "default_agent", lambda host: f"{host}:{os.getpid() + 1}")
    again = facades.peer()
    assert again.agent != first.agent
    assert again.create("k", 1, op_id="x") == made
    with pytest.raises(interlock.Invalid, match="already belongs to an operation of"):
        facades.open("named").create("k", 1, op_id="x")


def test_transition_with_the_operation_id_of_another_key_is_refused(facades: Facades) -> None:
    space = facades.open(rules={"job/*": interlock.guarded(machine=STEPS)})
    space.create("job/1", {"state": "A"})
    space.create("job/2", {"state": "A"})
    moved = space.transition("job/1", "B", op_id="move")
    assert space.transition("job/1", "B", op_id="move") == moved
    with pytest.raises(interlock.Invalid, match="belongs to another operation"):
        space.transition("job/2", "B", op_id="move")
    assert space.read("job/2").value == {"state": "A"}


def test_keys_are_listed_in_pages_without_values(space: Any) -> None:
    names = ["a", "b/1", "b/2", "b/é", "b/\U0001f680", "c"]
    for name in reversed(names):
        space.create(name, {"name": name})
    gone = space.create("b/gone", 1)
    space.delete(gone)
    space.lease("b/leased", ttl=30).acquire()  # a key that was never written
    assert [each.key for each in space.list_keys()] == names
    found, after = [], None
    while page := space.list_keys("b/", after=after, limit=2):
        assert len(page) <= 2
        found += page
        after = page[-1].key
    assert [each.key for each in found] == names[1:-1]
    for info in found:
        record = space.read(info.key)
        assert info == interlock.KeyInfo(
            key=record.key,
            version=record.version,
            epoch=record.epoch,
            writer=record.writer,
            time_us=record.time_us,
            position=record.position,
        )
        assert info.at == record.at
    assert space.list_keys("b/", after="a", limit=1)[0].key == "b/1"
    assert space.list_keys("b/", after="c") == []
    assert space.list_keys("nothing/") == []
    ever = space.list_keys("b/", deleted=True)
    assert [each.key for each in ever] == ["b/1", "b/2", "b/gone", *names[3:-1]]
    assert space.list_keys("b/", after="b/2", limit=1, deleted=True)[0].version == gone.version + 1


def test_merged_keys_are_listed(facades: Facades) -> None:
    space = facades.open("us", rules={"found": interlock.merged("append")})
    space.append("found", 1)
    space.append("found", 2)
    assert [(each.key, each.version, each.writer) for each in space.list_keys()] == [
        ("found", 2, "us")
    ]


@pytest.mark.any_store
@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1.5}, {"after": ""}, {"prefix": "a*"}])
def test_a_wrong_page_of_keys_is_refused(space: Any, wrong: Any) -> None:
    with pytest.raises(interlock.Invalid):
        space.list_keys(**wrong)
