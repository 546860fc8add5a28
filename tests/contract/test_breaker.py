"""Circuit breakers: one state for all agents, one probe at a time, fenced."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

import interlock
from interlock.runs import breaker as protocols
from tests.facades import Facades

SOON = {"failures": 2, "reset_after": 0.05, "refresh": 0}
NEVER = {"failures": 2, "reset_after": 3600, "refresh": 0}


class Interrupted(BaseException):
    """What ends a call without saying anything of what it called."""


def fails(reason: str = "no answer") -> None:
    raise OSError(reason)


def interrupted() -> None:
    raise Interrupted


def fail(breaker: Any, times: int = 2) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="no answer"):
            breaker.call(fails)


def until_due(breaker: Any) -> None:
    """Wait until the next probe may begin."""
    while breaker.info().seconds:
        threading.Event().wait(0.005)


def test_a_breaker_opens_for_every_agent(facades: Facades, other: Any) -> None:
    breaker, theirs = facades.open("us").breaker("planner", **NEVER), other.breaker("planner")
    assert (breaker.name, breaker.state, breaker.timeout) == ("planner", "closed", 30.0)
    assert breaker.call(lambda n, add: n + add, 1, add=2) == 3
    fail(breaker)
    assert breaker.state == "open"
    for each in (breaker, theirs):
        with pytest.raises(interlock.BreakerOpen) as refused:
            each.call(lambda: pytest.fail("it was called"))
        assert (refused.value.name, refused.value.state) == ("planner", "open")
        assert 3500 < refused.value.seconds <= 3600
        assert refused.value.reason == "OSError: no answer"
        assert refused.value.retryable
        assert "'us' met OSError" in str(refused.value)
    elsewhere = other.breaker("writer")
    assert elsewhere.call(lambda: "another breaker") == "another breaker"


def test_failures_of_all_agents_add_up(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **NEVER)
    theirs = other.breaker("planner", **NEVER)
    fail(breaker, 1)
    assert (theirs.info().state, theirs.info().failures) == ("closed", 1)
    assert theirs.call(lambda: "well") == "well"
    fail(theirs, 1)
    with pytest.raises(interlock.BreakerOpen):
        breaker.call(fails)
    info = breaker.info()
    assert (info.state, info.agent, info.probe) == ("open", "other", "")
    assert info.opened is not None
    (listed,) = other.breakers()
    assert listed._replace(seconds=info.seconds) == info


class Unprintable(Exception):
    """It cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_failure_that_cannot_be_shown_counts(facades: Facades) -> None:
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1})

    def fails_silently() -> None:
        raise Unprintable

    with pytest.raises(Unprintable):
        breaker.call(fails_silently)
    assert breaker.info().reason == "Unprintable: <Unprintable that cannot be shown>"


def test_old_failures_do_not_count(facades: Facades) -> None:
    space = facades.open("us")
    breaker = space.breaker("planner", **{**NEVER, "within": 0.02})
    fail(breaker, 1)
    threading.Event().wait(0.03)
    fail(breaker, 1)
    assert breaker.info().state == "closed"
    assert breaker.info().failures == 1


def test_a_call_that_takes_too_long_has_failed(facades: Facades) -> None:
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1, "timeout": 0.02})
    if facades.kind == "sync":
        assert breaker.call(lambda: threading.Event().wait(0.03)) is False, "it is not stopped"
    else:
        with pytest.raises(TimeoutError, match="'planner' did not answer within"):
            breaker.call(asyncio.sleep, 3600)
    info = breaker.info()
    assert info.state == "open"
    assert "longer than 0.02 s" in info.reason, "its end says so, whoever noticed first"


def test_what_is_to_be_ignored_does_not_count(facades: Facades) -> None:
    breaker = facades.open("us").breaker("planner", **{**SOON, "failures": 1}, ignore=(OSError,))
    for _ in range(2):
        with pytest.raises(OSError, match="no answer"):
            breaker.call(fails)
    assert breaker.info().failures == 0
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    until_due(breaker)
    with pytest.raises(OSError, match="no answer"):
        breaker.call(fails)
    assert breaker.info().state == "closed", "it answered"


