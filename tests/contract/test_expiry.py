"""Keys that expire: gone for readers by the store's clock, never a false acknowledgement, swept by
whoever trims."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import interlock
from tests.facades import Facades

SOON = 0.05  # seconds
MACHINE = interlock.Machine(
    "job", field="state", initial="new", transitions={"new": ["done"], "done": []}
)


def gone(space: Any, *records: interlock.Record) -> None:
    """Wait until the store's clock has come to when records expire."""
    for record in records:
        assert record.expires_at is not None
        assert record.at is not None
        while space.time() <= record.expires_at:
            pass


def made(space: Any, key: str, value: Any = 1) -> interlock.Record:
    """Create a key, and wait until it has expired; return it as it was written."""
    record: interlock.Record = space.create(key, value, expires=SOON)
    gone(space, record)
    return record


def test_an_expired_key_is_gone_for_readers(space: Any) -> None:
    space.create("k/stays", 0)
    short = space.create("k/short", {"n": 1}, expires=SOON)
    long = space.create("k/long", 2, expires=1000)
    assert (short.exists, short.expired) == (True, False)
    assert short.expires_at == short.at + timedelta(seconds=SOON)
    gone(space, short)
    found = space.read("k/short")
    assert (found.exists, found.value, found.expired) == (False, None, True)
    assert (found.version, found.epoch, found.writer) == (1, 0, short.writer)
    assert found.expires_at == short.expires_at
    assert space.read("k/long") == long
    assert not space.read_many(["k/short", "k/long"])["k/short"].exists
    assert [*space.scan("k/")] == ["k/long", "k/stays"]
    assert [info.key for info in space.list_keys("k/")] == ["k/long", "k/stays"]
    with space.transaction() as tx:
        assert not tx.read("k/short").exists
        assert [*tx.scan("k/")] == ["k/long", "k/stays"]
    assert [entry.version for entry in space.history("k/short")] == [1], "nobody has swept"


def test_the_past_shows_what_was_there(space: Any) -> None:
    short = made(space, "k/short", {"n": 1})
    after = space.time()
    was = space.at(time=short.at)
    assert was.read("k/short").value == {"n": 1}
    assert [*was.scan("k/")] == ["k/short"]
    then = space.at(time=after)
    assert not then.read("k/short").exists
    assert not then.scan("k/")
    assert space.at(position=short.position).read("k/short").value == {"n": 1}
    assert [*space.at(position=short.position).scan("k/")] == ["k/short"]


def test_what_expired_after_it_was_read_conflicts(space: Any, other: Any) -> None:
    record = made(space, "k", 1)
    later = space.create("later", 1)
    calls: list[Callable[[], Any]] = [
        lambda: other.write(record, 2),
        lambda: other.delete(record),
        lambda: other.write(record, 1, touch=True),
        lambda: other.write_many([(later, 2), (record, 2)]),
    ]
    for call in calls:
        with pytest.raises(interlock.Conflict, match="expired") as refused:
            call()
        assert refused.value.record == space.read("k")

    def expecting() -> None:
        with space.transaction() as tx:
            tx.expect(record)
            tx.create("elsewhere", 1)

    def writing_over_another_reading() -> None:
        with space.transaction() as tx:
            assert not tx.read("k").exists
            tx.write(record, 2)

    for call in (expecting, writing_over_another_reading):
        with pytest.raises(interlock.Conflict):
            call()
    assert space.read("later").value == 1
    assert not space.read("elsewhere").exists


def test_what_expired_after_it_was_scanned_conflicts(space: Any) -> None:
    space.create("k/b", 1)

    def sums(seconds: float) -> bool:
        record = space.update("k/a", lambda _: seconds, expires=seconds)
        with space.transaction() as tx:
            seen = tx.scan("k/")
            gone(space, record)
            if len(seen) == 2:
                tx.create("sum", 2)
        return len(seen) == 2

    def summing() -> None:
        assert any(sums(seconds) for seconds in (0.05, 0.5, 5.0)), "it was too slow to be seen"

    with pytest.raises(interlock.Conflict):
        summing()
    assert not space.read("sum").exists
    with space.transaction() as tx:
        tx.create("sum", len(tx.scan("k/")))
    assert space.read("sum").value == 1


def test_an_expired_key_can_be_created_and_written_again(space: Any, other: Any) -> None:
    made(space, "k")
    assert (space.create("k", 2, expires=SOON).version) == 2
    gone(space, space.history("k") and space.read("k"))
    read = space.read("k")
    assert space.write(read, 3).version == 3
    with pytest.raises(interlock.Conflict):
        other.write(read, 4)
    with pytest.raises(interlock.Conflict):
        other.create("k", 4)
    made(space, "x")
    with space.transaction() as tx:
        tx.create("x", 5)
        tx.write(tx.read("x"), 6)
    assert (space.read("x").value, space.read("x").version) == (6, 2)
    made(space, "y")
    with space.transaction() as tx:
        tx.write(tx.read("y"), 5)
        tx.write(tx.read("y"), 6)
    assert space.update("y", lambda n: n + 1).value == 7
    made(space, "z")
    assert space.update("z", lambda n: n or "new", expires=1000).value == "new"
    assert space.read("z").expires_at > space.time()
    with pytest.raises(interlock.Invalid, match="does not exist"):
        space.delete(space.read(made(space, "w").key))
    with pytest.raises(interlock.Invalid, match="does not exist"):
        space.patch("w", {"a": 1})


