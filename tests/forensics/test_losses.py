"""Lost updates in histories: agents that are simulated, and single cases of each kind of value."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from examples.losing.ledger import Ledger, tokens
from interlock.forensics import Event, Findings, Loss, find_losses
from interlock.forensics.history import ADD, CHANGE, DELETE, NOTHING, PUT, READ

NAMES = ("scout", "planner", "scribe")


def simulated(seed: int, reads: bool) -> tuple[list[Event], Ledger]:
    """Return the history of agents that read, think and write, and what it has lost."""
    rng, ledger = random.Random(seed), Ledger()
    stores: dict[str, Any] = {}
    views: dict[tuple[str, str], Any] = {}
    count, events = 0, []
    for position in range(1, 120):
        agent, key = rng.choice(NAMES), rng.choice(("list", "fields", "nested", "text"))
        view = views.pop((agent, key), None)
        time_us = position * 300_000
        if view is None:  # read and think
            views[agent, key] = stores.get(key, NOTHING), position
            if reads:
                events.append(Event(key, time_us, READ, None, agent, position))
            continue
        count += 1
        base = None if view[0] is NOTHING else view[0]
        new = changed(rng, key, base, f"{agent}-{count}")
        ledger.wrote(key, agent, base, new)
        stores[key] = new
        events.append(Event(key, time_us, PUT, new, agent, position))
    return events, ledger


def changed(rng: random.Random, key: str, base: Any, token: str) -> Any:
    """Return a value with something new, and now and then without something that was there."""
    if key == "list":
        items = list(base or ())
        if len(items) > 3 and rng.random() < 0.4:
            items.remove(rng.choice(items))
            return items
        return [*items, token]
    if key == "fields":
        return {**(base or {}), rng.choice("abc"): token}
    if key == "nested":
        inner = dict((base or {}).get("in", {}))
        name = rng.choice("abc")
        return {"kind": "nested", "in": {**inner, name: [*inner.get(name, ()), token]}}
    return f"{base or ''}a line of {token}\n"


def named(findings: Findings) -> dict[tuple[str, str], str]:
    """Return the contributions that losses name, with the certainty."""
    found = {}
    for loss in findings.losses:
        for fact in loss.facts:
            told = fact.to_json()
            for token in tokens(told.get("added", told.get("became"))):
                found[loss.key, token] = loss.certainty
    return found


@pytest.mark.parametrize("seed", range(12))
def test_with_reads_every_loss_is_certain_and_none_is_invented(seed: int) -> None:
    events, ledger = simulated(seed, reads=True)
    found = named(find_losses(events))
    assert set(found.values()) <= {"certain"}
    assert set(found) == {(lost.key, lost.token) for lost in ledger.lost}


@pytest.mark.parametrize("seed", range(3))
def test_without_reads_nothing_is_certain(seed: int) -> None:
    events, ledger = simulated(seed, reads=False)
    found = named(find_losses(events))
    truth = {(lost.key, lost.token) for lost in ledger.lost}
    assert set(found.values()) <= {"likely", "possible"}
    assert len(truth & set(found)) >= 0.5 * len(truth)


def writes(*values: Any, agents: Sequence[str] = "ab", gap_us: int = 1_000_000) -> list[Event]:
    """Return writes of one key, by two agents in turn."""
    return [
        Event("k", number * gap_us, PUT, value, agents[number % len(agents)], number + 1)
        for number, value in enumerate(values)
    ]


def read(agent: str, time_us: int = 0) -> Event:
    return Event("k", time_us, READ, None, agent)


def only(events: list[Event], **options: Any) -> Loss:
    (loss,) = find_losses(events, **options).losses
    return loss


@pytest.mark.parametrize(
    ("base", "first", "second", "lost"),
    [
        (["x"], ["x", "a"], ["x", "b"], '+"a"'),
        ({"s": {"x": 1}}, {"s": {"x": 1, "y": 2}}, {"s": {"x": 1, "z": 3}}, "s.y: 2"),
        ("one\n", "one\ntwo\n", "one\nthree\n", '+"two"'),
        ("a,b", "a,b,c", "a,b,d", '+",c"'),
        (
            {"status": "new"},
            {"status": "paid"},
            {"status": "new", "seat": 1},
            'status: "new" -> "paid"',
        ),
        ({"x": 1, "y": 2}, {"x": 1}, {"x": 1, "y": 2, "z": 3}, "-y"),
    ],
)
def test_each_kind_of_value_shows_the_lost_part(
    base: Any, first: Any, second: Any, lost: str
) -> None:
    start, mine, theirs = writes(base, first, second)
    loss = only([start, read("a"), read("b"), mine, theirs])
    assert "; ".join(map(str, loss.facts)) == lost
    assert (loss.certainty, loss.lost_agent, loss.agent) == ("certain", "b", "a")


def test_a_deletion_of_what_was_read_is_no_loss() -> None:
    start, mine, theirs = writes(["x"], ["x", "a"], ["x"])
    assert find_losses([start, read("b"), mine, read("a"), theirs]).losses == []


def test_a_deletion_that_nobody_saw_is_possible_only() -> None:
    loss = only(writes(["x"], ["x", "a"], ["x"]))
    assert (loss.certainty, loss.why) == ("possible", "the value went back to an earlier one")


def test_a_loss_long_after_is_possible_only() -> None:
    events = writes(["x"], ["x", "a"], ["x", "b"], gap_us=120_000_000)
    assert only(events).certainty == "possible"
    assert only(events, think=600.0).certainty == "likely"


def test_a_changed_status_is_no_loss() -> None:
    assert (
        find_losses(writes({"s": "new"}, {"s": "paid"}, {"s": "sent"}, {"s": "done"})).losses == []
    )


def test_both_raising_a_number_to_the_same_value_lose_a_step() -> None:
    start, mine, theirs = writes({"n": 5}, {"n": 6}, {"n": 6})
    loss = only([start, read("a"), read("b"), mine, theirs])
    assert (loss.raised, loss.certainty) == (True, "likely")


@pytest.mark.parametrize("known", [{"base": 1}, {"read_us": 500_000}, {"read_value": ["x"]}])
def test_what_was_read_is_known_by_version_time_or_value(known: dict[str, Any]) -> None:
    start, mine, theirs = writes(["x"], ["x", "a"], ["b"])
    given: list[tuple[Event, dict[str, Any]]] = [
        (start, {"read_value": None}),
        (mine, {"read_value": ["x"]}),
        (theirs, known),
    ]
    events = [event._replace(version=n, **more) for n, (event, more) in enumerate(given, 1)]
    assert only(events).certainty == "certain"


def test_a_version_that_was_there_already_is_a_known_read() -> None:
    values = [{"v": 1}, {"v": 2, "a": 1}, {"v": 2, "b": 1}]
    events = [
        event._replace(version=value["v"])
        for event, value in zip(writes(*values), values, strict=True)
    ]
    loss = only(events)
    assert (loss.certainty, loss.base) == ("certain", 1)


def test_deleting_what_was_not_read_is_a_loss() -> None:
    start, mine, _ = writes(["x"], ["x", "a"], None)
    gone = Event("k", 3_000_000, DELETE, None, "a", 3)
    assert only([start, read("a"), read("b"), mine, gone]).certainty == "certain"
    assert find_losses([start, mine, gone]).losses == []


def test_what_the_store_adds_can_be_lost_and_loses_nothing() -> None:
    start, _, theirs = writes(["x"], None, ["x", "b"])
    added = Event("k", 1_000_000, ADD, ["a"], "b", 2)
    assert find_losses([start, read("b"), added, added._replace(position=3)]).losses == []
    assert str(only([start, read("a"), added, theirs]).facts[0]) == '+"a"'
    popped = Event("k", 2_000_000, CHANGE, [], "a", 3)
    assert find_losses([start, added, popped]).losses == []


def test_a_later_write_may_bring_it_back() -> None:
    start, mine, theirs, back = writes(["x"], ["x", "a"], ["x", "b"], ["x", "b", "a"])
    assert only([start, read("a"), read("b"), mine, theirs, read("b"), back]).restored == 4


def test_sizes_alone_show_what_fell() -> None:
    events = [
        event._replace(value=NOTHING, size=size)
        for event, size in zip(writes(0, 0, 0), (10, 30, 12), strict=True)
    ]
    assert only(events).why == "only sizes are recorded; it fell from 30 to 12"


def test_overlaps_are_near_in_time_or_stale() -> None:
    near = find_losses(writes(["x"], ["x", "a"], ["x", "a", "b"], gap_us=50_000)).overlaps
    assert [(each.agent, each.other, each.read) for each in near] == [
        ("b", "a", "unknown"),
        ("a", "b", "unknown"),
    ]
    start, mine, theirs = writes(["x"], ["x", "a"], ["x", "a", "b"])
    assert find_losses([start, mine, theirs]).overlaps == []
    (stale,) = find_losses([start, read("a"), read("b"), mine, theirs]).overlaps
    assert (stale.read, stale.gap_us) == ("stale", 1_000_000)


def test_the_last_value_before_the_first_loss_is_kept() -> None:
    found = find_losses(writes(["x"], ["x", "a"], ["x", "b"]))
    assert (found.keys["k"].before_loss, found.keys["k"].before_position) == (["x", "a"], 2)


def test_who_never_reads_is_likely_to_lose_where_all_reads_are_shown() -> None:
    assert (
        only(writes({"by": "a"}, {"by": "b"}, agents="ab"), shows_reads=True).certainty == "likely"
    )


@pytest.mark.parametrize(("pooled", "certainty"), [(False, "certain"), (True, "likely")])
def test_connections_of_a_pool_are_never_certain(pooled: bool, certainty: str) -> None:
    start, mine, theirs = writes(["x"], ["x", "a"], ["x", "b"], agents=("h:1", "h:2"))
    events = [start, read("h:1"), read("h:2"), mine, theirs]
    if pooled:  # one connection has read for another
        events += [read("h:1"), theirs._replace(value=["x", "b", "c"], agent="h:2")]
    assert find_losses(events, shows_reads=True).losses[0].certainty == certainty


def test_deleting_fields_that_were_not_read_is_a_loss() -> None:
    start, mine, _ = writes({"n": 1}, {"n": 2}, None)
    gone = Event("k", 3_000_000, DELETE, None, "a", 3)
    assert only([start, read("a"), read("b"), mine, gone]).certainty == "certain"
