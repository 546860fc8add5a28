"""`kill -9` of a durable run at random moments: each effect once, and the state that is due.

`INTERLOCK_TEST_KILLS` says how many kills are to strike, on each backend.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any

import interlock
from tests.processes.bank import Bank, ask
from tests.processes.bank_runs import EFFECTS, work
from tests.processes.writers import FORKSERVER, Place, preload

KILLS = int(os.environ.get("INTERLOCK_TEST_KILLS", "40"))
OF_A_RUN = 0.3  # of the time that an undisturbed run takes: the longest until a kill
AT_THE_START = 0.15  # of the kills strike while the process opens the space and takes the run up
preload(work.__module__)


def test_a_run_that_is_killed_again_and_again_has_each_effect_once(
    place: Place, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(20261121)
    began = time.monotonic()
    with Bank() as bank, interlock.open(place.url, space=place.space, agent="boss") as space:
        assert not Attempt(place, "warm", bank.port).killed()
        opening, working, expected = undisturbed(place, space, bank.port)
        runs, struck, starts = ["warm", "undisturbed"], 0, 0
        while struck < KILLS:
            runs.append(run_id := f"run-{len(runs)}")
            killed = True
            while killed:
                attempt, starts = Attempt(place, run_id, bank.port), starts + 1
                if chance.random() > AT_THE_START:
                    attempt.hear("in the run")
                    seconds = chance.uniform(0, working * OF_A_RUN)
                else:
                    seconds = chance.uniform(0, opening)
                killed = attempt.killed(seconds if struck < KILLS else None)
                struck += killed
                if killed:
                    space.runs.reclaim(run_id)
            assert outcome(space, run_id) == expected
        ledger = ask(bank.port, "ledger")
        assert sorted(map(tuple, ledger["booked"])) == sorted(
            (step.details["key"], step.result["amount"])
            for run_id in runs
            for step in space.runs.show(run_id).steps
            if step.kind == "effect"
        )
        assert len(ledger["booked"]) == EFFECTS * len(runs)
        assert struck >= KILLS
        said = figures(runs, struck, starts, ledger, time.monotonic() - began)
        record_property("killed", f"{place.url.partition(':')[0]}: {said}")


class Attempt:
    """A process that works on a run; it has begun."""

    def __init__(self, place: Place, run_id: str, port: int) -> None:
        self._signs, theirs = FORKSERVER.Pipe(duplex=False)
        arguments = (place, run_id, port, theirs)
        self._process = FORKSERVER.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self.hear("begun")

    def hear(self, sign: str) -> None:
        """Wait for a sign of life."""
        assert self._signs.recv() == sign

    def killed(self, seconds: float | None = None) -> bool:
        """Return whether it was killed after so many seconds, or has come to its end before."""
        if not wait([self._process.sentinel], seconds):
            assert self._process.pid is not None
            with suppress(ProcessLookupError):  # it has come to its end by now
                os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()
        self._signs.close()
        assert self._process.exitcode in (0, -signal.SIGKILL)
        return self._process.exitcode != 0


def undisturbed(place: Place, space: interlock.Space, port: int) -> tuple[float, float, Any]:
    """Return how long it takes to take a run up, and to do it, and what comes of it."""
    attempt = Attempt(place, "undisturbed", port)
    began = time.monotonic()
    attempt.hear("in the run")
    entered = time.monotonic()
    assert not attempt.killed()
    ended, found = time.monotonic(), outcome(space, "undisturbed")
    assert (found["state"], len(found["steps"]), len(found["result"])) == ("Completed", 20, 10)
    assert found["keys"]["balance"] == (sum(range(10, 20)), EFFECTS)
    return entered - began, ended - entered, found


def outcome(space: interlock.Space, run_id: str) -> dict[str, Any]:
    """Return the state that a run has led to, with the number of writes of each key."""
    shown = space.runs.show(run_id)
    steps = [(step.path, step.kind, step.name, step.state, step.result) for step in shown.steps]
    records = space.scan(f"{run_id}/").items()
    keys = {key.removeprefix(f"{run_id}/"): (rec.value, rec.version) for key, rec in records}
    return {"state": shown.state, "result": shown.result, "steps": steps, "keys": keys}


def figures(runs: list[str], struck: int, starts: int, ledger: Any, seconds: float) -> str:
    """Say what was gone through."""
    counts = ", ".join(f"{name} {count}" for name, count in ledger["counts"].items())
    return (
        f"{struck} kills in {starts} starts of {len(runs) - 2} runs in {seconds:.0f} s, "
        f"{len(ledger['booked'])} effects; {counts}"
    )
