"""Guards taken out of the real code, one at a time: the explorer must find what each is for."""

from __future__ import annotations

import inspect
import re
import textwrap
from types import ModuleType
from typing import Any

import pytest

from interlock import Space
from interlock.backends.sqlite import SQLiteBackend, statements
from interlock.backends.sqlite.commit import Step
from interlock.core.plan import Plan
from interlock.core.refusals import Outcome, Refusal
from interlock.core.transact import Transaction
from interlock.verify import View, Violation, explore
from tests.verify.explored_agents import (
    books,
    every_write_counts,
    goes_home,
    increment,
    increment_in_turn,
    one_booking_at_most,
    somebody_is_on_call,
    two_doctors_on_call,
)


def mutate(
    monkeypatch: pytest.MonkeyPatch, owner: type | ModuleType, name: str, guard: str, without: str
) -> None:
    """Run `owner.name` with the one place where it says `guard` saying `without`."""
    function: Any = getattr(owner, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(guard) == 1, f"{owner.__name__}.{name} no longer says {guard!r} once"
    namespace: dict[str, Any] = {}
    exec(source.replace(guard, without), function.__globals__, namespace)
    monkeypatch.setattr(owner, name, namespace[name])


def test_without_the_version_check_an_update_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Step, "_moved", "version != expected.version", "False")
    with pytest.raises(Violation) as found:
        explore({"a": increment, "b": increment}, invariants=every_write_counts)
    assert str(found.value).splitlines() == [
        "every write counts: 2 writes, but the count is 1",
        "The shortest schedule that does this (4 moves):",
        "   1. a reads 'count': 'count' is absent.",
        "   2. b reads 'count': 'count' is absent.",
        "   3. a writes 'count' = 1 expecting 'count' at version 0 (operation 'a-1'): "
        "committed as version 1 of 'count'.",
        "   4. b writes 'count' = 1 expecting 'count' at version 0 (operation 'b-1'): "
        "committed as version 2 of 'count'.",
        "  Then the store holds 'count' = 1 at version 2.",
        "  a was acknowledged version 1 of 'count', and returned 'count' = 1 at version 1.",
        "  b was acknowledged version 2 of 'count', and returned 'count' = 1 at version 2.",
    ]


def test_without_the_operation_id_a_lost_reply_applies_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Step, "_applied", lambda step, plan: None)
    agents = {"a": increment, "b": increment}
    with pytest.raises(Violation) as found:
        explore(agents)
    assert found.value.invariant == "operations are applied once"
    assert found.value.reason == "operation 'a-1' was applied more than once: positions 1, 2"
    assert [step.kind for step in found.value.schedule].count("lost reply") == 1
    assert len(found.value.schedule) == 5

    def counted_once(view: View) -> bool:
        return (view.read("count").value or 0) <= 2

    with pytest.raises(Violation, match="counted once: it returned False"):
        explore(agents, invariants=counted_once, always=())
    without_the_fault = explore(agents, invariants=every_write_counts, lost_replies=0)
    assert without_the_fault.schedules > 1, "only the lost reply can show this guard"


def test_expecting_only_the_written_keys_skews_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, without = "if key not in members or key in self.writes", "if key in self.writes"
    mutate(monkeypatch, Transaction, "plan", guard, without)
    doctors = {"alice": goes_home("alice", "bob"), "bob": goes_home("bob", "alice")}
    with pytest.raises(Violation, match="nobody is on call") as found:
        explore(doctors, setup=two_doctors_on_call, invariants=somebody_is_on_call)
    writers = [step.agent for step in found.value.schedule if " writes " in step.sentence]
    assert writers == ["alice", "bob"]


@pytest.mark.parametrize("where", ["plan", "commit"])
def test_without_expecting_scans_a_phantom_appears(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "plan":
        guard = "for prefix, found in self.read_scans.items()}"
        mutate(monkeypatch, Transaction, "plan", guard, "for prefix, found in ()}")
    else:
        monkeypatch.setattr(Step, "_scan_moved", lambda step, plan: None)
    with pytest.raises(Violation, match="the room was booked twice"):
        explore({"ann": books("ann"), "ben": books("ben")}, invariants=one_booking_at_most)


def test_a_refusal_that_writes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Step.commit

    def writes_all_the_same(step: Step, plan: Plan, reads: str | None) -> Outcome:
        outcome = honest(step, plan, reads)
        if isinstance(outcome, Refusal):
            step._execute("UPDATE spaces SET created = created + 1")
            step.wrote = True
        return outcome

    def creates(space: Space) -> None:
        space.create("plan.md", space.agent)

    explore({"a": creates, "b": creates})
    monkeypatch.setattr(Step, "commit", writes_all_the_same)
    with pytest.raises(Violation, match="a refusal changes nothing: the store has changed"):
        explore({"a": creates, "b": creates})


def test_tickets_that_never_expire_deadlock_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tickets_ahead", "dead_tickets", "old_dead_tickets", "ticket"):
        statement = re.sub(r"(t\.)?expires > \?[34]", "1", statements.SQL[name])
        dead = re.sub(r"(t\.)?expires <= \?[13]", "0", statement)
        monkeypatch.setitem(statements.SQL, name, dead)
    with pytest.raises(Violation, match="b would wait forever") as found:
        explore({"a": increment_in_turn, "b": increment_in_turn})
    assert found.value.invariant == "deadlock"
    assert "a crashes before" in str(found.value)
    assert str(found.value).endswith("b was acknowledged nothing, and waits.")
    explore({"a": increment_in_turn, "b": increment_in_turn}, crashes=0)


def counts_once(space: Space) -> None:
    """Count, as one who may be started again under the same operation id."""
    space.update("count", lambda count: count + 1, default=0, op_id=f"{space.agent}-count")
    assert space.outcome(f"{space.agent}-count") is not None


def test_what_was_acknowledged_outlives_a_power_failure() -> None:
    explored = explore(
        {"a": counts_once, "b": increment}, invariants=every_write_counts, power_failures=1
    )
    without = explore({"a": counts_once, "b": increment}, invariants=every_write_counts)
    assert explored.states > without.states


@pytest.mark.parametrize("asked", [counts_once, increment], ids=["outcome", "commit"])
def test_without_a_sync_a_replay_is_acknowledged_and_lost(
    monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    """The answer is lost before the disk has the commit; the second sending applies nothing."""
    monkeypatch.setattr(SQLiteBackend, "_reach_disk", lambda backend: None)
    with pytest.raises(Violation) as found:
        explore({"a": asked}, power_failures=1)
    assert found.value.invariant == "acknowledged commits are kept"
    kinds = [step.kind for step in found.value.schedule]
    assert kinds == ["run", "lost reply", "run", "power"]
    assert found.value.schedule[-1].sentence.startswith("The power fails")
    explore({"a": asked}, power_failures=1, lost_replies=0)