def test_a_write_without_an_expiry_stays(space: Any) -> None:
    first = space.create("k", {"n": 1}, expires=1000)
    assert space.write(first, {"n": 1}).expires_at is None, "written, though the value is the same"
    again = space.write(space.read("k"), {"n": 1}, expires=1000)
    assert again.version == 3
    assert space.write(again, {"n": 1}, expires=1000).version == 4, "a fresh expiry is written"
    assert space.patch("k", {"n": 2}).expires_at is None
    assert space.read("k").expires_at is None


@pytest.mark.interlock_space(
    rules={
        "s/*": interlock.guarded(expires=1000),
        "s/long": interlock.guarded(expires=5000),
        "own/{agent}": interlock.private(expires=1000),
        "**": interlock.guarded(),
    }
)
def test_a_rule_says_when_values_expire(space: Any) -> None:
    def lasts(record: interlock.Record) -> float:
        assert record.expires_at is not None
        assert record.at is not None
        return (record.expires_at - record.at).total_seconds()

    record = space.create("s/a", 1)
    assert lasts(record) == 1000
    assert lasts(space.write(record, 2, expires=60)) == 60
    assert lasts(space.update("s/a", lambda n: n + 1)) == 1000, "as the rule says again"
    assert lasts(space.create("s/long", 1)) == 5000
    assert lasts(space.create(f"own/{space.agent}", 1)) == 1000
    with space.transaction() as tx:
        tx.create("s/b", 1)
        tx.create("s/c", 1, expires=60)
        tx.create("d", 1)
    assert lasts(space.read("s/b")) == 1000
    assert lasts(space.read("s/c")) == 60
    assert space.read("d").expires_at is None
    with space.lease("d") as lease:
        assert lasts(lease.write(2, expires=60)) == 60


def test_bad_expiries_change_nothing(space: Any) -> None:
    record = space.create("k", 1)
    calls: list[Callable[[Any], Any]] = [
        lambda wrong: space.write(record, 2, expires=wrong),
        lambda wrong: space.create("new", 2, expires=wrong),
        lambda wrong: space.update("k", lambda n: n + 1, expires=wrong),
        lambda wrong: space.apply_rules({"k": interlock.guarded(expires=wrong)}),
    ]
    for wrong in (0, -1, True, "60", float("nan"), float("inf"), 1e12, 0.0001):
        for call in calls:
            with pytest.raises(interlock.Invalid, match="expires"):
                call(wrong)
    merged = interlock.core.rules.Rule("merged", reducer="append", expires=60)
    with pytest.raises(interlock.Invalid, match="merged"):
        space.apply_rules({"m": merged})
    assert space.read("k") == record
    assert not space.read("new").exists


@pytest.mark.interlock_space(rules={"job/*": interlock.guarded(machine=MACHINE)})
def test_a_new_life_begins_at_the_initial_state(space: Any) -> None:
    made(space, "job/1", {"state": "new"})
    with pytest.raises(interlock.IllegalTransition):
        space.transition("job/1", "done")
    record = space.transition("job/1", "new")
    assert space.transition(record, "done").value == {"state": "done"}


def test_an_operation_sent_twice_is_answered_as_before(space: Any) -> None:
    record = space.create("k", 1, op_id="one", expires=SOON)
    gone(space, record)
    assert space.create("k", 1, op_id="one", expires=SOON) == record
    assert not space.read("k").exists
    assert space.update("k", lambda n: pytest.fail("called"), op_id="one") == record


@pytest.mark.interlock_space(rules={"**": interlock.guarded(expires=1000)})
def test_a_patch_sent_twice_is_answered_as_before(space: Any) -> None:
    space.create("k", {"a": 1})
    record = space.patch("k", {"a": 2}, op_id="one")
    assert space.patch("k", {"a": 2}, op_id="one") == record
    with pytest.raises(interlock.Invalid, match="another operation"):
        space.patch("k", {"a": 3}, op_id="one")


@pytest.mark.interlock_space(agent="ann", rules={"own/{agent}": interlock.private()})
def test_whoever_trims_deletes_expired_keys(facades: Facades, space: Any) -> None:
    records = [made(space, key) for key in ("a", "own/ann", "b")]
    space.create("later", 1, expires=1000)
    read = space.read("a")
    sweeper = facades.open("bob")
    before = space.position()
    assert sweeper.trim().expired == 3
    assert sweeper.trim().expired == 0
    swept = list(space.log(after=before))
    assert sorted(entry.key for entry in swept) == sorted(record.key for record in records)
    for entry in swept:
        assert (entry.kind, entry.agent, entry.version, entry.value) == ("delete", "bob", 2, None)
        assert entry.expired
    assert not any(entry.expired for entry in space.history("later"))
    found = space.read("a")
    assert (found.exists, found.expired, found.version) == (False, False, 2)
    with pytest.raises(interlock.Conflict):
        space.write(read, 2)
    assert space.create("a", 2).version == 3
    assert space.read("later").exists


def test_a_leased_key_is_not_swept(space: Any, other: Any) -> None:
    with space.lease("k") as lease:
        gone(space, lease.write(1, expires=SOON))
        assert other.trim().expired == 0
        with pytest.raises(interlock.Conflict, match="expired"):
            lease.write(2)
        assert not lease.record.exists
        assert lease.write(3, expires=SOON).version == 2
        gone(space, lease.record)
    assert other.trim().expired == 1


def test_groups_and_watchers_learn_of_the_sweep(space: Any) -> None:
    record = made(space, "k/1")
    group = space.group("g", prefix="k/")
    space.trim()
    assert [each.entry.kind for each in group.take(10)] == ["put", "delete"]
    assert next(iter(space.watch("k/", after=record.position))).expired
