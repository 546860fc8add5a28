"""How durable runs wait, fail, are undone, parked, resumed and cancelled; and bad input."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import interlock
from interlock.verify.suite.facades import Facades
from interlock.verify.suite.runs import (
    Calls,
    Crash,
    Program,
    crash,
    crashing,
    once_it_waits,
    states,
    work,
)
from interlock.verify.suite.runs_effects import Bank


def fails(*_: object) -> None:
    raise interlock.RunFailed("sold out")


def breaks(*_: object) -> None:
    raise ValueError("a bug")


# Waiting


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
    crash(space, lambda run: [found.append(program(run)), crashing()])
    again = work(space, program)
    assert again == found[0]
    one, two, now = again
    assert one != two
    assert 0 <= one < 1
    entry = next(entry for entry in space.log() if entry.key == "$run/r/step/3")
    assert datetime.fromisoformat(now) <= entry.at


# Failing


def saga(bank: Bank, end: Program) -> Program:
    def program(run: Any) -> Any:
        for name in ("flight", "hotel", "car"):
            run.effect(name, bank.charge, name, check=bank.look, compensate=bank.refund)
        run.effect("mail", bank.charge, "mail", check=bank.look)
        return run.step("end", end)

    return program


def test_a_failed_run_is_undone_in_reverse_order(space: Any) -> None:
    bank = Bank()
    with pytest.raises(interlock.RunFailed, match="sold out"):
        work(space, saga(bank, fails))
    assert [result for _, result in bank.undone] == [[3, "car"], [2, "hotel"], [1, "flight"]]
    assert {key for key, _ in bank.undone}.isdisjoint(bank.done), "undoing has keys of its own"
    assert len({key for key, _ in bank.undone}) == 3
    shown = space.runs.show("r")
    assert (shown.state, shown.error) == ("Failed", "sold out")
    position = space.position()
    with pytest.raises(interlock.RunFailed, match="sold out"):
        work(space, saga(bank, lambda: "end"))
    assert (len(bank.calls), len(bank.undone), space.position()) == (4, 3, position)


@pytest.mark.parametrize("dies", ["car", "after car", "hotel", "after hotel", "flight"])
def test_undoing_goes_on_after_a_crash(space: Any, dies: str) -> None:
    bank = Bank()
    bank.dies = dies
    crash(space, saga(bank, fails))
    assert space.runs.show("r").state == "Processing"
    with pytest.raises(interlock.RunFailed, match="sold out"):
        work(space, saga(bank, lambda: pytest.fail("nothing new is begun any more")))
    order = [result[1] for _, result in bank.undone]
    assert list(dict.fromkeys(order)) == ["car", "hotel", "flight"]
    assert len({key for key, _ in bank.undone}) == 3
    assert len(order) == 3 + dies.startswith("after")
    assert space.runs.show("r").state == "Failed"


def test_what_is_in_doubt_when_a_run_fails_is_found_out_and_undone(space: Any) -> None:
    bank = Bank()

    def lost(key: str, *args: Any) -> Any:
        bank.charge(key, *args)
        raise ConnectionError("the line is dead")

    def program(run: Any, fn: Any) -> None:
        try:
            run.effect("pay", fn, "pay", in_doubt="retry", compensate=bank.refund)
        except interlock.InDoubt:
            raise interlock.RunFailed("sold out") from None
        raise interlock.RunFailed("sold out")

    with pytest.raises((interlock.RunFailed, interlock.InDoubt)):
        work(space, lambda run: program(run, lost))
    assert space.runs.show("r").state == "Processing"
    with pytest.raises(interlock.RunFailed):
        work(space, lambda run: program(run, bank.charge))
    assert [result for _, result in bank.undone] == [[1, "pay"]]


def test_a_run_has_not_failed_before_everything_is_undone(space: Any) -> None:
    """Taken up again, the program breaks before it comes to what is to be undone."""
    bank = Bank()
    bank.dies = "hotel"
    crash(space, saga(bank, fails))
    with pytest.raises(ValueError, match="a bug"):
        work(space, breaks)
    assert space.runs.show("r").state == "Processing"
    with pytest.raises(interlock.ProgramChanged):
        work(space, lambda run: None)
    assert space.runs.show("r").state == "Processing"
    with pytest.raises(interlock.RunFailed):
        work(space, saga(bank, fails))
    assert [result[1] for _, result in bank.undone] == ["car", "hotel", "flight"]


def test_failures_are_counted_and_the_run_is_parked(space: Any) -> None:
    for failures in (1, 2):
        with pytest.raises(ValueError, match="a bug"):
            work(space, breaks, attempts=3)
        shown = space.runs.show("r")
        assert (shown.state, shown.failures, shown.parked) == ("Processing", failures, False)
    with pytest.raises(ValueError, match="a bug"):
        work(space, breaks, attempts=3)
    shown = space.runs.show("r")
    assert (shown.state, shown.failures, shown.parked) == ("AwaitingInput", 3, True)
    assert "a bug" in str(shown.error)
    space.runs.resume("r")
    shown = space.runs.show("r")
    assert (shown.state, shown.failures, shown.parked) == ("Processing", 0, False)
    assert work(space, lambda run: "good") == "good"
    assert space.runs.show("r").state == "Completed"


def test_a_parked_run_that_is_taken_up_is_not_parked(space: Any) -> None:
    with pytest.raises(ValueError, match="a bug"):
        work(space, breaks, attempts=1)
    with space.run("r"):
        shown = space.runs.show("r")
        assert (shown.state, shown.parked, shown.waits) == ("Processing", False, ())


def test_a_crash_is_not_a_failure_of_the_program(space: Any) -> None:
    for _ in range(2):
        crash(space, crashing, attempts=1)
    assert (space.runs.show("r").failures, space.runs.show("r").parked) == (0, False)


def test_cancelling_with_nothing_to_undo_ends_a_run_at_once(facades: Facades, other: Any) -> None:
    space = facades.open()
    with pytest.raises(interlock.Fenced), space.run("r") as run:
        run.step("s", len, "abc")
        assert other.runs.cancel("r", "not wanted") is True
        run.step("t", len, "abc")
    shown = other.runs.show("r")
    assert (shown.state, shown.error, len(shown.steps)) == ("Failed", "not wanted", 1)
    with pytest.raises(interlock.RunFailed, match="not wanted"):
        work(space, lambda run: None)
    for call in (other.runs.cancel, other.runs.resume):
        with pytest.raises(interlock.Invalid, match="Failed"):
            call("r")
    other.runs.start("idle", "program")
    assert other.runs.cancel("idle") is True
    assert other.runs.show("idle").error == "cancelled"


def test_cancelling_has_effects_undone_by_who_takes_the_run_up(
    facades: Facades, other: Any
) -> None:
    space, bank = facades.open(), Bank()
    crash(space, saga(bank, crashing))
    assert other.runs.cancel("r", "not wanted") is False
    assert other.runs.show("r").state == "Processing"
    with pytest.raises(interlock.RunFailed, match="not wanted"):
        work(space, saga(bank, lambda: pytest.fail("nothing new is begun any more")))
    assert [result[1] for _, result in bank.undone] == ["car", "hotel", "flight"]
    assert (other.runs.show("r").state, other.runs.show("r").error) == ("Failed", "not wanted")


def test_what_is_listed(space: Any) -> None:
    work(space, lambda run: "good", "a")
    crash(space, crashing, "b", input=1)
    space.runs.start("c", "program", [2])
    listed = {run.id: (run.state, run.program, run.input) for run in space.runs.list()}
    assert listed == {
        "a": ("Completed", None, None),
        "b": ("Processing", None, 1),
        "c": ("Idle", "program", [2]),
    }
    assert [run.id for run in space.runs.list(open=True)] == ["b", "c"]
    with pytest.raises(interlock.Conflict):
        space.runs.start("b", "program")


# Bad input

IDS: list[Any] = ["", "a/b", "a\nb", "a*", "$a", None, 7, "x" * 600]
INSIDE: dict[str, Callable[[Any], Any]] = {
    "step without a name": lambda run: run.step("", len, "abc"),
    "step with a number for a name": lambda run: run.step(7, len, "abc"),
    "step without a function": lambda run: run.step("s", "abc"),
    "arguments that are not JSON": lambda run: run.step("s", len, {1}),
    "a result that is not JSON": lambda run: run.step("s", lambda: math.nan),
    "a result that is an object": lambda run: run.step("s", object),
    "effect without a name": lambda run: run.effect("", len),
    "effect with a number for a name": lambda run: run.effect(7, len),
    "effect without a function": lambda run: run.effect("e", "abc"),
    "effect with two policies": lambda run: run.effect("e", len, check=len, in_doubt="skip"),
    "effect with no such policy": lambda run: run.effect("e", len, in_doubt="hope"),
    "effect whose check is no function": lambda run: run.effect("e", len, check="x"),
    "effect whose undoing is no function": lambda run: run.effect("e", len, compensate=1),
    "effect with arguments that are not JSON": lambda run: run.effect("e", len, {1}),
    "effect with a key that is not JSON": lambda run: run.effect("e", len, key=object()),
    "decided from nothing that is a record": lambda run: run.effect("e", len, decided_from=7),
    "decided from records that are not": lambda run: run.effect("e", len, decided_from=["a"]),
    "decided from no version": lambda run: run.effect("e", len, decided_from={"k": "1"}),
    "decided from no key": lambda run: run.effect("e", len, decided_from={"": 1}),
    "waiting without a name": lambda run: run.wait_for(""),
    "waiting for a name with a slash": lambda run: run.wait_for("a/b"),
    "waiting for a number": lambda run: run.wait_for(7),
    "waiting less than nothing": lambda run: run.wait_for("a", timeout=-1),
    "waiting for no number": lambda run: run.wait_for("a", timeout="1"),
    "sleeping less than nothing": lambda run: run.sleep(-1),
    "sleeping for ever": lambda run: run.sleep(math.inf),
    "sleeping without a time": lambda run: run.sleep(None),
}


def test_bad_input_in_a_run_is_invalid_and_writes_nothing(space: Any) -> None:
    with space.run("r") as run:
        position = space.position()
        for name, bad in INSIDE.items():
            with pytest.raises(interlock.Invalid):
                bad(run)
            assert (name, space.position()) == (name, position)


def test_what_is_no_step_cannot_be_done_at_the_same_time(sync_facades: Facades) -> None:
    space = sync_facades.open()
    with space.run("r") as run:
        position = space.position()
        for bad in (("s",), "s", ("", len), ("s", 7)):
            with pytest.raises(interlock.Invalid):
                run.parallel(bad)
        assert space.position() == position


def test_what_cannot_name_a_run_is_invalid(space: Any) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda run_id: space.run(run_id),
        lambda run_id: space.runs.start(run_id, "program"),
        lambda run_id: space.runs.show(run_id),
        lambda run_id: space.runs.send(run_id, "go", 1),
        lambda run_id: space.runs.settle(run_id, "1", True),
        lambda run_id: space.runs.resume(run_id),
        lambda run_id: space.runs.reclaim(run_id),
        lambda run_id: space.runs.cancel(run_id),
    ]
    for run_id in IDS:
        for call in calls:
            with pytest.raises(interlock.Invalid):
                call(run_id)
    assert space.position() == 0


def test_bad_options_are_invalid_and_nothing_is_written(space: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: space.run("r", attempts=0),
        lambda: space.run("r", attempts=True),
        lambda: space.run("r", agent=""),
        lambda: space.run("r", agent="a\nb"),
        lambda: space.run("r", ttl=0).__enter__(),
        lambda: space.run("r", ttl="1").__enter__(),
        lambda: space.run("r", wait=-1).__enter__(),
        lambda: space.run("r", input=object()).__enter__(),
        lambda: space.run("r").step("s", len, "abc"),
        lambda: space.runs.start("r", ""),
        lambda: space.runs.start("r", 7),
        lambda: space.runs.start("r", "program", object()),
        lambda: space.runs.show("r"),
        lambda: space.runs.send("r", "go", 1),
        lambda: space.runs.resume("r"),
        lambda: space.runs.cancel("r"),
    ]
    for call in calls:
        with pytest.raises(interlock.Invalid):
            call()
        assert space.position() == 0
    space.runs.start("r", "program")
    position = space.position()
    for call in (
        lambda: space.runs.send("r", "a/b", 1),
        lambda: space.runs.send("r", 7, 1),
        lambda: space.runs.send("r", "", 1),
        lambda: space.runs.send("r", "go", object()),
        lambda: space.runs.cancel("r", 7),
    ):
        with pytest.raises(interlock.Invalid):
            call()
        assert space.position() == position
    assert work(space, lambda run: run.step("s", Calls())) == [1]
