"""Workers in processes of their own: killed, stopped, told to stop, with runs that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from tests.processes.programs import STEPS, notes
from tests.processes.writers import Place
from tests.repository import ROOT
from tests.servers.process import wait_until

COMMAND = (sys.executable, "-c", "from interlock.cli import main; main()", "worker")
MODULE = "tests.processes.programs"
TTL = 1.0  # seconds: what a dead worker's runs wait


class Fleet:
    """Worker processes on one space, and where their programs leave notes."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.notes, self.gate = place, folder / "notes", folder / "gate"
        self.workers: list[subprocess.Popen[str]] = []

    def start(self, program: str, *options: str, name: str = "w") -> subprocess.Popen[str]:
        where = ("--store", self.place.url, "--space", self.place.space, "--agent", name)
        worker = subprocess.Popen(
            (*COMMAND, f"{MODULE}:{program}", *where, "--ttl", str(TTL), "--json", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ},
        )
        self.workers.append(worker)
        return worker

    def given(self, **more: Any) -> dict[str, Any]:
        return {"notes": str(self.notes), "gate": str(self.gate), **more}

    def count(self) -> Counter[str]:
        return Counter(notes(self.notes))

    def open_gate(self) -> None:
        self.gate.touch()

    def until_noted(self, line: str, times: int = 1) -> None:
        wait_until(lambda: self.count()[line] >= times, f"{line!r} noted {times} times")


