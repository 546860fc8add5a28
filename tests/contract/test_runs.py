"""Durable runs: steps that are done once, by one process at a time, whoever crashes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest

import interlock
from interlock.core.machine import AGENT_LIFECYCLE
from tests.facades import Facades, elsewhere

Program = Callable[[Any], Any]
End = Callable[..., Any]


class Crash(BaseException):
    """What ends a process, as far as it can be had without ending one: nothing more is recorded."""


def crashing(*_: object) -> Any:
    raise Crash


def work(space: Any, program: Program, run_id: str = "r", **options: Any) -> Any:
    """Do a run as far as it goes, and return its result."""
    with space.run(run_id, **options) as run:
        run.result = program(run)
    return space.runs.show(run_id).result


def crash(space: Any, program: Program, run_id: str = "r", **options: Any) -> None:
    """Do a run until its process dies."""
    with pytest.raises(Crash):
        work(space, program, run_id, **options)


@contextmanager
def once_it_waits(
    other: Any, act: Callable[[Any], Any], agent: str = "", step: str = ""
) -> Iterator[None]:
    """Act in a thread, on what is shown of run `r`, once it waits.

    That is once it is AwaitingInput (of `agent`), or has come to `step`.
    """

    def wait() -> Any:
        for _ in range(1000):
            shown = {run.id: run for run in other.runs.list(open=True)}.get("r")
            found = other.runs.show("r") if shown else None
            if step and found and any(each.name == step for each in found.steps):
                return act(found)
            if shown and shown.state == "AwaitingInput" and agent in ("", shown.agent):
                return act(found)
            threading.Event().wait(0.005)
        other.runs.cancel("r")
        return pytest.fail("the run does not wait")

    with ThreadPoolExecutor(1) as thread:
        acting = thread.submit(wait)
        yield
        acting.result()


class Calls:
    """A function that counts its calls, and answers with how many there were."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> list[Any]:
        self.made.append(args)
        return [len(self.made), *args]


def states(space: Any, run_id: str = "r") -> list[str]:
    """Return the states of a run in the order of the log, each once while it lasts."""
    found: list[str] = []
    for entry in space.log():
        if entry.key in (f"$runs/open/{run_id}", f"$runs/done/{run_id}") and entry.value:
            state = entry.value["state"]
            found += [] if found[-1:] == [state] else [state]
    return found


def walks(found: list[str]) -> bool:
    """Whether a machine of agents may go this way."""
    moves = pairwise(found)
    first = found[0] in AGENT_LIFECYCLE.initial
    return first and all(after in AGENT_LIFECYCLE.transitions[before] for before, after in moves)


def test_a_finished_step_is_not_done_again(space: Any) -> None:
    first, second = Calls(), Calls()

    def program(run: Any, ends: End) -> Any:
        one = run.step("first", first, "a")
        return [one, run.step("end", ends), run.step("second", second, one)]

    crash(space, lambda run: program(run, crashing))
    assert space.runs.show("r").state == "Processing"
    assert work(space, lambda run: program(run, lambda: "end")) == [[1, "a"], "end", [1, [1, "a"]]]
    assert (first.made, second.made) == ([("a",)], [([1, "a"],)])
    shown = space.runs.show("r")
    assert [(s.path, s.kind, s.name, s.state) for s in shown.steps] == [
        ("1", "step", "first", "finished"),
        ("2", "step", "end", "finished"),
        ("3", "step", "second", "finished"),
    ]
    assert (shown.state, shown.result) == ("Completed", [[1, "a"], "end", [1, [1, "a"]]])


def test_a_completed_run_repeats_nothing(space: Any) -> None:
    done = Calls()
    assert work(space, lambda run: run.step("s", done)) == [1]
    log = space.position()
    with space.run("r", input="ignored") as run:
        assert (run.state, run.result, run.input) == ("Completed", [1], None)
        assert run.step("s", done) == [1]
        with pytest.raises(interlock.ProgramChanged):
            run.step("new", done)
    assert (done.made, space.position()) == ([()], log)


def test_results_are_what_will_be_read_again_in_the_first_run_too(space: Any) -> None:
    def program(run: Any) -> Any:
        one = run.step("s", lambda: ({"n": (1, 2)}, 2**70))
        one[0]["n"].append(3)  # the caller's own copy
        return one

    with space.run("r") as run:
        assert program(run) == [{"n": [1, 2, 3]}, 2**70]
    with space.run("r") as run:
        assert program(run) == [{"n": [1, 2, 3]}, 2**70]


def test_steps_are_looped_and_nested(space: Any) -> None:
    inner = Calls()

    def program(run: Any, end: End) -> Any:
        def outer(number: int) -> Any:
            found = [run.step("inner", inner, number, each) for each in "ab"]
            return [*found, run.step("end", end, number)]

        return [run.step("outer", outer, number) for number in range(2)]

    crash(space, lambda run: program(run, lambda number: crashing() if number else "end"))
    assert [step.path for step in space.runs.show("r").steps] == [
        *("1", "1.1", "1.2", "1.3", "2.1", "2.2")
    ]
    assert work(space, lambda run: program(run, lambda _: "end")) == [
        [[1, 0, "a"], [2, 0, "b"], "end"],
        [[3, 1, "a"], [4, 1, "b"], "end"],
    ]
    assert len(inner.made) == 4


