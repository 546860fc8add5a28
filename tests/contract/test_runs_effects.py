"""Effects of durable runs: the intent before the call, the result after it, and doubt between."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

import interlock
from interlock.core.refusals import BreakerOpen
from tests.contract.test_runs import (
    Calls,
    Crash,
    End,
    crash,
    crashing,
    once_it_waits,
    states,
    work,
)
from tests.facades import Facades


class Bank:
    """The outside: it knows each idempotency key once, unless it `forgets` them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.undone: list[Any] = []
        self.done: dict[str, Any] = {}
        self.dies = ""  # "before" it does what it is told, or "after"

    def charge(self, key: str, *args: Any) -> Any:
        self._die("before")
        self.calls.append((key, *args))
        self.done.setdefault(key, [len(self.done) + 1, *args])
        self._die("after")
        return self.done[key]

    def look(self, key: str, *args: Any) -> Any:
        self._die("look")
        return self.done.get(key)

    def refund(self, key: str, result: Any) -> None:
        self._die(result[1])
        self.undone.append((key, result))
        self._die(f"after {result[1]}")

    def _die(self, where: str) -> None:
        if self.dies == where:
            self.dies = ""
            raise Crash


def effect(space: Any, run_id: str = "r") -> Any:
    """Return the first effect of a run as it is recorded."""
    return next(s for s in space.runs.show(run_id).steps if s.kind == "effect")


def test_the_intent_is_committed_before_the_call_and_the_result_after(
    facades: Facades, other: Any
) -> None:
    space, seen = facades.open(), []

    def charge(key: str, amount: int) -> dict[str, int]:
        shown = effect(other)
        seen.append((key, amount, shown.state, shown.result, shown.details["key"]))
        seen.append(other.runs.show("r").in_doubt)
        return {"charged": amount}

    assert work(space, lambda run: run.effect("pay", charge, 7)) == {"charged": 7}
    key = seen[0][0]
    assert seen == [(key, 7, "started", None, key), ("pay",)]
    assert (effect(other).state, effect(other).result) == ("finished", {"charged": 7})
    assert other.runs.show("r").in_doubt == ()


def test_a_finished_effect_is_not_repeated(space: Any) -> None:
    bank = Bank()

    def program(run: Any, end: End) -> Any:
        one = run.effect("pay", bank.charge, (1, 2))
        return [one, run.step("end", end)]

    crash(space, lambda run: program(run, crashing))
    assert work(space, lambda run: program(run, lambda: "end")) == [[1, [1, 2]], "end"]
    assert len(bank.calls) == 1


@pytest.mark.parametrize("dies", ["before", "after"])
def test_in_doubt_the_outside_is_asked_whether_it_happened(space: Any, dies: str) -> None:
    bank = Bank()
    bank.dies = dies

    def program(run: Any) -> Any:
        return run.effect("pay", bank.charge, 7, check=bank.look)

    crash(space, program)
    assert (space.runs.show("r").in_doubt, len(bank.done)) == (("pay",), int(dies == "after"))
    bank.dies = "look"
    crash(space, program)
    assert work(space, program) == [1, 7]
    assert len(bank.calls) == 1


@pytest.mark.parametrize("dies", ["before", "after"])
def test_in_doubt_a_retry_calls_again_under_the_same_key(space: Any, dies: str) -> None:
    bank = Bank()

    def program(run: Any) -> Any:
        return run.effect("pay", bank.charge, 7, in_doubt="retry")

    for attempt in range(3):
        bank.dies = dies
        crash(space, program)
        assert effect(space).details["attempt"] == attempt + 1
    assert work(space, program) == [1, 7]
    assert (len(bank.done), len({key for key, _ in bank.calls})) == (1, 1)
    assert len(bank.calls) == (4 if dies == "after" else 1)


def test_in_doubt_a_skipped_effect_is_recorded_as_skipped(space: Any) -> None:
    bank = Bank()
    bank.dies = "before"

    def program(run: Any) -> Any:
        return [run.effect("pay", bank.charge, 7, in_doubt="skip"), "on"]

    crash(space, program)
    for _ in range(2):
        assert work(space, program) == [None, "on"]
    assert (bank.calls, effect(space).state) == ([], "skipped")


