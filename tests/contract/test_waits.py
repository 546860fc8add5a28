"""Waits: cycles of them, several leases in one step, and what a place in a queue costs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import interlock
from interlock.core.refusals import QUEUE, Wait
from interlock.core.requests import NEAR, DropLease, LeaveTurn, Place, TakeLease, TakeTurn
from tests.facades import Facades

NAMES = ("a", "b", "c")


def test_two_who_take_leases_against_each_other_do_not_wait_forever(facades: Facades) -> None:
    _check_ring(_all_ask(facades, 2, _ask_lease, _ask_lease_async), 2)


def test_three_who_take_leases_in_a_ring_do_not_wait_forever(facades: Facades) -> None:
    _check_ring(_all_ask(facades, 3, _ask_lease, _ask_lease_async), 3)


def test_two_who_update_inside_update_do_not_wait_forever(facades: Facades) -> None:
    _check_ring(_all_ask(facades, 2, _ask_turn, _ask_turn_async), 2)


def test_a_lease_inside_a_turn_against_a_turn_inside_a_lease(facades: Facades) -> None:
    mixed = [_ask_lease, _ask_turn]
    mixed_async = [_ask_lease_async, _ask_turn_async]

    def ask(space: Any, held: str, wanted: str, ready: Any) -> Any:
        return mixed[space.agent != "a"](space, held, wanted, ready, crossed=True)

    async def ask_async(space: Any, held: str, wanted: str, ready: Any) -> Any:
        return await mixed_async[space.agent != "a"](space, held, wanted, ready, crossed=True)

    _check_ring(_all_ask(facades, 2, ask, ask_async), 2)


def test_transactions_that_wait_for_turns_inside_turns_do_not_wait_forever(
    facades: Facades,
) -> None:
    """A transaction in its turn for two keys waits inside for somebody who waits for one of them.

    Asked of the store itself: which turns a transaction takes depends on its conflicts.
    """
    ask = facades.peer().session.driver.backend.perform
    assert _join(ask, ("x", "z"), "outer", "a").ahead == 0
    assert _join(ask, ("y",), "other", "b").ahead == 0
    assert _join(ask, ("y",), "inner", "a", holding=("outer",)).cycle == ()
    found = _join(ask, ("z",), "last", "b", holding=("other",))
    assert found.cycle == (Wait("b", "z", "a"), Wait("a", "y", "b"))


def test_whoever_joined_last_is_refused_and_nobody_else(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    for key, name in (("x", "lease-a"), ("y", "lease-b")):
        assert ask(TakeLease((key,), name=name, agent=name[-1], incarnation=0, ttl=30.0)).granted
    first = _join(ask, (QUEUE + "y",), "a waits", "a", holding=("lease-a",))
    last = _join(ask, (QUEUE + "x",), "b waits", "b", holding=("lease-b",))
    assert last.cycle == (Wait("b", QUEUE + "x", "a"), Wait("a", QUEUE + "y", "b"))
    assert _again(ask, (QUEUE + "y",), first).cycle == ()
    assert _again(ask, (QUEUE + "x",), last).cycle == last.cycle
    ask(DropLease("y", 0, "lease-b"))
    assert _again(ask, (QUEUE + "x",), last).cycle == (), "what was given up holds nobody"


def test_somebody_who_holds_nothing_can_be_in_a_cycle_with_two_keys(facades: Facades) -> None:
    """First in one queue, last in the other: whoever waits behind it waits for both."""
    ask = facades.peer().session.driver.backend.perform
    assert _join(ask, ("y",), "turn", "b").ahead == 0
    assert _join(ask, ("x", "y"), "both", "c").ahead == 1
    found = _join(ask, ("x",), "inner", "b", holding=("turn",))
    assert found.cycle == (Wait("b", "x", "c"), Wait("c", "y", "b"))


def test_waiting_in_line_is_no_cycle(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    assert ask(TakeLease(("leader",), name="leads", agent="a", incarnation=0, ttl=30.0)).granted
    places = [_join(ask, ("x",), f"turn {n}", "a", holding=("leads",)) for n in range(4)]
    assert [(place.ahead, place.cycle) for place in places] == [(n, ()) for n in range(4)]


def test_the_dead_are_in_no_cycle(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    assert _join(ask, ("x",), "turn a", "a").ahead == 0
    assert _join(ask, ("y",), "turn b", "b").ahead == 0
    _join(ask, ("y",), "inner a", "a", holding=("turn a",), ttl=0.0)
    assert _join(ask, ("x",), "inner b", "b", holding=("turn b",)).cycle == ()


def test_several_leases_are_taken_in_one_step(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with space.leases(["y", "x"], ttl=30) as leases:
        assert leases.keys == ("x", "y")
        assert leases.write("x", 1).version == 1
        assert leases["y"].write(2).version == 1
        for key in ("x", "y"):
            with pytest.raises(interlock.Held):
                other.lease(key, wait=0).acquire()
    assert other.update("x", lambda n: n + 1).value == 2


def test_of_several_leases_all_are_taken_or_none(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with other.lease("y", 30):
        with pytest.raises(interlock.Held) as refused:
            space.leases(["x", "y", "z"], wait=0).acquire()
        assert refused.value.holder == "other"
        with other.leases(["x", "z"], wait=0) as leases:
            assert leases["x"].epoch == 1, "it was granted to nobody"
    ask = other.session.driver.backend.perform
    asked = TakeLease(("x", "y"), name="both", agent="us", incarnation=0, ttl=30.0)
    first, again = ask(asked), ask(asked)
    assert (first.granted, again.granted) == (True, True), "sent twice"
    assert [r.epoch for r in first.records] == [r.epoch for r in again.records]
    ask(TakeLease(("y",), name="away", agent="them", incarnation=0, ttl=0.0, reclaim=True))
    anew = ask(asked)
    assert anew.granted
    assert anew.records[0].epoch == first.records[0].epoch + 1


def test_two_who_take_the_same_leases_at_once_both_get_them(facades: Facades) -> None:
    def ask(space: Any, held: str, wanted: str, ready: Any) -> None:
        with space.leases([held, wanted], 30) as leases:
            leases.write(held, space.agent)

    async def ask_async(space: Any, held: str, wanted: str, ready: Any) -> None:
        async with space.leases([held, wanted], 30) as leases:
            await leases.write(held, space.agent)

    assert _all_ask(facades, 2, ask, ask_async) == [None, None]


def test_nobody_waits_for_a_lease_that_he_holds(facades: Facades) -> None:
    facades.run(_own_async(facades)) if facades.kind == "async" else _own(facades)


def _own(facades: Facades) -> None:
    space, other = facades.open("us"), facades.peer("other")
    with pytest.raises(interlock.Invalid, match="twice"):
        space.leases(["x", "y", "x"])
    with pytest.raises(interlock.Invalid, match="at least one"):
        space.leases([])
    with space.lease("k") as lease:
        calls: list[Callable[[], Any]] = [
            lambda: space.lease("k").acquire(),
            lambda: space.leases(["a", "k"]).acquire(),
            lambda: other.lease("k").acquire(),
            lambda: space.update("k", lambda _: 1, turns="always"),
            lambda: space.transact(lambda tx: tx.create("k", 1)),
            lambda: space.create("k", 1),
        ]
        for call in calls:
            with pytest.raises(interlock.Invalid, match="holds the lease of 'k'"):
                call()
        for held in (lambda: other.create("k", 1), lambda: space.lease("k", wait=0).acquire()):
            with pytest.raises(interlock.Held):
                held()
        assert lease.write(1).version == 1
    with space.lease("k", wait=0) as again:
        assert again.write(2).version == 2


async def _own_async(facades: Facades) -> None:
    async with await facades.open_async("us") as space:
        with pytest.raises(interlock.Invalid, match="twice"):
            space.leases(["x", "y", "x"])
        async with space.lease("k") as lease:
            calls: list[Callable[[], Any]] = [
                lambda: space.lease("k").acquire(),
                lambda: space.leases(["a", "k"]).acquire(),
                lambda: space.update("k", lambda _: 1, turns="always"),
                lambda: space.transact(lambda tx: tx.create("k", 1)),
                lambda: space.create("k", 1),
            ]
            for call in calls:
                with pytest.raises(interlock.Invalid, match="holds the lease of 'k'"):
                    await call()
            inherited = asyncio.create_task(space.lease("k").acquire())
            with pytest.raises(interlock.Invalid):
                await inherited
            assert (await lease.write(1)).version == 1
        async with space.lease("k", wait=0) as again:
            assert (await again.write(2)).version == 2


def test_a_place_far_back_is_estimated_and_one_near_the_head_is_exact(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    places = [_join(ask, ("x",), f"turn {n}", "a") for n in range(NEAR + 20)]
    assert [place.ahead for place in places] == [*range(NEAR + 20)]
    for place in places[1 : NEAR + 5]:
        ask(LeaveTurn(place.ticket))
    left = [_again(ask, ("x",), place).ahead for place in places[NEAR + 5 :]]
    assert left == [*range(1, 16)], "those who left are not counted"


def test_the_dead_at_the_head_are_forgotten(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    for n in range(NEAR + 20):
        _join(ask, ("x", "y"), f"dead {n}", "a", ttl=0.0)
    assert _join(ask, ("x",), "lives", "a").ahead == 0


def test_a_ticket_of_one_far_back_is_short_again_when_it_is_first(facades: Facades) -> None:
    """It was to live long because it was asked for seldom: dead, it would hold the others up."""
    ask = facades.peer().session.driver.backend.perform
    first = _join(ask, ("x",), "far back", "a", ttl=60.0)
    second = _join(ask, ("x",), "next", "b", ttl=0.15)
    for _ in range(100_000):  # until its time is over
        found = _again(ask, ("x",), second, ttl=0.15)
        assert found.ticket, "it is asked for all the time"
        if not found.ahead:
            break
    assert _again(ask, ("x",), first).ticket == 0


def test_of_several_cycles_the_one_of_the_first_keys_is_named(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    _join(ask, ("a", "é"), "first", "one")
    _join(ask, ("b", "ё"), "second", "two")
    both = _join(ask, ("ё", "b", "é", "a"), "both", "us", holding=("second", "first"))
    assert both.cycle == (Wait("us", "a", "one"),)
    assert _again(ask, ("ё", "b", "é", "a"), both).cycle == both.cycle


def test_of_several_cycles_the_shortest_is_named(facades: Facades) -> None:
    ask = facades.peer().session.driver.backend.perform
    _join(ask, ("p",), "far", "one")
    _join(ask, ("a", "p"), "between", "two")
    _join(ask, ("z",), "near", "three")
    both = _join(ask, ("a", "z"), "both", "us", holding=("far", "near"))
    assert both.cycle == (Wait("us", "z", "three"),)
    ask(LeaveTurn(0, "near"))
    assert _again(ask, ("a", "z"), both).cycle == (Wait("us", "a", "two"), Wait("two", "p", "one"))


def _join(
    ask: Any,
    keys: tuple[str, ...],
    name: str,
    agent: str,
    *,
    holding: tuple[str, ...] = (),
    ttl: float = 30.0,
) -> Place:
    place: Place = ask(TakeTurn(keys, name=name, agent=agent, ttl=ttl, holding=holding))
    return place


def _again(ask: Any, keys: tuple[str, ...], place: Place, ttl: float = 30.0) -> Place:
    found: Place = ask(TakeTurn(keys, name="", agent="", ttl=ttl, ticket=place.ticket))
    return found


def _all_ask(facades: Facades, count: int, ask: Any, ask_async: Any) -> list[Any]:
    """Return what becomes of agents that each hold a key and ask for the next one's."""
    keys = [f"key/{n}" for n in range(count)]

    def caught(n: int, ready: threading.Barrier) -> Any:
        space = spaces[n]
        try:
            return ask(space, keys[n], keys[(n + 1) % count], ready)
        except interlock.Deadlock as refused:
            return refused

    async def caught_async(n: int, ready: _Barrier) -> Any:
        async with await facades.open_async(NAMES[n]) as space:
            try:
                return await ask_async(space, keys[n], keys[(n + 1) % count], ready)
            except interlock.Deadlock as refused:
                return refused

    async def all_async() -> list[Any]:
        ready = _Barrier(count)
        return await asyncio.gather(*(caught_async(n, ready) for n in range(count)))

    if facades.kind == "async":
        found: list[Any] = facades.run(all_async())
        return found
    spaces = [facades.open(name) for name in NAMES[:count]]
    ready = threading.Barrier(count)
    with ThreadPoolExecutor(count) as threads:
        return [*threads.map(lambda n: caught(n, ready), range(count))]


