"""Transactions: reads of one moment, everything read is checked, all of it or nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest

import interlock
from tests.facades import Facades, elsewhere


def test_writes_of_a_transaction_share_one_commit(space: Any) -> None:
    with space.transaction() as tx:
        a, b = tx.read("a"), tx.read("b")
        tx.write(b, 2)
        tx.write(a, 1)
    entries = list(space.log())
    assert [(e.position, e.key) for e in entries] == [(1, "a"), (2, "b")]
    assert len({(e.op_id, e.time_us) for e in entries}) == 1
    assert tx.committed.position == 1


def test_an_exception_in_the_block_writes_nothing(space: Any) -> None:
    with pytest.raises(ZeroDivisionError), space.transaction() as tx:
        tx.write(tx.read("a"), 1 / 0)
    assert space.position() == 0


def test_a_key_that_was_only_read_is_checked(space: Any, other: Any) -> None:
    """Two doctors are on call; each may leave only while the other stays: write skew."""
    for doctor in ("alice", "bob"):
        space.create(f"on-call/{doctor}", True)
    with pytest.raises(interlock.Conflict) as refused, space.transaction() as tx:  # noqa: PT012
        alice, bob = tx.read("on-call/alice"), tx.read("on-call/bob")
        other.write(other.read("on-call/bob"), False)
        assert bob.value
        tx.write(alice, False)
    assert refused.value.key == "on-call/bob"
    assert space.read("on-call/alice").value is True


@pytest.mark.parametrize("change", ["write", "reclaim", "none"])
def test_a_record_read_before_the_transaction_is_checked(
    space: Any, other: Any, change: str
) -> None:
    space.create("fence", "mine")
    fence, absent = space.read("fence"), space.read("absent")
    if change == "write":
        other.write(other.read("fence"), "theirs")
    elif change == "reclaim":
        other.reclaim("fence")
    refused = {"write": interlock.Conflict, "reclaim": interlock.Fenced}.get(change)
    with pytest.raises(refused) if refused else nullcontext(), space.transaction() as tx:
        tx.expect(fence)
        tx.expect(absent)
        tx.create("work", 1)
    assert space.read("work").exists == (change == "none")
    assert space.read("fence").version == 1 + (change == "write")


def test_an_absent_key_that_was_read_is_checked(space: Any, other: Any) -> None:
    with pytest.raises(interlock.Conflict), space.transaction() as tx:  # noqa: PT012
        assert not tx.read("claim").exists
        other.create("claim", "theirs")
        tx.create("mine", 1)
    assert not space.read("mine").exists


@pytest.mark.parametrize("change", ["new", "changed", "deleted"])
def test_a_scanned_prefix_is_checked(space: Any, other: Any, change: str) -> None:
    space.create("task/1", "open")
    with pytest.raises(interlock.Conflict) as refused, space.transaction() as tx:  # noqa: PT012
        count = len(tx.scan("task/"))
        if change == "new":
            other.create("task/2", "open")
        elif change == "changed":
            other.write(other.read("task/1"), "done")
        else:
            other.delete(other.read("task/1"))
        tx.create("summary", count)
    assert refused.value.outcome.prefix == "task/"
    assert not space.read("summary").exists


def test_a_key_outside_the_scanned_prefix_does_not_conflict(space: Any, other: Any) -> None:
    space.create("task/1", 1)
    with space.transaction() as tx:
        tx.scan("task/")
        other.create("tasks", 1)
        other.create("other", 1)
        tx.create("summary", 1)
    assert space.read("summary").exists


def test_reads_are_one_moment_which_moves_on_while_nothing_read_has_changed(
    space: Any, other: Any
) -> None:
    space.create("a", 1)
    with space.transaction() as tx:
        tx.read("a")
        other.create("b", 2)
        assert tx.read("b").value == 2
        tx.create("sum", 3)
    with pytest.raises(interlock.Conflict) as refused, space.transaction() as tx:  # noqa: PT012
        tx.read("a")
        with other.transaction() as both:
            both.write(both.read("a"), 10)
            both.write(both.read("b"), 20)
        tx.read("b")  # a=1 with b=20 never was
    assert refused.value.key == "a"


def test_a_transaction_sees_its_own_writes(space: Any) -> None:
    space.create("k/1", 1)
    with space.transaction() as tx:
        tx.write(tx.read("k/1"), 2)
        tx.create("k/2", 3)
        assert tx.read("k/1").value == 2
        assert {key: r.value for key, r in tx.scan("k/").items()} == {"k/1": 2, "k/2": 3}
        tx.delete(tx.read("k/1"))
        assert list(tx.scan("k/")) == ["k/2"]
    assert {key: r.value for key, r in space.scan().items()} == {"k/2": 3}


def test_a_record_from_outside_is_an_expectation_too(space: Any, other: Any) -> None:
    record = space.create("k", 1)
    other.write(record, 2)
    with pytest.raises(interlock.Conflict), space.transaction() as tx:
        tx.write(record, 3)
    assert space.read("k").value == 2


def test_transact_runs_again_until_its_reads_hold(space: Any, other: Any) -> None:
    space.create("a", 10)
    space.create("b", 0)
    runs = []

    def move(tx: Any) -> str:
        a, b = tx.read("a"), tx.read("b")
        runs.append(a.value)
        if len(runs) == 1:
            elsewhere(lambda: other.write(other.read("a"), 20))
        tx.write(a, a.value - 5)
        tx.write(b, b.value + 5)
        return "moved"

    assert space.transact(move) == "moved"
    assert runs == [10, 20]
    assert (space.read("a").value, space.read("b").value) == (15, 5)


def test_transact_with_an_operation_id_moves_money_once(space: Any) -> None:
    space.create("a", 10)

    def take(tx: Any) -> None:
        a = tx.read("a")
        tx.write(a, a.value - 5)

    space.transact(take, op_id="take-5")
    assert space.transact(take, op_id="take-5") is None
    assert space.read("a").value == 5


def test_create_of_an_existing_key_is_not_retried(space: Any) -> None:
    space.create("k", 1)
    runs = []

    def claim(tx: Any) -> None:
        runs.append(1)
        tx.create("k", 2)

    with pytest.raises(interlock.Conflict):
        space.transact(claim)
    assert len(runs) == 1


def test_transact_that_only_reads_commits_nothing(space: Any) -> None:
    space.create("k", 1)
    assert space.transact(lambda tx: tx.read("k").value) == 1
    assert space.position() == 1


def test_transact_gives_up_after_its_attempts(space: Any, other: Any) -> None:
    space.create("k", 0)

    def beaten(tx: Any) -> None:
        record = tx.read("k")
        elsewhere(lambda: other.write(other.read("k"), record.value + 1))
        tx.write(record, -1)

    with pytest.raises(interlock.Contended) as refused:
        space.transact(beaten, attempts=3, turns="never")
    assert refused.value.attempts == 3
    assert space.read("k").value == 3


def test_a_transaction_that_has_ended_takes_nothing_more(space: Any) -> None:
    record = space.create("k", 1)
    with space.transaction() as tx:
        tx.read("k")
    calls: list[Callable[[], Any]] = [
        lambda: tx.write(record, 9),
        lambda: tx.create("new", 9),
        lambda: tx.delete(record),
        lambda: tx.append("new", 9),
        lambda: tx.read("k"),
        lambda: tx.__enter__(),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid, match="has ended"):
            call()
    assert space.read("k") == record


def test_two_versions_of_one_key_conflict(space: Any) -> None:
    """Otherwise what was computed from the first would be checked against the second only."""
    space.create("x", 1)

    def from_two_versions(tx: Any) -> None:
        seen = tx.read("x")
        elsewhere_write = seen._replace(version=seen.version + 1)
        tx.write(elsewhere_write, 3)

    with pytest.raises(interlock.Contended, match="Gave up on 'x'"):
        space.transact(from_two_versions, attempts=1)
    assert space.read("x").value == 1


def test_create_twice_in_one_transaction_conflicts(space: Any) -> None:
    def twice(tx: Any) -> None:
        tx.create("k", 1)
        tx.create("k", 2)

    with pytest.raises(interlock.Conflict):
        space.transact(twice)
    assert not space.read("k").exists


def test_a_key_that_was_deleted_and_created_again_can_be_written_over(space: Any) -> None:
    space.delete(space.create("a/1", 1))

    def change(tx: Any) -> None:
        tx.scan("a/")
        tx.create("a/1", 1)
        tx.write(tx.scan("a/")["a/1"], 2)

    space.transact(change)
    assert space.read("a/1").value == 2


def test_what_a_transaction_writes_over_a_deleted_key_counts_on(space: Any) -> None:
    first = space.create("k", 1)
    space.delete(first)
    with space.transaction() as tx:
        tx.create("k", 2)
        tx.create("beside", 2)
    assert space.read("k").version == 3
    with pytest.raises(interlock.Conflict):
        space.write(first, 3)


def test_a_merged_key_is_either_added_to_or_deleted(facades: Facades) -> None:
    space = facades.open(rules={"list": interlock.merged("append")})
    space.append("list", 1)
    record = space.read("list")

    def add_and_delete(tx: Any) -> None:
        tx.append("list", 2)
        tx.delete(record)

    def delete_and_add(tx: Any) -> None:
        tx.delete(record)
        tx.append("list", 2)

    for change in (add_and_delete, delete_and_add):
        with pytest.raises(interlock.Invalid, match="not both"):
            space.transact(change)
    assert space.read("list") == record


def test_transact_refuses_a_function_that_only_changed_what_it_read(space: Any) -> None:
    space.create("booking/1", {"paid": True})
    with pytest.raises(interlock.Invalid, match=r"'booking/1'.*Call tx\.write"):
        space.transact(lambda tx: tx.read("booking/1").value.update(seat="12A"))
    with pytest.raises(interlock.Invalid, match=r"'booking/1'.*Call tx\.write"):
        space.transact(lambda tx: tx.scan("booking/")["booking/1"].value.update(seat="12A"))
    assert space.transact(lambda tx: tx.read("booking/1").value.pop("paid")) is True
    assert space.transact(lambda tx: None if tx.read("booking/1").value else 1) is None
    assert space.read("booking/1").version == 1


@pytest.mark.parametrize("reads", ["read", "scan"])
def test_what_a_transaction_changed_in_place_and_does_not_write_is_refused(
    space: Any, reads: str
) -> None:
    space.create("booking/1", {"paid": True})
    space.create("booking/2", {"paid": True})

    def change(tx: Any) -> None:
        one = tx.read("booking/1") if reads == "read" else tx.scan("booking/")["booking/1"]
        one.value["seat"] = "12A"
        tx.create("other", 1)

    for refused in (lambda: space.transact(change), lambda: in_a_block(space, change)):
        with pytest.raises(interlock.Invalid, match=r"'booking/1'.*Call tx\.write"):
            refused()
    with pytest.raises(interlock.Invalid, match=r"'booking/1'.*Call tx\.write"):
        in_a_block(space, lambda tx: tx.read("booking/1").value.clear())
    assert (space.read("booking/1").version, space.read("other").exists) == (1, False)

    def write(tx: Any) -> None:
        record = tx.read("booking/1")
        record.value["seat"] = "12A"
        tx.write(record, record.value)

    space.transact(write)
    in_a_block(space, lambda tx: tx.delete(tx.read("booking/2")))
    assert space.read("booking/1").value == {"paid": True, "seat": "12A"}


def in_a_block(space: Any, change: Callable[[Any], object]) -> None:
    with space.transaction() as tx:
        change(tx)


@pytest.mark.parametrize("awaited", [False, True])
def test_writes_of_an_asyncio_transaction_need_no_await(facades: Facades, awaited: bool) -> None:
    """They are part of the commit already; code that awaits them goes on working."""

    async def check() -> list[Any]:
        rules = {"list": interlock.merged("append")}
        async with await facades.open_async() as space:
            await space.apply_rules(rules)
            changed, deleted = await space.create("a", 1), await space.create("b", 1)

            async def change(tx: interlock.AsyncTx) -> None:
                for name, *arguments in (
                    ("expect", changed),
                    ("write", changed, 2),
                    ("delete", deleted),
                    ("create", "c", 3),
                    ("append", "list", 4),
                ):
                    made = getattr(tx, name)(*arguments)
                    if awaited:
                        await made

            await space.transact(change)
            return [record.value for record in (await space.scan()).values()]

    assert facades.run(check()) == [2, 3, [4]]


@pytest.mark.parametrize("verb", ["create", "update"])
def test_transact_with_the_operation_id_of_a_single_write_is_refused(space: Any, verb: str) -> None:
    if verb == "create":
        space.create("k", 1, op_id="x")
    else:
        space.update("k", lambda _: 1, op_id="x")
    with pytest.raises(interlock.Invalid, match="belongs to another operation"):
        space.transact(lambda tx: tx.create("other", 1), op_id="x")
    assert not space.read("other").exists