def test_one_probe_at_a_time(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **SOON)
    theirs, third = other.breaker("planner", **SOON), facades.peer("third")
    fail(breaker)
    until_due(breaker)
    with theirs:
        for each in (breaker, third.breaker("planner"), theirs):
            with pytest.raises(interlock.BreakerOpen, match="'other' is trying") as refused:
                each.call(fails)
            assert refused.value.state == "half_open"
            assert 0 < refused.value.seconds <= 1
    assert breaker.call(lambda: "through") == "through"
    assert breaker.info().state == "closed"
    assert breaker.info().probe == ""


def test_a_probe_that_fails_opens_it_again(facades: Facades, other: Any) -> None:
    breaker, theirs = facades.open("us").breaker("planner", **SOON), other.breaker("planner")
    fail(breaker)
    until_due(breaker)
    with pytest.raises(OSError, match="still"):
        breaker.call(fails, "still no answer")
    with pytest.raises(interlock.BreakerOpen) as refused:
        theirs.call(fails)
    assert refused.value.reason == "OSError: still no answer"


def test_a_probe_that_is_interrupted_says_nothing(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **SOON)
    fail(breaker)
    until_due(breaker)
    with pytest.raises(Interrupted):
        breaker.call(interrupted)
    info = breaker.info()
    assert (info.state, info.seconds) == ("open", 0)
    assert other.breaker("planner").call(lambda: "the next probe, at once")
    assert breaker.info().state == "closed"


def claimed(space: Any, name: str, timeout: float) -> Any:
    """Return the passage of a probe whose agent has died, or sleeps."""
    found = protocols.limits(name, 2, 60, timeout, 0.05)
    assert isinstance(found, protocols.Limits)
    return found, space.session.driver.run(
        protocols.admit(space.session.writer, found, space.session.op_id())
    )


@pytest.mark.parametrize("answer", ["success", "failure", "none"])
def test_a_late_answer_of_a_replaced_probe_changes_nothing(
    facades: Facades, other: Any, answer: str
) -> None:
    breaker = facades.open("us").breaker("planner", **{**SOON, "timeout": 3600})
    fail(breaker)
    until_due(breaker)
    limits, zombie = claimed(other, "planner", 0.05)
    assert zombie.probe
    until_due(breaker)
    _, next_one = claimed(other, "planner", 3600)
    assert next_one.probe
    before = other.position()
    tells = {
        "success": lambda: protocols.succeeded(other.session.writer, zombie, "late"),
        "failure": lambda: protocols.failed(other.session.writer, limits, zombie, "late", "late"),
        "none": lambda: protocols.given_up(other.session.writer, zombie, "late"),
    }
    assert other.session.driver.run(tells[answer]()).circuit.state == "half_open"
    assert other.position() == before
    with pytest.raises(interlock.BreakerOpen):
        breaker.call(fails)
    other.session.driver.run(protocols.succeeded(other.session.writer, next_one, "in time"))
    assert breaker.call(lambda: "closed") == "closed"


def test_an_expired_probe_that_nobody_replaced_still_counts(facades: Facades, other: Any) -> None:
    """Safety rests on the version, never on a clock."""
    breaker = facades.open("us").breaker("planner", **SOON)
    fail(breaker)
    until_due(breaker)
    _, slow = claimed(other, "planner", 0.02)
    until_due(breaker)
    assert breaker.info().state == "half_open"
    other.session.driver.run(protocols.succeeded(other.session.writer, slow, "slow"))
    assert breaker.info().state == "closed"


def test_a_call_from_before_the_last_opening_counts_for_nothing(
    facades: Facades, other: Any
) -> None:
    breaker = facades.open("us").breaker("planner", **{**SOON, "failures": 1})
    limits, old = claimed(other, "planner", 30)
    assert not old.probe
    with pytest.raises(OSError, match="no answer"):
        breaker.call(fails)
    until_due(breaker)
    assert breaker.call(lambda: "well") == "well"
    other.session.driver.run(protocols.failed(other.session.writer, limits, old, "late", "late"))
    assert (breaker.info().state, breaker.info().failures) == ("closed", 0)


def test_a_breaker_is_closed_by_hand(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **NEVER)
    assert breaker.reset().state == "closed", "nothing to close"
    fail(breaker, 1)
    assert breaker.reset().failures == 0
    fail(breaker)
    info = other.breaker("planner").reset()
    assert (info.state, info.seconds, info.reason) == ("closed", 0, "OSError: no answer")
    assert breaker.call(lambda: "through") == "through"