@pytest.fixture
def fleet(place: Place, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(place, tmp_path)
    yield made
    for worker in made.workers:
        worker.kill()
        worker.communicate()


@pytest.fixture
def space(place: Place) -> Iterator[interlock.Space]:
    with interlock.open(place.url, space=place.space, agent="us") as opened:
        yield opened


def ended(space: interlock.Space, run_id: str) -> None:
    done = ("Completed", "Failed")
    wait_until(lambda: space.runs.show(run_id).state in done, f"the end of run {run_id}")


def told(worker: subprocess.Popen[str]) -> list[tuple[str, str]]:
    """What a worker that has ended has printed: which run, and how it ended."""
    lines = [json.loads(line) for line in worker.communicate(timeout=60)[0].splitlines()]
    return [(line["id"], line["how"]) for line in lines]


def test_another_goes_on_where_a_killed_worker_was(fleet: Fleet, space: interlock.Space) -> None:
    space.runs.start("r", f"{MODULE}:four_steps", fleet.given(gate_at=2))
    first = fleet.start("four_steps", name="first")
    fleet.until_noted("r step 2")
    first.kill()
    fleet.open_gate()
    fleet.start("four_steps", name="second")
    ended(space, "r")
    info = space.runs.show("r")
    assert (info.state, info.result, info.agent) == ("Completed", "all done", "second")
    assert fleet.count() == {"r step 0": 1, "r step 1": 1, "r step 2": 2, "r step 3": 1}
    assert [record.version for record in space.scan("done/r/").values()] == [1] * STEPS


def test_a_zombie_commits_nothing_and_counts_no_failure(
    fleet: Fleet, space: interlock.Space
) -> None:
    space.runs.start("r", f"{MODULE}:four_steps", fleet.given(gate_at=2))
    zombie = fleet.start("four_steps", name="zombie")
    fleet.until_noted("r step 2")
    os.kill(zombie.pid, signal.SIGSTOP)
    fleet.start("four_steps", name="second")
    fleet.until_noted("r step 2", 2)
    os.kill(zombie.pid, signal.SIGCONT)
    fleet.open_gate()  # both go on: only one of them has the lease
    ended(space, "r")
    zombie.send_signal(signal.SIGTERM)
    assert told(zombie) == [("r", "lost")]
    info = space.runs.show("r")
    assert (info.state, info.agent, info.failures) == ("Completed", "second", 0)
    writers = {record.writer for record in space.scan("done/r/").values()}
    assert writers == {"zombie", "second"}, "steps 0 and 1 were the zombie's, while it had the run"
    assert space.scan("done/r/")["done/r/2"].writer == "second"
    assert fleet.count()["r step 3"] == 1


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_worker_that_is_told_to_stop_ends_its_step_and_no_more(
    fleet: Fleet, space: interlock.Space, blow: int, code: int
) -> None:
    space.runs.start("r", f"{MODULE}:four_steps", fleet.given(gate_at=1))
    worker = fleet.start("four_steps", name="first")
    fleet.until_noted("r step 1")
    worker.send_signal(blow)
    assert worker.stderr is not None
    assert "working on" in worker.stderr.readline()
    assert "stopping" in worker.stderr.readline()
    space.runs.start("later", f"{MODULE}:four_steps", fleet.given())
    fleet.open_gate()
    assert told(worker) == [("r", "left")]
    assert worker.returncode == code
    assert fleet.count() == {"r step 0": 1, "r step 1": 1}
    info = space.runs.show("r")
    assert (info.state, len(info.steps), info.failures) == ("Processing", 2, 0)
    # Nobody waits for a lease: it was given up.
    other = fleet.start("four_steps", "--once", name="second")
    assert sorted(told(other)) == [("later", "completed"), ("r", "completed")]
    assert all(times == 1 for times in fleet.count().values())


def test_the_second_signal_ends_a_worker_at_once(fleet: Fleet, space: interlock.Space) -> None:
    space.runs.start("r", f"{MODULE}:four_steps", fleet.given(gate_at=1))
    worker = fleet.start("four_steps")
    fleet.until_noted("r step 1")
    worker.send_signal(signal.SIGTERM)
    assert worker.stderr is not None
    while "stopping" not in worker.stderr.readline():
        assert worker.poll() is None
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == -signal.SIGTERM
    assert [step.path for step in space.runs.show("r").steps] == ["1"]


def test_every_run_is_worked_on_once_by_two_workers(fleet: Fleet, space: interlock.Space) -> None:
    workers = [
        fleet.start(program, "--ttl", "30", name=f"{program}-{n}")
        for program in ("four_steps", "four_awaited")
        for n in range(2)
    ]
    for worker in workers:
        assert worker.stderr is not None
        assert "working on" in worker.stderr.readline()
    for n in range(50):
        program = ("four_steps", "four_awaited")[n % 2]
        space.runs.start(f"r{n}", f"{MODULE}:{program}", fleet.given())
    wait_until(lambda: not space.runs.list(open=True), "the end of 50 runs")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    done = [told(worker) for worker in workers]
    assert sorted(each for some in done for each in some) == sorted(
        (f"r{n}", "completed") for n in range(50)
    )
    assert all(worker.returncode == 0 for worker in workers)
    assert fleet.count() == {f"r{n} step {s}": 1 for n in range(50) for s in range(STEPS)}
    assert len(space.scan("done/")) == 50 * STEPS


def test_a_run_that_fails_too_often_is_parked_until_it_is_resumed(
    fleet: Fleet, space: interlock.Space, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    space.runs.start("r", f"{MODULE}:fails", fleet.given(broken=str(broken)))
    worker = fleet.start("fails", "--attempts", "2")
    wait_until(lambda: space.runs.show("r").parked, "the run is parked")
    info = space.runs.show("r")
    assert (info.state, info.failures, info.waits) == ("AwaitingInput", 2, ("resume",))
    assert info.error == "ValueError('it is broken')"
    broken.unlink()
    space.runs.resume("r")
    ended(space, "r")
    worker.send_signal(signal.SIGTERM)
    assert told(worker) == [("r", "again"), ("r", "parked"), ("r", "completed")]
    info = space.runs.show("r")
    assert (info.result, info.error, info.parked) == ("mended", None, False)
    assert fleet.count() == {"r tried": 3}


def test_a_run_that_kills_its_workers_is_parked(fleet: Fleet, space: interlock.Space) -> None:
    space.runs.start("r", f"{MODULE}:kills_its_worker", fleet.given())
    for _ in range(2):
        worker = fleet.start("kills_its_worker", "--attempts", "2")
        assert worker.wait(60) == -signal.SIGKILL
    fleet.start("kills_its_worker", "--attempts", "2")
    wait_until(lambda: space.runs.show("r").parked, "the run is parked")
    info = space.runs.show("r")
    assert info.error is not None
    assert "2 workers died" in info.error
    assert fleet.count() == {"r dies": 2}
    space.runs.cancel("r", "it kills")
    assert (space.runs.show("r").state, space.runs.show("r").error) == ("Failed", "it kills")
