"""Guarded, leased, merged and machine keys under every schedule of three agents, with one crash,
one lost reply and one reclaim (by a fourth, the supervisor).

The numbers are pinned, as in `test_explore`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

import interlock
from interlock import Space, Tx
from interlock.backends.sqlite.commit import Step
from interlock.core import rules, write
from interlock.core.refusals import Refusal
from interlock.core.transact import Transaction
from interlock.core.writer import Writer
from interlock.verify import View, Violation, explore
from tests.verify.conftest import Pin
from tests.verify.test_explore_mutants import mutate

TTL = 5.0  # seconds; less than a stall


def reclaims(space: Space) -> Any:
    return space.reclaim("k")


def increments(space: Space) -> Any:
    return space.update("k", lambda n: n + 1, default=0, turns="never")


def writes_with_a_lease(space: Space) -> Any:
    with space.lease("k", TTL, wait=0) as lease:
        return lease.write([*(lease.value or []), space.agent])


def every_write_counts(view: View) -> str | None:
    writes, count = len(view.log("k")), view.read("k").value or 0
    return None if writes == count else f"{writes} writes, but the count is {count}"


def every_holder_builds_on_the_one_before(view: View) -> str | None:
    names = [entry.agent for entry in view.log("k")]
    value = view.read("k").value or []
    return None if value == names else f"written by {names}, but the value is {value}"


def nobody_writes_after_being_fenced(view: View) -> str | None:
    """Epochs never fall along the log of a key."""
    epochs = [entry.epoch for entry in view.log("k")]
    return None if epochs == sorted(epochs) else f"written at epochs {epochs}"


@pytest.mark.slow
def test_guarded_keys_with_a_reclaim(pin: Pin) -> None:
    explored = explore(
        {**dict.fromkeys("abc", increments), "supervisor": reclaims},
        invariants=(every_write_counts, nobody_writes_after_being_fenced),
    )
    pin("update: three agents and a reclaim", explored, (9_950_094, 33_215))


@pytest.mark.parametrize(
    ("agents", "stalls", "pinned"),
    [
        ("ab", 0, (5_082, 2_693)),
        pytest.param("abc", 0, (169_368, 43_917), marks=pytest.mark.slow),
        pytest.param("ab", 1, (45_598, 12_808), marks=pytest.mark.slow),
    ],
)
def test_leased_keys_with_a_reclaim(
    pin: Pin, agents: str, stalls: int, pinned: tuple[int, int]
) -> None:
    """A stall is longer than a lease lasts: it expires while its holder works."""
    explored = explore(
        {**dict.fromkeys(agents, writes_with_a_lease), "supervisor": reclaims},
        setup=lambda space: space.apply_rules({"k": interlock.leased()}),
        invariants=(every_holder_builds_on_the_one_before, nobody_writes_after_being_fenced),
        stalls=stalls,
    )
    pin(f"lease: {len(agents)} agents and a reclaim, {stalls} stalls", explored, pinned)


def contributes(space: Space) -> Any:
    return space.append("k", space.agent, id=space.agent)


def no_contribution_is_lost_or_doubled(view: View) -> str | None:
    value = view.read("k").value or []
    told = [agent for agent, commits in view.acknowledged.items() if commits]
    missing = sorted(set(told) - set(value))
    if missing or len(set(value)) < len(value):
        return f"{told} were acknowledged, and the value is {value}"
    return None


def test_merged_keys_with_a_reclaim(pin: Pin) -> None:
    explored = explore(
        {**dict.fromkeys("abc", contributes), "supervisor": reclaims},
        setup=lambda space: space.apply_rules({"k": interlock.merged("append")}),
        invariants=no_contribution_is_lost_or_doubled,
    )
    pin("append: three agents and a reclaim", explored, (2_172, 2_260))


def test_without_the_operation_id_a_contribution_counts_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Step, "_applied", lambda step, plan: None)
    with pytest.raises(Violation, match="a contribution counts once"):
        explore(
            {"a": contributes},
            setup=lambda space: space.apply_rules({"k": interlock.merged("append")}),
            invariants=a_contribution_counts_once,
            always=(),
        )


def a_contribution_counts_once(view: View) -> bool:
    return len(view.read("k").value or []) <= 1


def books(space: Space) -> None:
    space.apply_rules({"k": interlock.guarded(machine=interlock.BOOKING)})
    space.create("k", {"status": "PENDING_PAYMENT"})


def pays(space: Space) -> Any:
    return space.transition("k", "COMPLETED")


def cancels(space: Space) -> Any:
    return space.transition("k", "CANCELLED")


def fails(space: Space) -> Any:
    return space.transition("k", "FAILED")


def the_machine_is_obeyed(view: View) -> str | None:
    states = [entry.value["status"] for entry in view.log("k")]
    for before, after in pairwise(states):
        if after not in interlock.BOOKING.targets(before):
            return f"it went {' -> '.join(states)}"
    return None


def test_machine_keys_with_a_reclaim(pin: Pin) -> None:
    explored = explore(
        {"cashier": pays, "guest": cancels, "bank": fails, "supervisor": reclaims},
        setup=books,
        invariants=the_machine_is_obeyed,
    )
    pin("transition: three agents and a reclaim", explored, (345_633, 11_087))


def moves_money(space: Space) -> None:
    def move(tx: Tx) -> None:
        a, b = tx.read("account/a"), tx.read("account/b")
        tx.write(a, a.value - 10)
        tx.write(b, b.value + 10)

    space.transact(move, turns="never")


def adds_up(space: Space) -> int:
    """Read one account after the other, in one transaction."""

    def both(tx: Tx) -> int:
        total: int = tx.read("account/a").value + tx.read("account/b").value
        return total

    answer: int = space.transact(both, turns="never")
    return answer


def two_accounts(space: Space) -> None:
    space.create("account/a", 50)
    space.create("account/b", 50)


def nobody_sees_half_a_transfer(view: View) -> str | None:
    seen = view.results.get("auditor", 100)
    return None if seen == 100 else f"the auditor saw {seen}"


def test_without_one_moment_reads_are_skewed(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = {"clerk": moves_money, "auditor": adds_up}
    explore(agents, setup=two_accounts, invariants=nobody_sees_half_a_transfer)
    guard = "self.position is not None and snapshot.position != self.position"
    mutate(monkeypatch, Transaction, "load", guard, "False")
    with pytest.raises(Violation, match="the auditor saw 110"):
        explore(agents, setup=two_accounts, invariants=nobody_sees_half_a_transfer)


def test_without_the_epoch_a_holder_that_was_replaced_still_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stalls(space: Space) -> Any:
        with space.lease("k", TTL, wait=0) as lease:
            space.read("elsewhere")
            return lease.write("late")

    def acts_on_it(space: Space) -> Any:
        fresh = space.reclaim("k")
        return space.write(fresh, "in time") if not fresh.exists else None

    agents = {"holder": stalls, "supervisor": acts_on_it}

    explore(agents, invariants=nobody_writes_after_being_fenced)
    monkeypatch.setattr(Step, "_fenced", lambda step, plan: None)

    def reclaimed_before(view: View) -> str | None:
        entries = view.log("k")
        return (
            "a fenced holder wrote"
            if any(e.epoch > 1 and e.value == "late" for e in entries)
            else None
        )

    with pytest.raises(Violation, match="a fenced holder wrote"):
        explore(agents, invariants=reclaimed_before)


def test_without_the_lease_check_others_write_while_it_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def holds(space: Space) -> Any:
        with space.lease("k", TTL, wait=0) as lease:
            first = lease.write("first")
            lease.write("second")
            return first

    def intrudes(space: Space) -> Any:
        return space.write(space.read("k"), "intruder")

    def nobody_comes_between(view: View) -> str | None:
        values = [entry.value for entry in view.log("k")]
        return (
            "somebody came between"
            if "first,intruder" in ",".join(values) and "k" in view.scan() and _holding(view)
            else None
        )

    def _holding(view: View) -> bool:
        return "holder" not in view.results and "holder" not in view.crashed

    agents = {"holder": holds, "intruder": intrudes}
    explore(agents, invariants=nobody_comes_between)
    monkeypatch.setattr(Step, "_leased_away", lambda step, plan: None)
    with pytest.raises(Violation, match="somebody came between"):
        explore(agents, invariants=nobody_comes_between)


def test_without_the_rules_version_a_writer_with_old_rules_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def governs(space: Space) -> Any:
        space.apply_rules({"k": interlock.merged("append")})

    def creates(space: Space) -> Any:
        return space.create("k", "plain")

    def rules_hold(view: View) -> str | None:
        kinds = [entry.kind if entry.key == "k" else "rules" for entry in view.log()]
        return "a plain value under the new rule" if kinds == ["rules", "put"] else None

    agents = {"governor": governs, "writer": creates}
    explore(agents, invariants=rules_hold)
    monkeypatch.setattr(Step, "_outdated", lambda step, plan: None)
    with pytest.raises(Violation, match="a plain value under the new rule"):
        explore(agents, invariants=rules_hold)


def test_without_the_machine_a_cancelled_booking_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "check_move", lambda *arguments: None)
    with pytest.raises(Violation, match=r"it went"):
        explore({"cashier": pays, "guest": cancels}, setup=books, invariants=the_machine_is_obeyed)


def test_without_the_owner_check_others_write_private_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def intrudes(space: Space) -> Any:
        return space.create("agent/ann/notes", "not hers")

    def is_her_own(view: View) -> str | None:
        return "somebody else wrote it" if view.log("agent/") else None

    def setup(space: Space) -> None:
        space.apply_rules({"agent/{agent}/**": interlock.private()})

    explore({"ben": intrudes}, setup=setup, invariants=is_her_own)
    monkeypatch.setattr(rules, "owner_of", lambda pattern, key: "ben")
    with pytest.raises(Violation, match="somebody else wrote it"):
        explore({"ben": intrudes}, setup=setup, invariants=is_her_own)


def test_without_the_incarnation_a_replaced_process_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`takes_over` comes in exclusively in the middle: what the old process writes later lands."""
    from interlock.core.plan import PUT, Write
    from interlock.core.requests import Commit, Enter

    def old(writer: Writer) -> Any:
        outcome = yield Commit(
            Writer("", "planner", 0).plan("old", writes=(Write(PUT, "old", "1"),))
        )
        return None if isinstance(outcome, Refusal) else outcome

    def new(writer: Writer) -> Any:
        entered = yield Enter("planner", True, "new")
        fresh = Writer("", "planner", 0, incarnation=entered.incarnation)
        return (yield Commit(fresh.plan("new", writes=(Write(PUT, "new", "1"),))))

    def the_old_one_is_silent_after_the_new_one(view: View) -> str | None:
        keys = [entry.key for entry in view.log()]
        return "the old process wrote last" if keys == ["new", "old"] else None

    agents = {"old": old, "new": new}
    explore(agents, invariants=the_old_one_is_silent_after_the_new_one)
    mutate(monkeypatch, Step, "_replaced", "plan.incarnation != current", "False")
    with pytest.raises(Violation, match="the old process wrote last"):
        explore(agents, invariants=the_old_one_is_silent_after_the_new_one)
