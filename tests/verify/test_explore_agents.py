"""What an agent may do under the explorer, and what it is told when it does something else."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from interlock import Space, Tx
from interlock.errors import Conflict, Contended, Invalid
from interlock.verify import NotDeterministic, View, Violation, explore
from interlock.verify.explorer.agents import Agents
from tests.verify.explored_agents import Agent, every_write_counts, increment, increment_in_turn


def test_an_agent_waits_for_news_without_a_state_for_every_question() -> None:
    def waits(space: Space) -> Any:
        return next(entry.value for entry in space.watch(after=0) if entry.key == "go")

    def writes(space: Space) -> None:
        for key in ("ready", "steady", "go"):
            space.create(key, key)

    def it_came(view: View) -> bool:
        return bool(view.results["waits"] == "go")

    explored = explore({"waits": waits, "writes": writes}, final=it_came, crashes=0)
    assert (explored.schedules, explored.states, explored.longest) == (48, 49, 8)
    with pytest.raises(Violation) as found:
        explore({"waits": waits, "writes": writes}, lost_replies=0)
    assert found.value.invariant == "deadlock"
    assert [step.kind for step in found.value.schedule] == ["run", "crash"]


def test_a_dead_agent_is_passed_over_when_its_ticket_expires() -> None:
    ends: list[tuple[bool, int]] = []

    def b_got_its_turn(view: View) -> None:
        if "b" not in view.crashed:
            assert view.results["b"].value in (1, 2)
            ends.append(("a" in view.crashed, view.results["b"].time_us))

    explore({"a": increment_in_turn, "b": increment_in_turn}, final=b_got_its_turn, lost_replies=0)
    start = min(time for _, time in ends)
    waited = {(crashed, (time - start) / 1e6) for crashed, time in ends}
    assert waited == {(False, 0.0), (True, 0.0), (True, 6.0)}


@pytest.mark.slow
@pytest.mark.parametrize(("names", "faults"), [("ab", {"stalls": 1}), ("abc", {"lost_replies": 0})])
def test_forgetting_fruitless_questions_loses_no_schedule_and_no_ending(
    monkeypatch: pytest.MonkeyPatch, names: str, faults: dict[str, Any]
) -> None:
    def explored() -> tuple[int, set[Any]]:
        endings = set()

        def note(view: View) -> None:
            log = tuple((entry.op_id, entry.value) for entry in view.log())
            endings.add((log, view.crashed, frozenset(view.results)))

        return explore(
            dict.fromkeys(names, increment_in_turn), final=note, **faults
        ).schedules, endings

    forgetting = explored()
    monkeypatch.setattr(Agents, "_asks_again", lambda agents, local, woken: False)
    assert forgetting == explored()


def test_patience_ends_by_the_clock_of_the_store() -> None:
    def impatient(space: Space) -> Any:
        return space.update("count", lambda n: n + 1, default=0, turns="always", patience=3)

    seen: set[type] = set()

    def note(view: View) -> None:
        seen.update(type(result) for result in view.results.values())

    explore({"a": increment_in_turn, "b": impatient}, final=note, lost_replies=0)
    assert Contended in seen


def test_the_moves_of_one_agent_are_told_in_words() -> None:
    def everything(space: Space) -> None:
        space.create("a/1", 1)
        space.delete(space.read("a/1"))
        space.scan("a/")
        list(space.log(prefix="a/"))
        space.at(position=1).read("a/1")
        space.outcome("everything-1")
        space.update("n", lambda n: n + 1, default=0, turns="always")
        raise LookupError("the end")

    with pytest.raises(Violation) as found:
        explore({"everything": everything}, crashes=0, lost_replies=0)
    assert found.value.invariant == "everything raised LookupError"
    assert 'raise LookupError("the end")' in found.value.reason
    assert isinstance(found.value.__cause__, LookupError)
    assert [str(step).removeprefix("everything ") for step in found.value.schedule] == [
        "writes 'a/1' = 1 expecting 'a/1' absent (operation 'everything-1'): "
        "committed as version 1 of 'a/1'.",
        "reads 'a/1': 'a/1' = 1 at version 1.",
        "deletes 'a/1' expecting 'a/1' at version 1 (operation 'everything-2'): "
        "committed as version 2 of 'a/1'.",
        "scans all keys under 'a/': 'a/' holds nothing.",
        "reads the log under 'a/' as kept: 2 entries, up to position 2.",
        "reads the log after position 0: 2 entries, up to position 2.",  # where the commit ends
        "reads 'a/1' as of position 1: 'a/1' = 1 at version 1.",
        "asks what operation 'everything-1' did: already applied at position 1.",
        "joins the queue for 'n': ticket 1, it is its turn.",
        "writes 'n' = 1 expecting 'n' at version 0 "
        "(operation 'everything-3', in turn with ticket 1): committed as version 1 of 'n'.",
    ]


def test_a_violation_travels_between_processes() -> None:
    with pytest.raises(Violation) as found:
        explore({"a": increment}, final=lambda view: "never good enough")
    copy = pickle.loads(pickle.dumps(found.value))
    assert str(copy) == str(found.value)
    assert (copy.invariant, copy.schedule) == ("<lambda>", found.value.schedule)


def test_an_agent_may_change_what_it_was_given() -> None:
    """Each run gets answers of its own, so that a changed list is no news from another life."""

    def appends(space: Space) -> None:
        def append(names: list[str]) -> list[str]:
            names.append(space.agent)
            return names

        space.update("names", append, default=[])

    def each_once(view: View) -> bool:
        names = view.read("names").value or []
        return len(set(names)) == len(names) == len(view.log())

    explored = explore({"a": appends, "b": appends}, invariants=each_once)
    assert explored.schedules == 220


def test_cleaning_up_happens_only_while_alive() -> None:
    def agent(space: Space) -> None:
        try:
            record = space.read("count")
            space.write(record, (record.value or 0) + 1)
        finally:
            space.update("left", lambda n: n + 1, default=0)

    def left_after_working(view: View) -> None:
        alive = view.acknowledged.keys() - view.crashed
        assert (view.read("left").value or 0) >= len(alive)

    explore({"a": agent, "b": agent}, final=left_after_working)
    explored = explore({"a": agent}, final=left_after_working, lost_replies=0)
    assert explored.schedules == 7, "four requests, two of them writes, or a death in between"


def test_refusals_end_an_agent_and_are_its_result() -> None:
    def creates(space: Space) -> None:
        space.create("plan.md", space.agent)

    def one_conflict(view: View) -> None:
        kinds = sorted(type(result).__name__ for result in view.results.values())
        assert kinds == ["Conflict", "NoneType"]
        (conflict,) = (r for r in view.results.values() if isinstance(r, Conflict))
        assert conflict.writer == view.read("plan.md").value

    assert explore({"a": creates, "b": creates}, final=one_conflict, crashes=0).schedules == 6


def test_setup_runs_once_and_before() -> None:
    runs = []

    def setup(space: Space) -> None:
        runs.append(space.agent)
        space.create("count", 10)

    def starts_at_ten(view: View) -> bool:
        return bool(view.read("count").value == 9 + len(view.log()))

    explored = explore({"a": increment, "b": increment}, setup=setup, invariants=starts_at_ten)
    assert runs == ["setup"]
    assert explored.schedules == 220


def test_nondeterminism_is_named() -> None:
    counter = itertools.count()

    def drifts(space: Space) -> None:
        space.read(f"key{next(counter)}")
        space.read("other")

    with pytest.raises(NotDeterministic, match=r"(?s)'a' asked Load.*'key1'.*had asked.*'key0'"):
        explore({"a": drifts})

    calls = itertools.count()

    def tires(space: Space) -> None:
        if next(calls) < 1:
            space.read("a")

    with pytest.raises(NotDeterministic, match=r"(?s)asked nothing and ended.*had asked Load"):
        explore({"a": tires})


def reads_for_ever(space: Space) -> None:
    while not space.read("never").exists:
        pass


def holds_on(space: Space) -> None:
    try:
        space.read("a")
    except BaseException:  # what is tested
        return


async def coroutine(space: Space) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("agents", "options", "message"),
    [
        ({}, {}, "at least one"),
        ([increment], {}, "maps at least one name"),
        ({"a": "increment"}, {}, "'a' is 'increment', not a function"),
        ({"a": coroutine}, {}, "'a' is a coroutine function"),
        ({"": increment}, {}, "agent can't be empty"),
        ({"a": increment}, {"crashes": -1}, "crashes=-1 is not a number of faults"),
        ({"a": increment}, {"lost_replies": 0.5}, "lost_replies=0.5 is not"),
        ({"a": increment}, {"stalls": True}, "stalls=True is not"),
        ({"a": increment, "b": increment}, {"max_states": 50}, "more than 50 states"),
        ({"a": reads_for_ever}, {"crashes": 0}, "made 300 requests without an end"),
        ({"a": holds_on}, {}, "caught a BaseException that was not its own"),
    ],
)
def test_what_cannot_be_explored_is_refused(
    agents: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Invalid, match=message):
        explore(agents, **options)


def assertion(view: View) -> None:
    assert view.read("count").value != 2, "there are two"


def bare_assertion(view: View) -> None:
    assert view.read("count").value != 2  # without a message


@pytest.mark.parametrize(
    ("invariant", "reason"),
    [
        (assertion, "there are two"),
        (bare_assertion, "2 != 2"),
        (lambda view: view.read("count").value != 2, "it returned False"),
        (lambda view: "two" if view.read("count").value == 2 else None, "two"),
    ],
)
@pytest.mark.parametrize("when", ["invariants", "final"])
def test_an_invariant_says_that_it_is_broken(
    invariant: Callable[[View], Any], reason: str, when: str
) -> None:
    checks: dict[str, Any] = {when: [every_write_counts, invariant]}
    with pytest.raises(Violation) as found:
        explore({"a": increment, "b": increment}, **checks)
    assert reason in found.value.reason
    assert len(found.value.schedule) == 4


def test_a_shorter_schedule_at_the_end_comes_before_a_longer_one_on_the_way() -> None:
    """Two invariants break; the story is of the one that breaks after fewer moves."""

    def short(space: Space) -> None:
        space.create("short", 1)

    def long(space: Space) -> None:
        for number in range(3):
            space.create(f"long/{number}", number)

    def never_three(view: View) -> bool:
        return len(view.scan("long/")) < 3

    def never_ends_without_long(view: View) -> bool:
        return "long" in view.results

    with pytest.raises(Violation) as found:
        explore(
            {"short": short, "long": long}, invariants=never_three, final=never_ends_without_long
        )
    assert found.value.invariant == "never ends without long"
    assert len(found.value.schedule) == 2


def test_the_same_transaction_is_told_of_a_moved_read_at_once() -> None:
    """A transaction whose first read has moved is refused at its second, before it writes."""

    def sums(space: Space) -> Any:
        with space.transaction() as tx:
            return tx.read("x").value + tx.read("y").value

    def moves(space: Space) -> None:
        def move(tx: Tx) -> None:
            x, y = tx.read("x"), tx.read("y")
            tx.write(x, x.value - 1)
            tx.write(y, y.value + 1)

        space.transact(move)

    def setup(space: Space) -> None:
        space.create("x", 5)
        space.create("y", 5)

    sums_seen: set[Any] = set()

    def no_read_skew(view: View) -> None:
        if "sums" in view.results:
            result = view.results["sums"]
            sums_seen.add(result if isinstance(result, int) else type(result))
            assert isinstance(result, Conflict) or result == 10

    agents: dict[str, Agent] = {"sums": sums, "moves": moves}
    explore(agents, setup=setup, invariants=no_read_skew)
    assert sums_seen == {10, Conflict}