def test_closing_by_hand_fences_the_probe(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **{**SOON, "failures": 1})
    with pytest.raises(OSError, match="no answer"):
        breaker.call(fails)
    until_due(breaker)
    limits, probe = claimed(other, "planner", 30)
    breaker.reset()
    other.session.driver.run(protocols.failed(other.session.writer, limits, probe, "late", "late"))
    assert breaker.info().state == "closed"


def test_breakers_are_listed(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    assert space.breakers() == []
    space.breaker("quiet", **NEVER).call(lambda: None)
    for name in ("writer", "planner"):
        fail(space.breaker(name, **NEVER))
    fail(other.breaker("critic", **NEVER), 1)
    listed = [(each.name, each.state, each.failures) for each in space.breakers()]
    assert listed == [("critic", "closed", 1), ("planner", "open", 0), ("writer", "open", 0)]
    assert space.scan() == {}, "what the library keeps is not among the space's keys"
    assert space.conflicts().keys == ()


def test_whatever_an_exception_says_is_kept(facades: Facades) -> None:
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1})
    with pytest.raises(OSError, match="x"):
        breaker.call(fails, "\ud800\0" + "x" * 10_000)
    reason = breaker.info().reason
    assert reason.startswith("OSError: ")
    assert reason.endswith("x")
    assert len(reason) == 200


@pytest.mark.any_store
@pytest.mark.parametrize(
    "options",
    [
        *({"name": ""}, {"name": 5}, {"failures": 0}, {"failures": 1.5}, {"failures": True}),
        *({"failures": 10**6}, {"within": 0}, {"timeout": -1}, {"timeout": "x"}, {"refresh": -1}),
        *({"reset_after": float("nan")}, {"ignore": ValueError}, {"ignore": ("x",)}),
    ],
)
def test_breakers_that_cannot_be(facades: Facades, options: dict[str, Any]) -> None:
    with pytest.raises(interlock.Invalid):
        facades.open().breaker(**{"name": "planner", **options})


def test_a_coroutine_function_needs_the_asyncio_facade(sync_facades: Facades) -> None:
    async def asks() -> None: ...

    with pytest.raises(interlock.Invalid, match="open_async"):
        sync_facades.open().breaker("planner").call(asks)


def test_a_block_is_cancelled_at_the_timeout(async_facades: Facades) -> None:
    async def steps() -> None:
        async with await async_facades.open_async("us") as space:
            breaker = space.breaker("planner", failures=1, timeout=0.02, refresh=0)
            async with breaker:
                assert breaker.state == "closed"
            with pytest.raises(TimeoutError):
                async with breaker:
                    await asyncio.Event().wait()
            with pytest.raises(interlock.BreakerOpen):
                async with breaker:
                    pytest.fail("it is open")

    async_facades.run(steps())


def test_a_cancelled_call_says_nothing(async_facades: Facades) -> None:
    async def steps() -> None:
        async with await async_facades.open_async("us") as space:
            breaker = space.breaker("planner", failures=1, reset_after=0.01, refresh=0)
            with pytest.raises(OSError, match="no answer"):
                await breaker.call(fails)
            while (await breaker.info()).seconds:
                await asyncio.sleep(0)
            probing = asyncio.create_task(breaker.call(asyncio.sleep, 3600))
            while (await breaker.info()).state != "half_open":
                await asyncio.sleep(0)
            probing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probing
            info = await breaker.info()
            assert (info.state, info.seconds) == ("open", 0)

    async_facades.run(steps())


def test_one_handle_serves_many_tasks(async_facades: Facades) -> None:
    async def steps() -> None:
        async with await async_facades.open_async("us") as space:
            breaker = space.breaker("planner", failures=3)
            calls = [breaker.call(asyncio.sleep, 0.001 * n, n) for n in range(20)]
            assert await asyncio.gather(*calls) == [*range(20)]
            failing = [breaker.call(fails) for _ in range(20)]
            ended = await asyncio.gather(*failing, return_exceptions=True)
            assert {type(each) for each in ended} <= {OSError, interlock.BreakerOpen}
            assert (await breaker.info()).state == "open"

    async_facades.run(steps())


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def hangs(breaker: Any, over: threading.Event) -> threading.Thread:
    """Call, in a thread, what does not answer until `over`."""
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(breaker.call(over.wait)), daemon=True)
    thread.start()
    return thread


