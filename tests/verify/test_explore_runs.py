"""Durable runs under every schedule: two workers for one run, crashes, stalls and zombies.

The outside that effects call is part of the space here, so that it outlives crashes and invariants
see it.  The numbers are pinned, as in `test_explore`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import interlock
from interlock import Run, Space
from interlock.runs import effect
from interlock.runs.state import RunState
from interlock.verify import Exploration, View, Violation, explore
from tests.verify.conftest import Pin
from tests.verify.test_explore_mutants import mutate

TTL = 1.0  # seconds: shorter than a stall
ALWAYS_HEARD = 1_000_000
Pays = Callable[[Space, Run], Any]


# Two kinds of an outside


def honours_keys(space: Space, run: Run) -> Any:
    """Take each idempotency key once: in doubt, it may be called again."""

    def charge(key: str) -> str:
        space.append("outside", {"charged": key, "epoch": 0}, id=key)
        return key

    return run.effect("pay", charge, in_doubt="retry")


def can_be_asked(space: Space, run: Run) -> Any:
    """Know no keys, but say what was charged; and take no call of an epoch older than a question.

    So the call of a worker that slept comes too late, once its successor has asked.
    """
    return asked_about(space, run, run.epoch)


def takes_late_calls(space: Space, run: Run) -> Any:
    """The same, but whoever calls is heard."""
    return asked_about(space, run, ALWAYS_HEARD)


def asked_about(space: Space, run: Run, epoch: int) -> Any:
    def charge(key: str) -> str:
        space.append("outside", {"charged": key, "epoch": epoch})
        return key

    def look(key: str) -> str | None:
        space.append("outside", {"asked": run.epoch})
        return key if key in charged(space.read("outside").value) else None

    return run.effect("pay", charge, check=look)


def charged(calls: list[dict[str, Any]] | None) -> list[str]:
    """Return what the outside made of the calls, one after the other."""
    newest, found = 0, []
    for call in calls or ():
        newest = max(newest, call.get("asked", 0))
        if "charged" in call and call["epoch"] >= newest:
            found.append(call["charged"])
    return found


def outside(space: Space) -> None:
    space.apply_rules({"outside": interlock.merged("append")})
    space.create("count", 0)


# Two workers for a run of four steps


def worker(pays: Pays) -> Callable[[Space], str]:
    def agent(space: Space) -> str:
        try:
            with space.run("r", ttl=TTL, wait=0) as run:
                run.step("count", lambda: count(run))
                pays(space, run)
                run.step("count", lambda: count(run))
                run.result = run.step("end", len, "abc")
        except interlock.Held:
            return "somebody else works on it"
        return "done"

    return agent


def count(run: Run) -> int:
    record = run.tx.read("count")
    run.tx.write(record, record.value + 1)
    return int(record.value + 1)


def finished(view: View, before: int | None = None) -> list[str]:
    """Return the steps that are recorded as finished, in the order of the log."""
    return [
        entry.key.removeprefix("$run/r/step/")
        for entry in view.log("$run/r/step/")
        if entry.value["state"] == "finished" and (before is None or entry.position < before)
    ]


def each_step_is_finished_once_and_in_order(view: View) -> str | None:
    found = finished(view)
    return None if found == ["1", "2", "3", "4"][: len(found)] else f"finished: {found}"


def what_steps_wrote_came_with_them(view: View) -> str | None:
    counted, steps = view.read("count").value, finished(view)
    return None if counted == len({"1", "3"} & {*steps}) else f"{counted} with steps {steps}"


def paid_once(view: View) -> str | None:
    paid = charged(view.read("outside").value)
    if len(paid) > 1:
        return f"it was paid {len(paid)} times"
    return "it is recorded, and was not paid" if "2" in finished(view) and not paid else None


def what_is_complete_is_whole(view: View) -> str | None:
    for entry in view.log("$runs/done/r"):
        steps = finished(view, entry.position)
        if (entry.value["state"], entry.value["result"], len(steps)) != ("Completed", 3, 4):
            return f"it ended as {entry.value} with steps {steps}"
    return None


def only_who_took_over_last_commits(view: View) -> str | None:
    works = ""
    for entry in view.log("$run"):
        if entry.key.startswith("$runs/") and entry.value is not None:
            works = entry.value["agent"]
        if works and entry.agent != works:
            return f"{entry.agent} writes {entry.key!r} while {works} works on it"
    return None


ALWAYS = (
    each_step_is_finished_once_and_in_order,
    what_steps_wrote_came_with_them,
    paid_once,
    what_is_complete_is_whole,
    only_who_took_over_last_commits,
)


def it_is_complete_in_the_end(view: View) -> str | None:
    """Unless the one crashed while the other, who does not wait, was held back."""
    done = bool(view.log("$runs/done/r"))
    waits = "done" in view.results.values()
    return None if done or (view.crashed and not waits) else f"it is not: {view.results}"


def explored(pays: Pays, **faults: int) -> Exploration:
    return explore(
        dict.fromkeys("ab", worker(pays)),
        setup=outside,
        invariants=ALWAYS,
        final=it_is_complete_in_the_end,
        **{"crashes": 1, "lost_replies": 0, "stalls": 1, **faults},  # type: ignore[arg-type]  # these are numbers only
    )


@pytest.mark.parametrize(
    ("pays", "faults", "counts"),
    [
        (honours_keys, {"stalls": 0, "lost_replies": 1}, (4_202, 1_323)),
        pytest.param(honours_keys, {}, (155_518, 17_879), marks=pytest.mark.slow),
        pytest.param(can_be_asked, {"crashes": 0}, (17_906, 8_019), marks=pytest.mark.slow),
    ],
)
def test_two_workers_for_one_run(
    pin: Pin, pays: Pays, faults: dict[str, int], counts: tuple[int, int]
) -> None:
    """A crash at every boundary, and a stall in which a lease expires: a zombie wakes up."""
    said = [pays.__name__, *(f"no {fault}" for fault, number in faults.items() if not number)]
    pin("run: " + ", ".join(said).replace("_", " "), explored(pays, **faults), counts)


def test_without_the_fence_a_zombie_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = "expected = [*expects, expect(self.fence)]"
    mutate(monkeypatch, RunState, "plan", guard, "expected = [*expects]")
    with pytest.raises(Violation, match="while b works on it") as found:
        explored(honours_keys)
    assert found.value.invariant == "only who took over last commits"


@pytest.mark.slow
def test_without_the_intent_it_is_paid_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = "yield from record(run, {path: intent}, op_id(), expects=expects)"
    mutate(monkeypatch, effect, "_perform", guard, "pass")
    with pytest.raises(Violation, match="it was paid 2 times"):
        explored(can_be_asked)


@pytest.mark.slow
def test_without_recalling_a_step_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, Run, "_do", "found = step.recalled(run, path, made)", "found = None")
    with pytest.raises(Violation, match="finished: "):
        explored(honours_keys)


@pytest.mark.slow
def test_an_outside_that_takes_late_calls_is_called_twice() -> None:
    """Interlock cannot promise more than the other side: a call may arrive late."""

    with pytest.raises(Violation, match="it was paid 2 times"):
        explored(takes_late_calls, crashes=0)
