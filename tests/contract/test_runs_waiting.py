"""How durable runs wait: for somebody's word, or for a time of the store's clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest

import interlock
from tests.contract.test_runs import Crash, crash, crashing, once_it_waits, states, work
from tests.facades import Facades


def test_what_was_sent_before_is_there_when_it_is_asked_for(facades: Facades, other: Any) -> None:
    space = facades.open()
    crash(space, crashing)
    other.runs.send("r", "go", {"by": "ann"})
    assert dict(other.runs.show("r").sent) == {"go": {"by": "ann"}}
    for _ in range(2):
        assert work(space, lambda run: run.wait_for("go")) == {"by": "ann"}
    with pytest.raises(interlock.Invalid, match="Completed"):
        other.runs.send("r", "again", 1)


def test_a_run_awaits_input_until_it_is_sent_and_a_second_answer_is_refused(
    facades: Facades, other: Any
) -> None:
    space = facades.open()

    def answer(shown: Any) -> None:
        assert shown.waits == ("approval",)
        other.runs.send("r", "approval", "yes")
        with pytest.raises(interlock.Conflict):
            other.runs.send("r", "approval", "no")

    with once_it_waits(other, answer):
        assert work(space, lambda run: run.wait_for("approval")) == "yes"
    assert states(other) == ["Idle", "Processing", "AwaitingInput", "Processing", "Completed"]


def test_a_run_that_is_taken_up_while_it_waits_awaits_input_again(
    facades: Facades, other: Any
) -> None:
    space = facades.open("us")

    def program(run: Any) -> Any:
        return run.wait_for("approval")

    with once_it_waits(other, lambda _: other.runs.reclaim("r")), pytest.raises(interlock.Fenced):
        work(space, program)

    def answer(shown: Any) -> None:
        assert shown.waits == ("approval",)
        other.runs.send("r", "approval", "yes")

    with once_it_waits(other, answer, "second"):
        assert work(space, program, agent="second") == "yes"
    assert states(other)[2:] == ["AwaitingInput", "Processing"] * 2 + ["Completed"]


def test_a_time_limit_counts_from_the_first_time_it_was_asked_for(space: Any) -> None:
    def program(run: Any) -> Any:
        try:
            return run.wait_for("never", timeout=0.03)
        except interlock.TimedOut:
            return run.step("late", lambda: "nobody")

    with pytest.raises(Crash):
        work(space, lambda run: [run.step("s", len, "abc"), program(run), crashing()])
    steps = space.runs.show("r").steps
    assert [(s.kind, s.name, s.state) for s in steps[1:]] == [
        ("wait", "never", "timed out"),
        ("step", "late", "finished"),
    ]
    position = space.position()
    space.runs.send("r", "never", "too late")
    assert space.position() > position
    assert work(space, lambda run: [run.step("s", len, "abc"), program(run)]) == [3, "nobody"]


def test_a_limit_that_passed_while_nobody_worked_has_passed(facades: Facades, other: Any) -> None:
    space = facades.open()
    with once_it_waits(other, lambda _: other.runs.reclaim("r")), pytest.raises(interlock.Fenced):
        work(space, lambda run: run.wait_for("never", timeout=0.4))
    until = other.runs.show("r").steps[0].details["until_us"]
    threading.Event().wait(0.4)
    with pytest.raises(interlock.TimedOut):
        work(space, lambda run: run.wait_for("never", timeout=0.4))
    assert other.runs.show("r").steps[0].details["until_us"] == until


def test_sleep_ends_when_it_was_to_end_first(space: Any) -> None:
    def program(run: Any) -> Any:
        before = run.now()
        run.sleep(0.05)
        return [before.timestamp(), run.step("after", lambda: 1)]

    crash(space, lambda run: [program(run), crashing()])
    before, _ = space.runs.show("r").steps[:2]
    [first, _] = work(space, program)
    assert round(first * 1e6) == pytest.approx(before.result, abs=2)
    slept, after = space.runs.show("r").steps[1:]
    assert (slept.kind, slept.state, after.path) == ("sleep", "finished", "3")
    written = next(entry.at for entry in space.log() if entry.position == after.position)
    assert written >= datetime.fromtimestamp(slept.details["until_us"] / 1e6, UTC)


def test_now_and_random_are_recorded(space: Any) -> None:
    def program(run: Any) -> Any:
        return [run.random(), run.random(), run.now().isoformat()]

    found: list[Any] = []

    def dies(run: Any) -> None:
        found.append(program(run))
        crashing()

    crash(space, dies)
    again = work(space, program)
    assert again == found[0]
    one, two, now = again
    assert one != two
    assert 0 <= one < 1
    entry = next(entry for entry in space.log() if entry.key == "$run/r/step/3")
    assert datetime.fromisoformat(now) <= entry.at