def test_steps_at_the_same_time(space: Any) -> None:
    inner, together = Calls(), threading.Barrier(2)

    def program(run: Any, end: End) -> Any:
        def outer(name: str) -> Any:
            found = run.step("inner", inner, name)[1:]
            if end is crashing:
                together.wait(20)  # neither ends before the other has come so far
            return [found, name == "b" and end()]

        return [run.parallel(("a", outer, "a"), ("b", outer, "b")), run.step("last", len, "abc")]

    crash(space, lambda run: program(run, crashing))
    assert sorted(inner.made) == [("a",), ("b",)]
    assert work(space, lambda run: program(run, lambda: "end")) == [
        [[["a"], False], [["b"], "end"]],
        3,
    ]
    assert len(inner.made) == 2
    paths = [(step.path, step.name) for step in space.runs.show("r").steps]
    assert paths == [("1", "a"), ("1.1", "inner"), ("2", "b"), ("2.1", "inner"), ("3", "last")]


def test_what_a_step_writes_commits_with_its_record_or_not_at_all(space: Any) -> None:
    space.create("account", 10)

    def pay(run: Any, ends: End) -> Any:
        def think() -> str:
            account = run.tx.read("account")
            run.tx.write(account, account.value - 1)
            run.tx.create("receipt", 1)
            assert space.read("receipt").version == 0
            ends()
            return "paid"

        return run.step("pay", think)

    crash(space, lambda run: pay(run, crashing))
    assert (space.read("account").value, space.runs.show("r").steps) == (10, ())
    for _ in range(2):
        work(space, lambda run: pay(run, Calls()))
        assert (space.read("account").value, space.read("receipt").version) == (9, 1)
    step = space.runs.show("r").steps[0]
    ops = {e.op_id for e in space.log() if e.key in ("account", "receipt", "$run/r/step/1")}
    first = next(iter(space.history("account")))
    assert (step.result, len(ops)) == ("paid", 2), "the account's first entry, and one commit"
    assert first.op_id in ops


def test_a_step_runs_again_where_its_reads_have_moved_and_not_its_inner_steps(
    facades: Facades, other: Any
) -> None:
    space, inner, thoughts = facades.open(), Calls(), []
    other.create("count", 1)

    def program(run: Any) -> Any:
        def add() -> Any:
            count = run.tx.read("count")
            thoughts.append(count.value)
            seen = run.step("inner", inner)
            if len(thoughts) == 1:
                elsewhere(other.update, "count", lambda n: n + 10)
            run.tx.write(count, count.value + 1)
            return [count.value + 1, *seen]

        return run.step("add", add)

    assert work(space, program) == [12, 1]
    assert (thoughts, inner.made, other.read("count").value) == ([1, 11], [()], 12)


def test_outside_of_a_step_there_is_no_transaction(space: Any) -> None:
    with space.run("r") as run:
        with pytest.raises(interlock.Invalid, match=r"run\.step"):
            run.tx  # noqa: B018  # it is asked for
        run.step("s", lambda: run.tx.create("k", 1))
        with pytest.raises(interlock.Invalid, match=r"run\.step"):
            run.tx  # noqa: B018  # it is asked for


CHANGED: dict[str, Program] = {
    "name": lambda run: [run.step("another", len, "abc"), run.step("b", len, "abcd")],
    "arguments": lambda run: [run.step("a", len, "xyz"), run.step("b", len, "abcd")],
    "order": lambda run: [run.step("b", len, "abcd"), run.step("a", len, "abc")],
    "kind": lambda run: [run.effect("a", len), run.step("b", len, "abcd")],
    "kind of waiting": lambda run: [run.step("a", len, "abc"), run.sleep(0)],
    "fewer": lambda run: run.step("a", len, "abc"),
    "none": lambda run: None,
    "one more before": lambda run: [run.step("new", len, ""), run.step("a", len, "abc")],
    "deeper": lambda run: [run.step("a", len, "abc"), run.step("c", lambda: run.step("b", len))],
}


@pytest.mark.any_store
@pytest.mark.parametrize("how", CHANGED)
def test_a_changed_program_is_reported(space: Any, how: str) -> None:
    def program(run: Any) -> None:
        run.step("a", len, "abc")
        run.step("b", len, "abcd")
        run.step("c", crashing)

    crash(space, program)
    with pytest.raises(interlock.ProgramChanged) as refused:
        work(space, CHANGED[how])
    assert "'r'" in str(refused.value)
    shown = space.runs.show("r")
    assert [(step.name, step.result) for step in shown.steps] == [("a", 3), ("b", 4)]
    assert (shown.state, shown.failures) == ("Processing", 1)
    work(space, lambda run: [run.step("a", len, "abc"), run.step("b", len, "abcd")])