@pytest.mark.parametrize("happened", [True, False])
def test_in_doubt_a_person_is_asked(facades: Facades, other: Any, happened: bool) -> None:
    space, bank = facades.open(), Bank()
    bank.dies = "after" if happened else "before"

    def program(run: Any) -> Any:
        return run.effect("pay", bank.charge, 7)

    def answer(shown: Any) -> None:
        assert (shown.in_doubt, effect(other).details["content"]) == (("pay",), [7])
        assert len(shown.waits) == 1
        other.runs.settle("r", "1", happened, [1, 7] if happened else None)
        with pytest.raises(interlock.Refused):
            other.runs.settle("r", "1", not happened)

    crash(space, program)
    with once_it_waits(other, answer):
        assert work(space, program) == [1, 7]
    assert (len(bank.calls), len(bank.done)) == (1, 1)
    assert states(other)[1:] == ["Processing", "AwaitingInput", "Processing", "Completed"]


def test_an_answer_is_for_one_attempt(facades: Facades, other: Any) -> None:
    """Said once that it has not happened, and it is called again: then nobody knows again."""
    space, bank = facades.open(), Bank()

    def program(run: Any) -> Any:
        return run.effect("pay", bank.charge, 7)

    bank.dies = "before"
    crash(space, program)
    other.runs.settle("r", "1", False)
    bank.dies = "after"
    crash(space, program)
    assert len(bank.calls) == 1
    other.runs.settle("r", "1", True, "looked up")
    assert work(space, program) == "looked up"
    assert len(bank.calls) == 1, "nothing is charged twice on an old word"


def test_only_what_is_in_doubt_is_settled(facades: Facades, other: Any) -> None:
    space = facades.open()

    def program(run: Any) -> None:
        run.step("s", len, "abc")
        run.effect("pay", Bank().charge, 7)
        position = other.position()
        for path in ("1", "2", "3", "", "1/2", None, 2):
            with pytest.raises(interlock.Invalid):
                other.runs.settle("r", path, True)
        with pytest.raises(interlock.Invalid):
            other.runs.settle("nobody", "1", True)
        assert other.position() == position

    work(space, program)


def test_what_is_certainly_not_done_is_recorded_and_raised_again(space: Any) -> None:
    called = Calls()

    def declined(key: str, amount: int) -> None:
        called(key)
        raise interlock.NotDone("no money")

    def program(run: Any, end: End) -> Any:
        with pytest.raises(interlock.NotDone, match="no money"):
            run.effect("pay", declined, 7)
        return run.step("end", end)

    crash(space, lambda run: program(run, crashing))
    assert work(space, lambda run: program(run, lambda: "end")) == "end"
    assert (len(called.made), effect(space).state) == (1, "refused")


def test_any_other_failure_of_the_call_leaves_it_in_doubt(space: Any) -> None:
    bank = Bank()

    def breaks(key: str, amount: int) -> Any:
        bank.charge(key, amount)
        raise ConnectionError("the line is dead")

    def program(run: Any, fn: Any) -> Any:
        return run.effect("pay", fn, 7, in_doubt="retry")

    with pytest.raises(interlock.InDoubt, match="the line is dead") as doubt:
        work(space, lambda run: program(run, breaks))
    assert (doubt.value.effect, doubt.value.path) == ("pay", "1")
    assert isinstance(doubt.value.problem, ConnectionError)
    shown = space.runs.show("r")
    assert (shown.state, shown.failures, shown.in_doubt) == ("Processing", 1, ("pay",))
    assert work(space, lambda run: program(run, bank.charge)) == [1, 7]
    assert [key for key, _ in bank.calls] == [doubt.value.key] * 2


def test_a_failed_call_that_can_be_looked_up_is_not_in_doubt(space: Any) -> None:
    bank = Bank()

    def breaks(key: str, amount: int) -> Any:
        bank.charge(key, amount)
        raise ConnectionError("the line is dead")

    assert work(space, lambda run: run.effect("pay", breaks, 7, check=bank.look)) == [1, 7]


def test_a_run_does_not_complete_while_an_effect_is_in_doubt(space: Any) -> None:
    bank = Bank()

    def breaks(key: str) -> Any:
        raise ConnectionError("the line is dead")

    def program(run: Any, fn: Any) -> str:
        with suppress(interlock.InDoubt):
            run.effect("pay", fn, in_doubt="retry")
        return "done"

    with pytest.raises(interlock.InDoubt):
        work(space, lambda run: program(run, breaks))
    assert space.runs.show("r").state == "Processing"
    assert work(space, lambda run: program(run, bank.charge)) == "done"
    assert len(bank.calls) == 1


def test_the_idempotency_key_is_of_the_run_the_name_and_the_content(space: Any) -> None:
    bank = Bank()

    def program(run: Any) -> None:
        run.effect("pay", bank.charge, 7)
        run.effect("pay", bank.charge, 8)
        run.effect("send", bank.charge, 7)
        run.effect("pay", bank.charge, 7, key="another")
        run.step("s", lambda: run.effect("pay", bank.charge, 9))

    work(space, program)
    work(space, program, "another")
    assert len(bank.done) == len(bank.calls) == 10
    assert all(isinstance(key, str) and len(key) >= 16 for key in bank.done)


