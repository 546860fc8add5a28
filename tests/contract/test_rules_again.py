"""Rules, machines, merged keys and leases where things change underneath: found by attack."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from interlock.core.append import FOLD_EVERY
from tests.facades import Facades


def test_a_reader_with_old_rules_folds_by_the_ones_in_force(facades: Facades) -> None:
    """And keeps no fold of its own for the others."""
    early = facades.open("early", rules={"f": interlock.merged("maximum")})
    late = facades.open("late")
    late.apply_rules({"f": interlock.merged("counter")})
    late.transact(lambda tx: [tx.append("f", 1) for _ in range(250)][-1])
    assert early.read("f").value == 250
    assert late.read("f").value == 250
    assert facades.open("fresh").read("f").value == 250


def test_guards_of_two_machines_may_have_one_name(facades: Facades) -> None:
    def machine(name: str, verdict: Any) -> interlock.Machine:
        def guard(old: Any, new: Any, agent: str) -> Any:
            return verdict

        return interlock.Machine(name, "s", "o", {"o": ["p"]}, guards={"p": guard})

    strict, lenient = machine("strict", "never"), machine("lenient", True)
    rules = {
        "a/*": interlock.guarded(machine=strict),
        "b/*": interlock.guarded(machine=lenient),
    }
    space = facades.open(rules=rules)
    space.create("a/1", {"s": "o"})
    space.create("b/1", {"s": "o"})
    with pytest.raises(interlock.IllegalTransition, match="never"):
        space.transition("a/1", "p")
    assert space.transition("b/1", "p").version == 2
    twins = {**rules, "c/*": interlock.guarded(machine=machine("strict", True))}
    with pytest.raises(interlock.Invalid, match="Two different machines"):
        space.apply_rules(twins)


def test_a_dry_run_changes_no_guard(facades: Facades) -> None:
    def machine(verdict: Any) -> interlock.Machine:
        def guard(old: Any, new: Any, agent: str) -> Any:
            return verdict

        return interlock.Machine("m", "s", "o", {"o": ["p"]}, guards={"p": guard})

    space = facades.open(rules={"a": interlock.guarded(machine=machine("no"))})
    space.create("a", {"s": "o"})
    space.apply_rules({"a": interlock.guarded(machine=machine(True))}, dry_run=True)
    with pytest.raises(interlock.IllegalTransition, match="no"):
        space.transition("a", "p")


def test_a_narrower_rule_over_values_of_a_wider_one_is_checked(facades: Facades) -> None:
    wide = {"f/**": interlock.merged("append"), "b/*": interlock.guarded(machine=interlock.BOOKING)}
    space = facades.open(rules={**wide, "b/x": interlock.guarded()})
    space.append("f/x", 1)
    space.create("b/x", "junk")
    for rules in ({**wide, "b/x": interlock.guarded(), "f/x": interlock.guarded()}, wide):
        with pytest.raises(interlock.Invalid, match="breaks them"):
            space.apply_rules(rules)
    with pytest.raises(interlock.Invalid, match="breaks them"):
        facades.open("other", rules={"f/x": interlock.guarded()})
    assert space.read("f/x").value == [1]


def test_a_view_from_a_transaction_does_not_fool_the_machine(facades: Facades) -> None:
    space = facades.open(rules={"b": interlock.guarded(machine=interlock.BOOKING)})
    space.create("b", {"status": "PENDING"})
    cancelled = space.transition("b", "CANCELLED")
    tx = space.transaction()
    tx.delete(tx.read("b"))
    view = tx.read("b")
    assert not view.exists
    with pytest.raises(interlock.IllegalTransition):
        space.write(view, {"status": "PENDING"})
    assert space.read("b") == cancelled


def test_what_a_transaction_creates_and_deletes_was_never_there(facades: Facades) -> None:
    space = facades.open()

    def change(tx: Any) -> None:
        tx.create("k", 1)
        tx.create("z", 1)
        tx.delete(tx.read("k"))

    space.transact(change)
    assert [entry.key for entry in space.log()] == ["z"]


def test_an_old_operation_sent_again_does_not_disturb_a_lease(facades: Facades) -> None:
    space = facades.open("us")
    with space.lease("job") as lease:
        first = lease.write("step 1", op_id="job/1")
    with space.lease("job") as lease:
        assert lease.write("step 1", op_id="job/1") == first
        assert lease.epoch == first.epoch + 1
        assert lease.write("step 2").version == 2
        assert lease.write("step 1", op_id="job/1") == first
        assert lease.write("step 3").version == 3
    assert facades.open("them").update("job", lambda _: "theirs").version == 4


def test_a_lease_that_was_given_up_can_be_taken_again_and_is_renewed(facades: Facades) -> None:
    space = facades.open("us", rules={"r": interlock.leased()})
    lease = space.lease("r", 30)
    with lease:
        lease.write(1)
    calls: list[Callable[[], Any]] = [
        lambda: lease.write(2),
        lambda: lease.delete(),
        lambda: lease.renew(),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid, match="was released"):
            call()
    with lease:
        assert lease.write(2).version == 2
        for ttl in (-5, float("inf"), float("nan"), "x", 0):
            with pytest.raises(interlock.Invalid, match="ttl"):
                lease.renew(ttl)
        lease.renew(60)


def test_a_transaction_that_cannot_fold_raises(facades: Facades) -> None:
    def keep(value: Any, item: Any) -> Any:
        return item

    mine = interlock.merged(interlock.Reducer("mine", keep))
    theirs, ours = facades.open("theirs", rules={"x/f": mine}), facades.open("ours")
    theirs.append("x/f", 1)
    with pytest.raises(interlock.Invalid, match="does not know"):
        ours.transact(lambda tx: tx.create("k", len(tx.scan("x/"))))
    assert not ours.read("k").exists
    assert theirs.apply_rules(theirs.rules) == theirs.rules, "its code is known here"


def test_every_way_to_write_learns_of_new_rules(facades: Facades) -> None:
    early = facades.open("early")
    early.create("b", {"status": "PENDING"})
    stale = early.read("d")
    facades.open(
        "late",
        rules={
            "f": interlock.merged("append"),
            "b": interlock.guarded(machine=interlock.BOOKING),
            "d": interlock.guarded(on_conflict="rebase"),
        },
    ).create("d", {"a": 1})
    early.transact(lambda tx: tx.append("f", 1))
    assert early.read("f").value == [1]
    again = facades.peer("again")
    again.session.writer.book.load(0, {})
    assert again.transition("b", "CANCELLED").version == 2
    again.session.writer.book.load(0, {})
    record = again.read("d")
    again.write(record, {"a": 1, "b": 2})
    again.session.writer.book.load(0, {})
    assert again.write(record, {"a": 1, "c": 3}).value == {"a": 1, "b": 2, "c": 3}
    again.close()
    assert stale.version == 0


def test_contributions_that_cannot_be_folded_are_refused_or_named(facades: Facades) -> None:
    def fails(value: Any, item: Any) -> Any:
        raise ZeroDivisionError("boom")

    space = facades.open(
        rules={
            "n": interlock.merged("counter"),
            "x": interlock.merged(interlock.Reducer("fails", fails)),
        }
    )
    for item in (10**400, 1e101, -(10**200)):
        with pytest.raises(interlock.Invalid, match="beyond"):
            space.append("n", item)
    space.transact(lambda tx: [tx.append("x", 1) for _ in range(FOLD_EVERY - 1)][-1])
    assert space.append("x", 1).version == FOLD_EVERY, "committed, whoever can fold it"
    with pytest.raises(interlock.Invalid, match="'fails' raised ZeroDivisionError: boom"):
        space.read("x")


def test_who_reads_after_a_reclaim_is_not_fenced_by_the_next_write(facades: Facades) -> None:
    space = facades.open("us")
    space.create("k", 0)
    space.reclaim("k")
    one, two = space.read("k"), space.read("k")
    space.write(one, 1)
    with pytest.raises(interlock.Conflict):
        space.write(two, 2)


def test_a_moment_is_folded_by_the_rules_of_then(facades: Facades) -> None:
    space = facades.open(rules={"f": interlock.merged("counter")})
    for n in (1, 2):
        space.append("f", n)
    then = space.position()
    space.delete(space.read("f"))
    space.apply_rules({"f": interlock.merged("append")})
    space.append("f", 5)
    assert space.at(position=then).read("f").value == 3
    assert space.at(position=then).scan()["f"].value == 3
    assert space.read("f").value == [5]
    space.delete(space.read("f"))
    space.apply_rules({})
    assert space.at(position=then).read("f").value == 3


@pytest.mark.interlock_needs("fork", "shared")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # on purpose
def test_a_forked_child_does_not_give_up_the_lease(sync_facades: Facades) -> None:
    space = sync_facades.open("us")
    with space.lease("k", 30) as lease:
        pid = os.fork()
        if pid == 0:
            try:
                lease.release()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        with pytest.raises(interlock.Held):
            sync_facades.peer("them").create("k", 1)
        assert lease.write(1).version == 1
