"""Circuit breakers under every schedule: one probe at a time, whoever dies, sleeps or comes late.

The numbers are pinned, as in `test_explore`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from interlock import Breaker, Space
from interlock.core import read
from interlock.errors import BreakerOpen
from interlock.runs import breaker as protocols
from interlock.verify import Exploration, View, Violation, explore
from tests.verify.conftest import Pin
from tests.verify.explored_agents import Agent
from tests.verify.test_explore_mutants import mutate

CLAIM = 5.0  # seconds, longer than a step of the explored clock
STARTED_US = 1_767_225_600_000_000  # when the explored clock starts
LIMITS = protocols.Limits("service", 2, 3_600_000_000, int(CLAIM * 1e6), 1_000_000)
PROTOCOLS: Any = protocols


def breaker_of(space: Space) -> Breaker:
    # Without a view of its own: what a call asks must not depend on how long the test takes.
    return space.breaker("service", failures=2, timeout=CLAIM, reset_after=1.0, refresh=0)


def fails() -> None:
    raise OSError("no answer")


def opened(space: Space) -> None:
    """The breaker is open, and no probe is due yet."""
    for _ in range(2):
        with pytest.raises(OSError, match="no answer"):
            breaker_of(space).call(fails)


def once_let_through(service: Agent) -> Agent:
    """An agent who calls `service`, and asks again where the breaker is open."""

    def agent(space: Space) -> str:
        for _ in range(5):
            try:
                return str(breaker_of(space).call(service, space))
            except BreakerOpen as refused:
                space.session.run(read.wait(refused.seconds, 0))
        return "gave up"

    return agent


def answers(space: Space) -> str:
    """The service: notes in the space that it is called, and that it has answered."""
    calling = space.create(f"calling/{space.agent}", True)
    space.delete(calling)
    return "answered"


def moves(view: View) -> list[Any]:
    return view.log("$breaker/service")


def it_moves_as_it_may(view: View) -> str | None:
    """Only the agent who probes closes or opens it; the next probe is claimed when one is due."""
    for before, after in pairwise(moves(view)):
        was, now = before.value, after.value
        if now["state"] == protocols.HALF_OPEN:
            if was["state"] == protocols.CLOSED or after.time_us < was["until_us"]:
                return f"{after.agent} claims a probe while it is {was['state']}"
        elif was["state"] == protocols.HALF_OPEN and after.agent != was["probe"]:
            return f"{after.agent} answers, and {was['probe']} probes"
    return None


def nobody_calls_beside_a_probe(view: View) -> str | None:
    callers = {key.removeprefix("calling/") for key in view.scan("calling/")} - view.crashed
    closed = moves(view)[-1].value["state"] == protocols.CLOSED
    return None if closed or len(callers) <= 1 else f"{sorted(callers)} probe at once"


def whoever_lives_is_answered(view: View) -> str | None:
    unanswered = {name: result for name, result in view.results.items() if result != "answered"}
    return f"{unanswered}" if unanswered else None


@pytest.mark.slow
def test_one_probe_at_a_time_and_a_dead_one_is_replaced(pin: Pin) -> None:
    waited = set()

    def seconds_until_it_closed(view: View) -> None:
        first, *_, last = moves(view)
        waited.add((bool(view.crashed), (last.time_us - first.time_us) // 1_000_000))

    explored = explore(
        dict.fromkeys("abc", once_let_through(answers)),
        setup=opened,
        invariants=(it_moves_as_it_may, nobody_calls_beside_a_probe),
        final=(whoever_lives_is_answered, seconds_until_it_closed),
        lost_replies=0,
    )
    assert waited == {(False, 2), (True, 2), (True, 8)}, "two seconds, and a claim of five"
    pin("breaker: three agents, one crash", explored, (13_639_788, 8_077))


def test_a_lost_reply_claims_one_probe(pin: Pin) -> None:
    explored = explore(
        dict.fromkeys("ab", once_let_through(answers)),
        setup=opened,
        invariants=(it_moves_as_it_may, nobody_calls_beside_a_probe),
        final=whoever_lives_is_answered,
    )
    pin("breaker: two agents, one crash, one lost reply", explored, (9_672, 1_824))


def sleeps_through_its_claim(space: Space) -> str:
    """A probe whose process sleeps until another one has been claimed, and then has succeeded."""
    for entry in space.watch("$breaker/", after=0):
        if entry.value["probe"] not in ("", space.agent):
            return "answered"
    return "never: it watches without end"


def it_is_closed(view: View) -> bool:
    return bool(moves(view)[-1].value["state"] == protocols.CLOSED)


def a_zombie_and_another() -> Exploration:
    return explore(
        {"zombie": once_let_through(sleeps_through_its_claim), "b": once_let_through(answers)},
        setup=opened,
        invariants=it_moves_as_it_may,
        final=it_is_closed,
        crashes=0,
    )


def test_a_zombie_does_not_close_it(pin: Pin) -> None:
    pin("breaker: a probe that sleeps through its claim", a_zombie_and_another(), (12_648, 392))


def fails_once(space: Space) -> None:
    with pytest.raises(OSError, match="no answer"):
        breaker_of(space).call(fails)


def every_failure_counts(view: View) -> str | None:
    alive, last = view.results.keys() - view.crashed, moves(view)[-1].value
    told = sum(len(commits) for commits in view.acknowledged.values())
    return f"{last}" if len(alive) == 3 and told >= 2 and last["state"] != protocols.OPEN else None


def test_failures_at_once_all_count(pin: Pin) -> None:
    def fails_or_is_refused(space: Space) -> None:
        try:
            fails_once(space)
        except BreakerOpen:
            space.session.run(read.load(space.session.writer, ()))

    explored = explore(dict.fromkeys("abc", fails_or_is_refused), final=every_failure_counts)
    pin("breaker: three failures, of which two open it", explored, (553_680, 2_628))


def until_it_is_overdue(space: Space) -> None:
    """Sleep until a call that was noted at the start is overdue: others' moves wake who sleeps."""
    while True:
        now = space.session.run(read.load(space.session.writer, ()))
        if now.time_us >= STARTED_US + (CLAIM + 1) * 1e6:
            return
        space.session.run(read.wait(CLAIM, now.position))


