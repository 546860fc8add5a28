"""How durable runs fail, are undone, parked, resumed and cancelled; what is seen of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import interlock
from tests.contract.test_runs import (
    Calls,
    End,
    Program,
    crash,
    crashing,
    once_it_waits,
    states,
    walks,
    work,
)
from tests.contract.test_runs_effects import Bank
from tests.facades import Facades


def fails(*_: object) -> None:
    raise interlock.RunFailed("sold out")


def breaks(*_: object) -> None:
    raise ValueError("a bug")


# Failing


def saga(bank: Bank, end: End) -> Program:
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


def test_an_undo_that_was_refused_is_called_again(space: Any) -> None:
    bank, refusals = Bank(), ["closed today"]

    def refund(key: str, result: Any) -> None:
        if refusals:
            raise interlock.NotDone(refusals.pop())
        bank.refund(key, result)

    def program(run: Any) -> None:
        run.effect("pay", bank.charge, "pay", compensate=refund)
        raise interlock.RunFailed("sold out")

    with pytest.raises(interlock.RunFailed) as failed:
        work(space, program)
    assert "closed today" in failed.value.__notes__[0]
    assert space.runs.show("r").state == "Processing"
    with pytest.raises(interlock.RunFailed, match="sold out"):
        work(space, program)
    assert [result for _, result in bank.undone] == [[1, "pay"]]


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

    def program(run: Any) -> None:
        run.step("s", len, "abc")
        assert other.runs.cancel("r", "not wanted") is True
        run.step("t", len, "abc")

    with pytest.raises(interlock.Fenced):
        work(space, program)
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


@pytest.mark.parametrize("waits", ["go", "sleep"])
def test_a_run_that_was_cancelled_waits_for_nothing(
    facades: Facades, other: Any, waits: str
) -> None:
    space, bank = facades.open(), Bank()

    def program(run: Any) -> Any:
        run.effect("hotel", bank.charge, "hotel", compensate=bank.refund)
        return run.wait_for("go") if waits == "go" else run.sleep(10_000)

    with (
        once_it_waits(other, lambda _: other.runs.cancel("r", "not wanted"), step=waits),
        pytest.raises(interlock.Fenced),
    ):
        work(space, program)
    with pytest.raises(interlock.RunFailed, match="not wanted"):
        work(space, program)
    assert [result[1] for _, result in bank.undone] == ["hotel"]
    assert other.runs.show("r").state == "Failed"


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


def test_the_log_shows_the_life_of_a_run(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    other.runs.send(_begun(other), "go", 1)
    assert work(space, lambda run: run.wait_for("go")) == 1
    crash(space, crashing, "crashed")
    work(space, lambda run: None, "crashed")
    with pytest.raises(interlock.RunFailed, match="enough"):
        work(space, _fails, "failed")
    assert states(other) == ["Idle", "Processing", "Completed"]
    assert states(other, "crashed") == ["Idle", "Processing", "Completed"]
    assert states(other, "failed") == ["Idle", "Processing", "Failed"]
    assert all(walks(states(other, run)) for run in ("r", "crashed", "failed"))
    written = {entry.agent for entry in other.log() if entry.key == "$runs/done/r"}
    assert written == {"us"}


def _begun(space: Any) -> str:
    space.runs.start("r", "program", {"n": 1})
    return "r"


def _fails(run: Any) -> None:
    raise interlock.RunFailed("enough")


def test_a_run_is_logged_under_the_name_of_its_agent(facades: Facades) -> None:
    space = facades.open("us")
    work(space, lambda run: run.step("s", len, ""), agent="planner", input={"n": [1]})
    assert {e.agent for e in space.log() if e.key.startswith("$run")} == {"planner"}
    assert (space.runs.show("r").agent, space.runs.show("r").input) == ("planner", {"n": [1]})


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
    "sleeping forever": lambda run: run.sleep(math.inf),
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
