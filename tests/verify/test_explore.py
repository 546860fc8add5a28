"""The unaltered code under every schedule.

The numbers of schedules and states are pinned: where a change to a protocol moves them, look at
whether the new requests are meant, then pin the new numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import factorial
from typing import Any

import pytest

from interlock import Space, Tx
from interlock.backends.sqlite import SQLiteBackend
from interlock.core import update
from interlock.core.pace import Pace
from interlock.core.records import Record
from interlock.core.requests import LogPage, ReadLog, Steps, Think
from interlock.core.update import Limits
from interlock.core.writer import Writer
from interlock.errors import Conflict
from interlock.verify import View, explore, protocol_agent
from tests.verify.conftest import Pin
from tests.verify.explored_agents import (
    Agent,
    books,
    every_write_counts,
    everybody_alive_has_counted,
    goes_home,
    increment,
    increment_in_turn,
    one_booking_at_most,
    somebody_is_on_call,
    two_doctors_on_call,
)


@pytest.mark.parametrize(("agents", "requests"), [(1, 4), (2, 3), (3, 2), (3, 4), (4, 2)])
def test_independent_agents_have_as_many_schedules_as_there_are_interleavings(
    agents: int, requests: int
) -> None:
    def reads(space: Space) -> None:
        for number in range(requests):
            space.read(f"{number}")

    explored = explore({f"a{i}": reads for i in range(agents)}, crashes=0, lost_replies=0)
    assert explored.schedules == factorial(agents * requests) // factorial(requests) ** agents
    assert explored.states == (requests + 1) ** agents
    assert explored.longest == agents * requests


@pytest.mark.slow
def test_merged_states_lose_no_schedule_and_no_ending() -> None:
    """The same as running each schedule from the start on a store of its own."""
    limits = Limits(20, None, "never")

    def steps(name: str) -> Callable[[Writer], Steps[Any]]:
        return lambda writer: update.update(
            writer, "log", lambda value: [*value, name], [], limits, f"{name}-1", False
        )

    def run_alone(schedule: str) -> tuple[str, tuple[str, ...]]:
        """Run a schedule; return who can move next, and the values written."""
        backend = SQLiteBackend("sqlite://", "explore", clock=lambda: 1)
        agents = {name: steps(name)(Writer(backend.uid, name, 1000)) for name in "abc"}
        pending = {name: next(agent) for name, agent in agents.items()}
        for name in schedule:
            answer = backend.perform(pending.pop(name))
            with suppress(StopIteration):
                request = agents[name].send(answer)
                if isinstance(request, Think):
                    request = agents[name].send(request.fn(*request.args))
                pending[name] = request
        page = backend.perform(ReadLog(after=0, limit=100))
        assert isinstance(page, LogPage)
        backend.close()
        return "".join(pending), tuple(repr(entry.value) for entry in page.entries)

    schedules, endings, unfinished = 0, set(), [""]
    while unfinished:
        schedule = unfinished.pop()
        movable, ending = run_alone(schedule)
        unfinished += [schedule + name for name in movable]
        if not movable:
            schedules += 1
            endings.add(ending)

    found = set()
    explored = explore(
        {name: protocol_agent(steps(name)) for name in "abc"},
        final=lambda view: found.add(tuple(repr(entry.value) for entry in view.log())),
        crashes=0,
        lost_replies=0,
    )
    assert explored.schedules == schedules == 198
    assert found == endings
    assert len(endings) == 6


def test_every_fault_of_one_agent_is_a_schedule() -> None:
    """Read, write: dies before either, or unanswered; answered; or again after a lost answer."""
    explored = explore({"a": increment})
    assert explored.schedules == 6
    assert explore({"a": increment}, crashes=0).schedules == 2
    assert explore({"a": increment}, lost_replies=0).schedules == 4
    assert explore({"a": increment}, crashes=0, lost_replies=0).schedules == 1


def test_three_updates_of_one_key(pin: Pin) -> None:
    explored = explore(
        {"a": increment, "b": increment, "c": increment},
        invariants=every_write_counts,
        final=everybody_alive_has_counted,
    )
    pin("update: three agents", explored, (54_204, 5_066))


@pytest.mark.slow
def test_three_updates_that_stall_for_longer_than_a_turn_lasts(pin: Pin) -> None:
    explored = explore(
        {"a": increment, "b": increment, "c": increment},
        invariants=every_write_counts,
        final=everybody_alive_has_counted,
        stalls=1,
    )
    pin("update: three agents, one stall", explored, (468_864, 21_620))


def test_three_updates_that_always_queue(pin: Pin) -> None:
    explored = explore(
        dict.fromkeys("abc", increment_in_turn),
        invariants=every_write_counts,
        final=everybody_alive_has_counted,
    )
    pin("update in turn: three agents", explored, (19_200, 3_697))


@pytest.mark.parametrize(
    ("agents", "crashes", "lost_replies", "pinned"),
    [
        ("ab", 1, 1, (2_344, 1_337)),
        pytest.param("abc", 1, 0, (131_448, 20_260), marks=pytest.mark.slow),
    ],
)
def test_updates_that_always_queue_and_stall(
    pin: Pin, agents: str, crashes: int, lost_replies: int, pinned: tuple[int, int]
) -> None:
    """All faults at once with two agents: with three that would be 115,972 states."""
    explored = explore(
        dict.fromkeys(agents, increment_in_turn),
        invariants=every_write_counts,
        final=everybody_alive_has_counted,
        crashes=crashes,
        lost_replies=lost_replies,
        stalls=1,
    )
    faults = f"one stall, {crashes} crashes, {lost_replies} lost replies"
    pin(f"update in turn: {len(agents)} agents, {faults}", explored, pinned)


def test_quick_updates_that_try_again_before_they_queue(pin: Pin) -> None:
    limits = Limits(4, None, "auto")

    def quickly(name: str) -> object:
        return protocol_agent(
            lambda writer: update.update(
                *(writer, "count", lambda n: n + 1, 0, limits, f"{name}-1", False), pace=Pace(0.0)
            )
        )

    explored = explore(
        {"a": quickly("a"), "b": quickly("b"), "waits": increment_in_turn},
        invariants=every_write_counts,
        final=everybody_alive_has_counted,
    )
    pin("update: two quick agents, and one in turn", explored, (36_582, 4_687))


def test_a_writer_from_outside_the_queue(pin: Pin) -> None:
    def sets(space: Space) -> Record:
        record = space.read("count")
        return space.write(record, (record.value or 0) + 1)

    def outsider_may_be_refused(view: View) -> None:
        if "outsider" in view.results:
            assert isinstance(view.results["outsider"], Record | Conflict)
        for agent in {"a", "b"} - view.crashed:
            assert isinstance(view.results[agent], Record)

    explored = explore(
        {"outsider": sets, "a": increment, "b": increment},
        invariants=every_write_counts,
        final=outsider_may_be_refused,
    )
    pin("update: two agents, and a writer outside the queue", explored, (26_204, 3_120))


@pytest.mark.slow
def test_three_transfers_in_a_ring(pin: Pin) -> None:
    def accounts(space: Space) -> None:
        for account in ("x", "y", "z"):
            space.create(account, 5)

    def transfers(source: str, target: str) -> Agent:
        def agent(space: Space) -> None:
            def move(tx: Tx) -> None:
                a, b = tx.read(source), tx.read(target)
                tx.write(a, a.value - 1)
                tx.write(b, b.value + 1)

            space.transact(move)

        return agent

    def nothing_is_lost(view: View) -> bool:
        return sum(int(record.value) for record in view.scan().values()) == 15

    def everybody_alive_has_moved(view: View) -> None:
        for agent in view.acknowledged.keys() - view.crashed:
            assert len(view.acknowledged[agent]) == 1

    explored = explore(
        {"a": transfers("x", "y"), "b": transfers("y", "z"), "c": transfers("z", "x")},
        setup=accounts,
        invariants=nothing_is_lost,
        final=everybody_alive_has_moved,
    )
    pin("transaction: three transfers in a ring", explored, (35_196_792, 17_661))


def test_three_who_create_the_same_key(pin: Pin) -> None:
    def creates(space: Space) -> str:
        try:
            return f"version {space.create('plan.md', space.agent).version}"
        except Conflict as conflict:
            return f"too late for {conflict.writer}"

    def one_wins_and_the_others_know_who(view: View) -> None:
        winner = view.read("plan.md").value
        results = dict(view.results)
        if winner in results:
            assert results.pop(winner) == "version 1"
        assert set(results.values()) <= {f"too late for {winner}"}

    explored = explore(dict.fromkeys("abc", creates), final=one_wins_and_the_others_know_who)
    pin("create: three agents, one key", explored, (114, 100))


def test_transactions_have_no_write_skew_and_no_phantom(pin: Pin) -> None:
    doctors = {"alice": goes_home("alice", "bob"), "bob": goes_home("bob", "alice")}
    explored = explore(doctors, setup=two_doctors_on_call, invariants=somebody_is_on_call)
    pin("transaction: two that could skew each other", explored, (916, 163))
    guests = {guest: books(guest) for guest in ("ann", "ben", "cem")}
    explored = explore(guests, invariants=one_booking_at_most)
    pin("transaction: three that could be phantoms", explored, (79_638, 2_000))


def test_deleted_and_created_again(pin: Pin) -> None:
    """Versions never restart, so whoever read before the deletion is refused after it."""

    def replaces(space: Space) -> None:
        space.delete(space.read("plan.md"))
        space.create("plan.md", "new")

    def edits(space: Space) -> Record:
        record = space.read("plan.md")
        return space.write(record, "edited " + (record.value or "nothing"))

    def nobody_edits_what_he_did_not_read(view: View) -> None:
        for before, after in zip(view.log(), view.log()[1:], strict=False):
            if after.agent == "edits":
                assert after.value == "edited " + (before.value or "nothing")

    explored = explore(
        {"replaces": replaces, "edits": edits},
        setup=lambda space: space.create("plan.md", "old"),
        invariants=nobody_edits_what_he_did_not_read,
    )
    pin("delete, create again, write", explored, (227, 188))


def test_protocols_are_explored_as_they_are(pin: Pin) -> None:
    """The generators themselves, without the API: the same states and schedules."""
    limits = Limits(20, None, "auto")

    def steps(op_id: str) -> object:
        def start(writer: Writer) -> Steps[Any]:
            return update.update(writer, "count", lambda n: n + 1, 0, limits, op_id, False)

        return protocol_agent(start)

    def as_a_generator(writer: Writer) -> Steps[Any]:
        return (yield from update.update(writer, "count", lambda n: n + 1, 0, limits, "b-1", False))

    by_protocol = explore({"a": steps("a-1"), "b": as_a_generator}, final=every_write_counts)
    by_facade = explore({"a": increment, "b": increment}, final=every_write_counts)
    assert by_protocol == by_facade
    pin("update: two agents", by_facade, (220, 132))