def ends_late(space: Space) -> None:
    """A call that goes on for so long that it is noted, and then fails."""
    passage: Any = space.session.run(protocols.admit(space.session.writer, LIMITS, "ask"))
    space.session.run(protocols.began(space.session.writer, LIMITS, passage, "call", 0))
    until_it_is_overdue(space)
    told = protocols.failed(space.session.writer, LIMITS, passage, "failed", "end", "call")
    space.session.run(told)


def looks_when_it_is_overdue(space: Space) -> None:
    until_it_is_overdue(space)
    space.session.run(protocols.count_overdue(space.session.writer, LIMITS, f"{space.agent}/count"))


def it_counts_once(view: View) -> str | None:
    if not moves(view):
        return None if view.crashed else "it was not counted"
    last = moves(view)[-1].value
    return None if len(last["failed"]) == 1 else f"{last}"


def a_call_that_goes_on(**options: Any) -> Exploration:
    return explore(
        {"a": ends_late, "b": looks_when_it_is_overdue, "c": looks_when_it_is_overdue},
        final=it_counts_once,
        **options,
    )


def test_a_call_that_goes_on_counts_once_whoever_counts_it(pin: Pin) -> None:
    explored = a_call_that_goes_on(lost_replies=0)
    pin("breaker: a call that may be overdue, counted by three", explored, (62_072_176, 489))


def test_without_taking_the_note_away_a_call_counts_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch, PROTOCOLS, "failed", "if call_id not in (calls.value or {}):", "if False:")
    with pytest.raises(Violation):
        a_call_that_goes_on(crashes=0, lost_replies=0)


def test_without_comparing_versions_two_agents_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, without = "(expect(record) for record, _ in values)", "()"
    mutate(monkeypatch, PROTOCOLS, "plan_values", guard, without)
    with pytest.raises(Violation) as found:
        explore(
            dict.fromkeys("ab", once_let_through(answers)),
            setup=opened,
            invariants=nobody_calls_beside_a_probe,
        )
    assert found.value.reason == "['a', 'b'] probe at once"


def test_a_probe_that_is_not_fenced_closes_what_another_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = "observed = yield from _load(writer, 'service')"
    mutate(monkeypatch, PROTOCOLS, "succeeded", "observed = passage.observed", fresh)
    with pytest.raises(Violation, match="zombie answers, and b probes"):
        a_zombie_and_another()


def test_without_waiting_for_its_time_a_probe_is_claimed_over_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch, PROTOCOLS, "_admit", "if observed.wait_us:", "if False:")
    with pytest.raises(Violation, match="claims a probe while it is"):
        a_zombie_and_another()