class _Barrier:
    """As `threading.Barrier`, for tasks; `asyncio.Barrier` with its name for waiting."""

    def __init__(self, count: int) -> None:
        self._barrier = asyncio.Barrier(count)

    async def wait(self) -> None:
        await self._barrier.wait()


def _ask_lease(space: Any, held: str, wanted: str, ready: Any, crossed: bool = False) -> None:
    with space.lease(held, 30):
        ready.wait()
        if crossed:
            space.update(wanted, lambda _: space.agent, turns="always")
        else:
            with space.lease(wanted, 30) as lease:
                lease.write(space.agent)


async def _ask_lease_async(
    space: Any, held: str, wanted: str, ready: Any, crossed: bool = False
) -> None:
    async with space.lease(held, 30):
        await ready.wait()
        if crossed:
            await space.update(wanted, lambda _: space.agent, turns="always")
        else:
            async with space.lease(wanted, 30) as lease:
                await lease.write(space.agent)


def _ask_turn(space: Any, held: str, wanted: str, ready: Any, crossed: bool = False) -> None:
    def think(value: Any) -> Any:
        ready.wait()
        if crossed:
            with space.lease(wanted, 30):
                return space.agent
        return space.update(wanted, lambda _: space.agent, turns="always").value

    space.update(held, think, turns="always")


async def _ask_turn_async(
    space: Any, held: str, wanted: str, ready: Any, crossed: bool = False
) -> None:
    async def think(value: Any) -> Any:
        await ready.wait()
        if crossed:
            async with space.lease(wanted, 30):
                return space.agent
        return (await space.update(wanted, lambda _: space.agent, turns="always")).value

    await space.update(held, think, turns="always")


def _check_ring(found: list[Any], count: int) -> None:
    """One of them was told of the whole ring; the others got what they asked for."""
    (refused,) = [each for each in found if each is not None]
    assert isinstance(refused, interlock.Deadlock)
    assert refused.retryable
    ring = {Wait(NAMES[n], f"key/{(n + 1) % count}", NAMES[(n + 1) % count]) for n in range(count)}
    assert {*refused.cycle} == ring
    assert len(refused.cycle) == count
    assert refused.cycle[0].agent == NAMES[found.index(refused)]
    assert refused.key == refused.cycle[0].key
    first, *others = refused.cycle
    assert f"{first.agent!r} waits for {first.holder!r} ({first.key!r})" in str(refused)
    for wait in others:
        assert f"and {wait.agent!r} for {wait.holder!r} ({wait.key!r})" in str(refused)