def test_the_same_action_twice_is_refused_wherever_it_stands(space: Any) -> None:
    """The key does not depend on the place: so the second one could not be told from the first."""
    bank = Bank()

    def program(run: Any, **again: Any) -> None:
        run.effect("pay", bank.charge, 7)
        run.step("between", len, "abc")
        run.step("s", lambda: run.effect("pay", bank.charge, 7, **again))

    with pytest.raises(interlock.Invalid, match="key="):
        work(space, program)
    assert (len(bank.calls), len(space.runs.show("r").steps)) == (1, 2)
    work(space, lambda run: program(run, key="the second"))
    assert len(bank.done) == 2


@pytest.mark.parametrize("how", ["record", "records", "versions"])
def test_an_effect_is_held_back_where_what_it_was_decided_from_moved(
    facades: Facades, other: Any, how: str
) -> None:
    space, bank = facades.open(), Bank()
    other.create("price", 7)

    def program(run: Any, meanwhile: End) -> Any:
        price = other.read("price")
        meanwhile(price)
        given = {"record": price, "records": [price], "versions": {"price": price.version}}
        return run.effect("pay", bank.charge, price.value, decided_from=given[how])

    with pytest.raises(interlock.Conflict) as moved:
        work(space, lambda run: program(run, lambda price: other.write(price, 8)))
    assert (moved.value.key, bank.calls) == ("price", [])
    assert other.runs.show("r").steps == ()
    assert work(space, lambda run: program(run, lambda price: None)) == [1, 8]


@pytest.mark.parametrize("in_doubt", ["ask", "retry"])
def test_what_an_effect_was_decided_from_counts_again_where_it_has_not_happened(
    facades: Facades, other: Any, in_doubt: str
) -> None:
    space, bank = facades.open(), Bank()
    other.create("price", 7)
    check = {"check": bank.look} if in_doubt == "ask" else {}

    def program(run: Any) -> Any:
        price = other.read("price")
        return run.effect("pay", bank.charge, 7, decided_from=price, in_doubt=in_doubt, **check)

    bank.dies = "before"
    crash(space, program)
    read = other.read("price")

    def moved(run: Any) -> Any:
        return run.effect("pay", bank.charge, 7, decided_from=read, in_doubt=in_doubt, **check)

    other.write(read, 8)
    if in_doubt == "retry":  # the first call may have been made: it is made again
        assert work(space, moved) == [1, 7]
    else:
        with pytest.raises(interlock.Conflict):
            work(space, moved)
        assert bank.calls == []
        assert work(space, program) == [1, 7]


def held_back(key: str, *args: Any) -> None:
    raise interlock.BreakerOpen(BreakerOpen("the breaker is open", "bank", "open", 0.01, "down"))


def test_an_answer_is_not_taken_for_a_call_after_the_breaker_was_open(
    facades: Facades, other: Any
) -> None:
    space, bank = facades.open(), Bank()

    def program(run: Any, fn: Any) -> Any:
        return run.effect("pay", fn, 7)

    bank.dies = "before"
    crash(space, lambda run: program(run, bank.charge))
    other.runs.settle("r", "1", False)
    with pytest.raises(interlock.BreakerOpen):
        work(space, lambda run: program(run, held_back))
    bank.dies = "after"
    crash(space, lambda run: program(run, bank.charge))
    other.runs.settle("r", "1", True, "looked up")
    assert work(space, lambda run: program(run, bank.charge)) == "looked up"
    assert len(bank.calls) == 1


def test_what_is_in_doubt_stays_so_while_the_breaker_is_open(space: Any) -> None:
    bank = Bank()

    def program(run: Any, fn: Any, end: End = lambda: None) -> Any:
        run.effect("pay", fn, "pay", in_doubt="retry", compensate=bank.refund)
        return run.step("end", end)

    bank.dies = "after"
    crash(space, lambda run: program(run, bank.charge))
    with pytest.raises(interlock.BreakerOpen):
        work(space, lambda run: program(run, held_back))
    assert space.runs.show("r").in_doubt == ("pay",)
    assert space.runs.cancel("r", "not wanted") is False
    with pytest.raises(interlock.RunFailed, match="not wanted"):
        work(space, lambda run: program(run, bank.charge))
    assert [result for _, result in bank.undone] == [[1, "pay"]]
