"""Cycles of waits under every schedule: nobody waits until something expires."""

from __future__ import annotations

from typing import Any

from interlock import Space
from interlock.backends.holder import HeldRight
from interlock.core.records import Record
from interlock.core.requests import DropLease, TakeLease
from interlock.errors import Deadlock
from interlock.verify import View, explore
from tests.verify.conftest import Pin
from tests.verify.explored_agents import Agent


def leases(first: str, then: str) -> Agent:
    def agent(space: Space) -> Any:
        with space.lease(first, 30), space.lease(then, 30) as lease:
            return lease.write(space.agent)

    return agent


def updates(first: str, then: str) -> Agent:
    def agent(space: Space) -> Any:
        def think(value: Any) -> Any:
            return space.update(then, lambda n: n + 1, default=0, turns="always").value

        return space.update(first, think, turns="always")

    return agent


def nobody_waits_for_time(view: View) -> None:
    """Whoever did not die has written, or was refused at once; and somebody always writes."""
    results = view.results.values()
    assert all(isinstance(result, Record | Deadlock) for result in results), view.results
    assert any(isinstance(result, Record) for result in results)
    times = [entry.time_us for entry in view.log()]
    assert not times or max(times) == min(times) == START_US


START_US = 1_767_225_600_000_000


def test_two_leases_against_each_other(pin: Pin) -> None:
    agents = {"a": leases("x", "y"), "b": leases("y", "x")}
    explored = explore(agents, final=nobody_waits_for_time, crashes=0, lost_replies=0)
    pin("leases: two against each other", explored, (486, 517))


def test_three_leases_in_a_ring(pin: Pin) -> None:
    """Each begins with a lease, and asks for the next one's for less time than they last."""
    ring = {"a": ("x", "y"), "b": ("y", "z"), "c": ("z", "x")}

    def has(key: str) -> str:
        return f"the lease of {key}"

    def setup(space: Space) -> None:
        for agent, (key, _) in ring.items():
            space.session.driver.answer(
                TakeLease((key,), name=has(key), agent=agent, incarnation=0, ttl=30.0)
            )

    def asks(held: str, wanted: str) -> Agent:
        def agent(space: Space) -> Any:
            holding = HeldRight(space.session.writer.space, held, has(held), space.agent)
            try:
                with space.lease(wanted, 30, wait=20):
                    return "both"
            finally:
                holding.release()
                space.session.driver.answer(DropLease(held, 0, has(held)))

        return agent

    def one_is_refused(view: View) -> None:
        ends = sorted(str(result)[:8] for result in view.results.values())
        assert ends == ["Deadlock", "both", "both"]

    agents = {name: asks(*keys) for name, keys in ring.items()}
    explored = explore(agents, setup=setup, final=one_is_refused, crashes=0, lost_replies=0)
    pin("leases: three in a ring", explored, (42_849_318, 2_837))


def test_two_updates_inside_updates(pin: Pin) -> None:
    agents = {"a": updates("x", "y"), "b": updates("y", "x")}
    explored = explore(agents, final=nobody_waits_for_time, crashes=0, lost_replies=0)
    pin("update: two inside each other", explored, (28, 97))
