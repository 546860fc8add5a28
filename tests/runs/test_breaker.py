"""Circuit breakers in one process: what a call costs, many threads, a store that goes away."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.backends.drive import SyncDriver
from interlock.core import refusals
from interlock.core.conflict_report import note
from interlock.core.plan import Expect
from interlock.errors import BreakerOpen, Unavailable
from interlock.runs import breaker as protocols
from tests.servers.process import wait_until


class CountingDriver(SyncDriver):
    """Counts the requests that reach the store, and keeps them from it while it is `away`."""

    away = False

    def __init__(self, driver: Any) -> None:
        super().__init__(driver.backend)
        self.asked: Counter[str] = Counter()

    def answer(self, request: Any) -> Any:
        self.asked[type(request).__name__] += 1
        if self.away:
            raise Unavailable("the store is away")
        return super().answer(request)

    def since(self, call: Callable[[], Any]) -> dict[str, int]:
        """Return the requests of a call."""
        before = Counter(self.asked)
        call()
        return dict(self.asked - before)


@pytest.fixture
def space(tmp_path: Path) -> Iterator[interlock.Space]:
    with interlock.open(f"sqlite:///{tmp_path / 'store.db'}", agent="us") as opened:
        opened.session.driver = CountingDriver(opened.session.driver)
        yield opened


@pytest.fixture
def driver(space: interlock.Space) -> CountingDriver:
    assert isinstance(space.session.driver, CountingDriver)
    return space.session.driver


def fails() -> None:
    raise OSError("no answer")


def failing(breaker: interlock.Breaker, times: int = 1) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            with pytest.raises((OSError, BreakerOpen)):
                breaker.call(fails)

    return run


def test_what_calls_cost(space: interlock.Space, driver: CountingDriver) -> None:
    breaker = space.breaker("service", failures=2, reset_after=0.02, refresh=60)

    def succeeds() -> None:
        assert [breaker.call(lambda: "well") for _ in range(100)] == ["well"] * 100

    assert driver.since(succeeds) == {"Load": 1}, "a closed breaker is looked at now and then"
    assert driver.since(succeeds) == {}
    assert driver.since(failing(breaker)) == {"Load": 1, "Commit": 1}
    assert driver.since(failing(breaker)) == {"Load": 1, "Commit": 1}
    assert breaker.state == "open", "who failed knows at once"
    slow = space.breaker("slow", failures=1, reset_after=60, refresh=60)
    failing(slow)()
    assert driver.since(failing(slow, 100)) == {}, "an open one is not asked about either"
    wait_until(lambda: not breaker.info().seconds, "the probe is due")
    assert driver.since(lambda: breaker.call(lambda: "well")) == {"Load": 1, "Commit": 2}
    assert driver.since(succeeds) == {}


def test_a_view_is_refreshed(space: interlock.Space, driver: CountingDriver) -> None:
    breaker = space.breaker("service", failures=1, reset_after=60, refresh=0.05)
    other = space.breaker("service", failures=1, reset_after=60)
    assert breaker.call(lambda: "well") == "well"
    failing(other)()
    wait_until(lambda: _is_refused(breaker), "it sees that it is open", 10)
    other.reset()
    wait_until(lambda: not _is_refused(breaker), "it sees that it is closed", 10)


def _is_refused(breaker: interlock.Breaker) -> bool:
    try:
        breaker.call(lambda: None)
    except BreakerOpen:
        return True
    return False


def test_many_threads_probe_one_at_a_time(space: interlock.Space) -> None:
    breaker = space.breaker("service", failures=1, reset_after=0.01, refresh=0.01)
    failing(breaker)()
    lock, inside, most, probes = threading.Lock(), 0, 0, 0

    def service() -> None:
        nonlocal inside, most, probes
        with lock:
            inside, probes = inside + 1, probes + 1
            most = max(most, inside)
        threading.Event().wait(0.002)
        with lock:
            inside -= 1
        fails()

    def agent() -> None:
        while probes < 10:
            with pytest.raises((OSError, BreakerOpen)):
                breaker.call(service)
            threading.Event().wait(0.001)

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(agent) for _ in range(8)]:
            each.result()
    assert most == 1
    states = Counter(entry.value["state"] for entry in space.log(prefix="$breaker/"))
    assert states == {"open": probes + 1, "half_open": probes}


def test_failures_at_once_in_many_threads_are_all_counted(space: interlock.Space) -> None:
    breaker = space.breaker("service", failures=9)
    gate = threading.Barrier(8)

    def service() -> None:
        gate.wait()
        fails()

    def agent() -> None:
        with pytest.raises(OSError, match="no answer"):
            breaker.call(service)

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(agent) for _ in range(8)]:
            each.result()
    assert breaker.info().failures == 8
    failing(breaker)()
    assert breaker.info().state == "open"


def test_where_the_store_cannot_be_told_the_caller_gets_the_answer(
    space: interlock.Space, driver: CountingDriver
) -> None:
    breaker = space.breaker("service", failures=1, reset_after=0.01, timeout=0.1)

    def goes_away(answer: Callable[[], Any]) -> Any:
        driver.away = True
        return answer()

    with pytest.raises(OSError, match="no answer") as problem:
        breaker.call(goes_away, fails)
    notes = problem.value.__notes__
    assert notes == ["breaker 'service' could not count this: the store is away"]
    with pytest.raises(Unavailable):
        breaker.call(lambda: pytest.fail("it was called"))
    driver.away = False
    assert breaker.info().failures == 0
    failing(breaker)()
    wait_until(lambda: not breaker.info().seconds, "the probe is due")
    assert breaker.call(goes_away, lambda: "well") == "well"
    driver.away = False
    assert breaker.info().state == "half_open"
    wait_until(lambda: not _is_refused(breaker), "the claim runs out, and the next one probes", 10)
    assert breaker.info().state == "closed"


def test_breakers_nest(space: interlock.Space) -> None:
    outer, inner = space.breaker("outer", failures=1), space.breaker("inner", failures=1)
    with pytest.raises(OSError, match="no answer"), outer, inner, outer:
        fails()
    assert [info.state for info in space.breakers()] == ["open", "open"]
    with pytest.raises(interlock.Invalid, match="was not entered"):
        outer.__exit__(None, None, None)


def test_a_refusal_is_pickled_and_says_what_to_do() -> None:
    circuit = protocols.Circuit("open", until_us=2_000_000, agent="b", reason="OSError: no answer")
    record = interlock.Record("k", None, 0, 0, None, 0, 0, False, "s")
    refused = BreakerOpen(
        protocols.refused("planner", protocols.Observation(record, circuit, 500_000))
    )
    copy = pickle.loads(pickle.dumps(refused))
    assert (copy.name, copy.state, copy.seconds) == ("planner", "open", 1.5)
    assert str(copy) == (
        "Breaker 'planner' is open for another 1.5 s: 'b' met OSError: no answer. "
        "Try again later, or go on without this call."
    )


def test_conflicts_that_no_caller_sees_are_not_noted() -> None:
    for key, kept in (("$breaker/planner", False), ("plan.md", True)):
        record = interlock.Record(key, None, 0, 0, None, 0, 0, False, "s")
        refusal = refusals.conflict(Expect(key, 1, 0), record)
        assert (note(refusal, "us", "op", 0) is not None) is kept