def test_a_step_that_has_fewer_steps_inside_is_reported(space: Any) -> None:
    def program(run: Any, inside: int) -> Any:
        def outer() -> None:
            for number in range(inside):
                run.step("inner", len, "x" * number)
            if inside == 2:
                raise Crash

        return run.step("outer", outer)

    crash(space, lambda run: program(run, 2))
    with pytest.raises(interlock.ProgramChanged):
        work(space, lambda run: program(run, 1))


def test_a_lost_step_among_those_at_the_same_time_is_reported(space: Any) -> None:
    crash(space, lambda run: run.parallel(("a", len, ""), ("b", crashing), ("c", len, "")))
    done = [step.path for step in space.runs.show("r").steps]
    if "3" in done:  # asyncio may have gone on without it
        with pytest.raises(interlock.ProgramChanged):
            work(space, lambda run: run.step("a", len, ""))
    assert work(space, lambda run: run.parallel(*((n, len, "") for n in "abc"))) == [0, 0, 0]


def test_one_works_on_a_run_and_others_are_held_back(facades: Facades, other: Any) -> None:
    space = facades.open("us")
    with space.run("r") as run:
        run.step("s", len, "")
        with pytest.raises(interlock.Held) as held:
            other.run("r", wait=0).__enter__()
        assert held.value.holder == "us"
        assert 0 < held.value.seconds <= 30
        with other.run("another", wait=0) as second:
            assert second.state == "Processing"
    assert other.runs.show("r").state == "Completed"


def test_another_process_waits_until_the_run_is_free(facades: Facades, other: Any) -> None:
    space, done = facades.open("us"), Calls()

    def takes_over() -> Any:
        with other.run("r", wait=30) as run:
            return run.step("s", done)

    thread = threading.Thread(target=takes_over)

    def dies(run: Any) -> None:
        run.step("s", done)
        thread.start()
        thread.join(0.05)
        assert thread.is_alive(), "it waits"
        raise Crash

    crash(space, dies)
    thread.join(30)
    assert (done.made, other.runs.show("r").state) == ([()], "Completed")


ZOMBIE: dict[str, Callable[[Any, Any], Any]] = {
    "step": lambda run, space: run.step("late", lambda: run.tx.create("late", 1)),
    "intent": lambda run, space: run.effect("late", lambda key: space.create("late", 1)),
    "wait": lambda run, space: run.wait_for("late"),
    "sleep": lambda run, space: run.sleep(0),
    "random": lambda run, space: run.random(),
    "completion": lambda run, space: None,
    "failure": lambda run, space: (_ for _ in ()).throw(interlock.RunFailed("late")),
}


@pytest.mark.parametrize("what", ZOMBIE)
def test_a_zombie_commits_nothing(facades: Facades, other: Any, what: str) -> None:
    space = facades.open("zombie")
    positions = []

    def program(run: Any) -> None:
        run.step("s", len, "abc")
        other.runs.reclaim("r")
        elsewhere(work, other, lambda again: again.step("s", pytest.fail, "abc"), wait=0)
        positions.append(other.position())
        ZOMBIE[what](run, other)

    with pytest.raises((interlock.Fenced, interlock.RunFailed)) as stopped:
        work(space, program)
    refusals = [str(stopped.value), *getattr(stopped.value, "__notes__", ())]
    assert any("epoch" in refusal for refusal in refusals), refusals
    assert (other.position(), other.read("late").version) == (positions[0], 0)
    assert (other.runs.show("r").state, other.runs.show("r").result) == ("Completed", 3)


def test_a_zombie_does_not_record_the_result_of_its_effect(facades: Facades, other: Any) -> None:
    space, seen = facades.open("zombie"), []

    def charge(key: str) -> str:
        seen.append(key)
        other.runs.reclaim("r")
        taken = {"in_doubt": "retry"}
        elsewhere(work, other, lambda run: run.effect("pay", lambda k: k, **taken), wait=0)
        return "late"

    with pytest.raises(interlock.Fenced), space.run("r") as run:
        run.effect("pay", charge, in_doubt="retry")
    step = other.runs.show("r").steps[0]
    assert (step.state, [step.result]) == ("finished", seen), "the second one's, under one key"


def test_whoever_waits_for_a_run_that_was_taken_away_is_told(facades: Facades, other: Any) -> None:
    space = facades.open("zombie")

    with once_it_waits(other, lambda _: other.runs.reclaim("r")), pytest.raises(interlock.Fenced):
        work(space, lambda run: run.wait_for("never"))
    assert other.runs.show("r").failures == 0


def test_a_step_refuses_an_update_of_what_its_transaction_has_read(space: Any) -> None:
    space.create("k", 1)

    def program(run: Any) -> None:
        def step() -> None:
            run.tx.read("k")
            space.update("k", lambda n: n + 1)

        run.step("outer", step)

    with pytest.raises(interlock.Invalid, match="being decided in a transaction"):
        work(space, program)
    assert space.read("k").value == 1
