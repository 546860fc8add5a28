"""Leases, epochs and incarnations: who may write at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import interlock
from interlock.core.refusals import QUEUE
from interlock.core.requests import DropLease, LeaveTurn, TakeLease, TakeTurn
from tests.facades import Facades, elsewhere


def test_others_are_held_back_while_a_lease_lives(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    before = other.create("k", 1)
    with space.lease("k", 30) as lease:
        assert lease.epoch == before.epoch + 1
        calls: list[Callable[[], Any]] = [
            lambda: other.write(before, 2),
            lambda: other.write(other.read("k"), 2),
            lambda: other.delete(other.read("k")),
            lambda: other.update("k", lambda n: n + 1),
            lambda: other.transact(lambda tx: tx.write(tx.read("k"), 2), attempts=1),
            lambda: other.lease("k", wait=0).acquire(),
        ]
        for call in calls:
            with pytest.raises(interlock.Held) as refused:
                call()
            assert refused.value.holder == "us"
            assert 0 < refused.value.seconds <= 30
            assert refused.value.retryable
        assert lease.write(2).version == 2
        assert lease.write(3).version == 3
        assert other.read("k").value == 3, "reading is free"
        assert other.create("elsewhere", 1).version == 1
    assert other.update("k", lambda n: n + 1).value == 4


def test_nobody_thinks_in_vain_about_a_leased_key(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with space.lease("k", 30), pytest.raises(interlock.Held):
        other.update("k", lambda _: pytest.fail("it thought"), default=0)


def test_a_lease_of_a_key_that_does_not_exist_yet(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with space.lease("new") as lease:
        assert (lease.record.exists, lease.record.version, lease.value) == (False, 0, None)
        with pytest.raises(interlock.Held):
            other.create("new", "theirs")
        assert lease.write("ours").version == 1
        assert not lease.delete().exists
        assert lease.write("again").version == 3
    assert other.read("new").value == "again"


def test_a_lease_holds_appends_back_too(facades: Facades, other: Any) -> None:
    space = facades.open("us", rules={"findings": interlock.merged("append")})
    with space.lease("findings"), pytest.raises(interlock.Held):
        other.append("findings", 1)
    assert other.append("findings", 1).version == 1


def test_a_reclaim_fences_the_holder_and_whoever_read_before(facades: Facades, other: Any) -> None:
    """No version moves."""
    space = facades.open("us")
    seen = other.create("k", 1)
    with space.lease("k", 30) as lease:
        held = lease.epoch
        fresh = other.reclaim("k")
        assert (fresh.version, fresh.epoch) == (1, held + 1)
        with pytest.raises(interlock.Fenced) as refused:
            lease.write(2)
        assert (refused.value.held, refused.value.current) == (held, held + 1)
        assert not refused.value.retryable
        with pytest.raises(interlock.Fenced):
            lease.renew()
        with pytest.raises(interlock.Fenced):
            other.write(seen, 2)
        assert other.write(fresh, 3).version == 2
    with pytest.raises(interlock.Invalid, match="was released"):
        lease.write(4)
    assert other.read("k").value == 3


def test_an_expired_lease_can_be_taken_and_its_holder_is_fenced(
    facades: Facades, other: Any
) -> None:
    space = facades.open("us")
    space.create("k", 1)
    stalled = space.lease("k", 0.01)
    stalled._renewed = never(facades)  # the process sleeps
    elsewhere(stalled.acquire)
    with other.lease("k", 30, wait=10) as lease:
        assert lease.epoch == stalled.epoch + 1
        with pytest.raises(interlock.Fenced):
            stalled.write("late")
        assert lease.write("in time").version == 2
    assert space.read("k").value == "in time"


def test_writing_over_an_expired_lease_fences_its_holder(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    space.create("k", 1)
    stalled = space.lease("k", 0.01)
    stalled._renewed = never(facades)
    with stalled:
        while other.session.driver.backend.perform(_load("k")).leases:
            threading.Event().wait(0.005)
        assert other.update("k", lambda n: n + 1).value == 2
        with pytest.raises(interlock.Fenced):
            stalled.write("late")
    assert space.read("k").value == 2


def test_an_expired_lease_that_nobody_took_still_writes(facades: Facades, other: Any) -> None:
    """Safety rests on the epoch, never on a clock."""
    space = facades.open("us")
    stalled = space.lease("k", 0.01)
    stalled._renewed = never(facades)
    with stalled:
        while other.session.driver.backend.perform(_load("k")).leases:
            threading.Event().wait(0.005)
        assert stalled.write("late, and right").version == 1


def test_a_request_for_a_lease_sent_twice_is_answered_twice(space: Any) -> None:
    perform = space.session.driver.backend.perform
    asked = TakeLease(("k",), name="n1", agent="us", incarnation=0, ttl=30.0)
    for _ in range(2):
        grant = perform(asked)
        assert (grant.granted, grant.record.epoch) == (True, 1)
    taken_away = asked.replace(name="n2", reclaim=True)
    for _ in range(2):
        grant = perform(taken_away)
        assert (grant.granted, grant.record.epoch) == (False, 2)


def test_a_lease_that_was_lost_cannot_be_given_up_for_the_next_holder(space: Any) -> None:
    perform = space.session.driver.backend.perform
    expired = TakeLease(("k",), name="n1", agent="us", incarnation=0, ttl=0.0)
    assert perform(expired).record.epoch == 1
    assert perform(expired.replace(name="n2", agent="them", ttl=30.0)).record.epoch == 2
    perform(DropLease("k", 1))
    with pytest.raises(interlock.Held) as refused:
        space.create("k", 1)
    assert refused.value.holder == "them"
    perform(DropLease("k", 2))
    assert space.create("k", 1).version == 1


def test_a_lease_is_renewed_while_it_is_held(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with space.lease("k", 0.3) as lease:
        with pytest.raises(interlock.Held):
            elsewhere_while(facades, lambda: other.lease("k", wait=0.5).acquire())
        assert not lease.lost
        assert lease.write(1).version == 1


def test_waiting_for_a_lease_is_first_come_first_served(facades: Facades, other: Any) -> None:
    order: list[str] = []
    joined = [facades.peer(f"w{n}") for n in range(3)]

    def wait_and_write(space: interlock.Space) -> None:
        with space.lease("k", 30) as lease:
            order.append(space.agent)
            lease.write(space.agent)

    with ThreadPoolExecutor(3) as threads:
        with other.lease("k", 30):
            waiting = []
            for number, space in enumerate(joined):
                waiting.append(threads.submit(wait_and_write, space))
                while other.session.driver.backend.perform(_load("$lease/k")).queued != {
                    "$lease/k": number + 1
                }:
                    threading.Event().wait(0.005)
        for each in waiting:
            each.result()
    for space in joined:
        space.close()
    assert order == ["w0", "w1", "w2"]
    assert [entry.agent for entry in other.history("k")] == order


def test_nobody_passes_the_queue_for_a_lease(space: Any) -> None:
    """Who comes when a lease is free, and somebody has waited for it, comes later."""
    perform = space.session.driver.backend.perform
    waits = perform(TakeTurn((QUEUE + "k",), name="n1", agent="first", ttl=6.0))
    with pytest.raises(interlock.Held) as refused:
        space.lease("k", wait=0).acquire()
    assert refused.value.holder == "first"
    asked = TakeLease(
        ("k",), name="n1", agent="first", incarnation=0, ttl=30.0, ticket=waits.ticket
    )
    assert perform(asked).granted


def test_who_holds_a_key_and_who_waits_is_told_in_order(space: Any) -> None:
    assert space.queue("k") == interlock.Queue("k", None, ())
    perform = space.session.driver.backend.perform
    with space.lease("k", 30):
        for name, key in (("a", QUEUE + "k"), ("b", "k"), ("c", QUEUE + "k"), ("x", "k2")):
            perform(TakeTurn((key,), name=name, agent=name, ttl=30.0))
        gone = perform(TakeTurn(("k",), name="gone", agent="gone", ttl=30.0))
        perform(LeaveTurn(gone.ticket, name="gone"))
        found = space.queue("k")
        assert (found.lease.holder, found.lease.epoch) == (space.agent, 1)
        assert 0 < found.lease.seconds <= 30
        waits = [(each.agent, each.for_lease) for each in found.waiters]
        assert waits == [("a", True), ("b", False), ("c", True)]
        assert all(0 <= each.silent < 30 for each in found.waiters)
    assert space.queue("k").lease is None
    with pytest.raises(interlock.Invalid):
        space.queue("")


def test_a_leased_key_needs_its_lease(facades: Facades) -> None:
    space = facades.open("us", rules={"report.md": interlock.leased()})
    calls: list[Callable[[], Any]] = [
        lambda: space.create("report.md", 1),
        lambda: space.update("report.md", lambda _: 1),
        lambda: space.transact(lambda tx: tx.create("report.md", 1)),
    ]
    for call in calls:
        with pytest.raises(interlock.Forbidden, match="needs its lease"):
            call()
    with space.lease("report.md") as lease:
        record = lease.write("draft")
    with pytest.raises(interlock.Forbidden):
        space.write(record, "without")


@pytest.mark.any_store
@pytest.mark.parametrize("options", [{"ttl": 0}, {"ttl": "x"}, {"wait": -1}, {"ttl": 1e9}])
def test_leases_that_cannot_be(facades: Facades, options: dict[str, Any]) -> None:
    space = facades.open()
    with pytest.raises(interlock.Invalid):
        space.lease("k", **options).acquire()
    with pytest.raises(interlock.Invalid):
        space.lease("a//b").acquire()
    with pytest.raises(interlock.Invalid, match="was not taken"):
        space.lease("k").write(1)


def test_an_exclusive_agent_fences_the_previous_one_of_its_name(facades: Facades) -> None:
    first = facades.open("planner", exclusive=True)
    record = first.create("k", 1)
    shared = facades.open("planner")  # comes in beside it: the same incarnation
    assert shared.update("k", lambda n: n + 1).value == 2
    second = facades.open("planner", exclusive=True)
    calls: list[Callable[[], Any]] = [
        lambda: first.write(first.read("k"), 9),
        lambda: first.create("other", 9),
        lambda: first.update("k", lambda _: 9),
        lambda: first.transact(lambda tx: tx.create("x", 1)),
        lambda: first.lease("k", wait=0).acquire(),
        lambda: first.reclaim("k"),
        lambda: shared.create("other", 9),
    ]
    for call in calls:
        with pytest.raises(interlock.Fenced, match=r"took over agent .* .incarnation 2"):
            call()
    assert second.update("k", lambda n: n + 1).value == 3
    assert facades.open("critic").create("other", 1).version == 1
    assert record.version == 1


def _load(key: str) -> Any:
    from interlock.core.requests import Load

    return Load((key,))


def never(facades: Facades) -> Any:
    if facades.kind == "sync":
        return lambda: None

    async def nothing() -> None:
        return None

    return nothing


def elsewhere_while(facades: Facades, fn: Any) -> Any:
    """Run `fn` in another thread, and the event loop of the asyncio API meanwhile."""
    if facades.kind == "sync":
        return elsewhere(fn)
    import asyncio

    async def wait() -> Any:
        return await asyncio.to_thread(fn)

    return facades._loop.run_until_complete(wait())


def test_a_forked_child_does_not_write_under_the_lease_of_its_parent(space: Any) -> None:
    with space.lease("k") as lease, space.run("r") as run:
        lease.write(1)
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            refused = 0
            calls: tuple[Callable[[], Any], ...] = (
                lambda: lease.write("child"),
                lambda: lease.delete(),
                lambda: lease.renew(),
                lambda: run.step("step", lambda: 1),
            )
            for call in calls:
                try:
                    call()
                except interlock.Invalid as problem:
                    refused += "forked" in str(problem)
            os.write(tell, str((refused, lease.lost)).encode())
            os._exit(0)
        os.close(tell)
        assert os.read(told, 100) == b"(4, True)"
        os.close(told)
        os.waitpid(child, 0)
        assert (lease.write(2).version, lease.lost) == (2, False)