def test_a_synchronous_call_that_hangs_opens_it_for_all(sync_facades: Facades) -> None:
    other = sync_facades.peer("other")
    options = {"failures": 1, "timeout": 0.1, "reset_after": 3600, "refresh": 0}
    breaker, over = sync_facades.open("us").breaker("planner", **options), threading.Event()
    calling = hangs(breaker, over)
    try:
        until(lambda: breaker.info().state == "open")
        with pytest.raises(interlock.BreakerOpen, match="no answer to 'us', overdue"):
            other.breaker("planner").call(fails)
        assert [len(each) for each in noted(other)] == [1, 0], "what was counted is forgotten"
        opened = breaker.info()
    finally:
        over.set()
        calling.join()
    ended = breaker.info()
    assert ended == opened._replace(seconds=ended.seconds, reason=ended.reason), "it counted once"


def noted(space: Any) -> list[Any]:
    """Return the calls that were noted as going on, after each change."""
    return [entry.value for entry in space.log(prefix="$breaker_calls/planner")]


def began(space: Any, timeout: float) -> Any:
    """Note a call of an agent who then freezes, or dies; return what it was let through by."""
    limits, passage = claimed(space, "planner", timeout)
    space.session.driver.run(protocols.began(space.session.writer, limits, passage, "call", 0))
    return limits, passage


def test_other_hosts_count_a_call_whose_process_is_frozen(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1})
    began(other, 0.05)

    def counted() -> bool:
        with suppress(interlock.BreakerOpen):
            breaker.call(lambda: None)
        return bool(breaker.info().state == "open")

    until(counted)
    info = breaker.info()
    assert info.agent == "other"
    assert info.reason.startswith("no answer to 'other', overdue for ")


def test_a_call_that_was_counted_as_overdue_says_how_it_ended(facades: Facades, other: Any) -> None:
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1})
    limits, passage = began(other, 0.05)
    limits = limits._replace(failures=1)

    def counted() -> bool:
        steps = protocols.count_overdue(other.session.writer, limits, other.session.op_id())
        return bool(other.session.driver.run(steps).circuit.state == "open")

    until(counted)
    before = breaker.info()
    assert before.reason.startswith("no answer to 'other', overdue for ")
    said = (("another", before.reason), ("call", "took 0.1 s"), ("call", "took 0.1 s"))
    for call_id, reason in said:
        op_id = other.session.op_id()
        ended = protocols.failed(
            other.session.writer, limits, passage, "took 0.1 s", op_id, call_id
        )
        other.session.driver.run(ended)
        info = breaker.info()
        assert info == before._replace(reason=reason, seconds=info.seconds), "counted once"


def test_a_call_that_ends_in_time_is_not_counted(
    facades: Facades, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocols, "NOTED_AFTER", 0.01)
    breaker = facades.open("us").breaker("planner", **{**NEVER, "failures": 1})

    breaker.call(lambda: until(lambda: bool(noted(other))))
    until(lambda: [len(each) for each in noted(other)] == [1, 0])
    limits, _ = began(other, 3600)
    assert breaker.call(lambda: "well") == "well"
    other.session.driver.run(protocols.ended(other.session.writer, limits, "call", "end"))
    assert (breaker.info().state, breaker.info().failures) == ("closed", 0)


def test_an_overdue_call_from_before_the_last_opening_counts_for_nothing(
    facades: Facades, other: Any
) -> None:
    breaker = facades.open("us").breaker("planner", **{**SOON, "failures": 1})
    limits, old = claimed(other, "planner", 0.01)
    fail(breaker, 1)
    until_due(breaker)
    assert breaker.call(lambda: "well") == "well"
    other.session.driver.run(protocols.began(other.session.writer, limits, old, "call", 0))
    until(lambda: breaker.call(lambda: "well") == "well" and not noted(other)[-1])
    assert (breaker.info().state, breaker.info().failures) == ("closed", 0)
