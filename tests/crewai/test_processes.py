"""Kickoffs of one flow id in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stories import kickoff, no_thought, notes_flow

import interlock
from interlock.adapters.crewai import Persistence

HERE = Path(__file__).parent
KICKOFF = """
import sys
import interlock
from interlock.adapters.crewai import Persistence, typed_errors
from stories import kickoff, notes_flow

def think():
    print("@loaded", flush=True)
    sys.stdin.readline()

with interlock.open(sys.argv[1], agent=sys.argv[2]) as space:
    try:
        with typed_errors():
            kickoff(notes_flow(Persistence(space), think), sys.argv[2])
        print("@kept", flush=True)
    except interlock.Conflict as conflict:
        print("@Conflict with", conflict.writer, flush=True)
"""


def said(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process says to us; CrewAI says much to others."""
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if line.startswith("@"))


def test_of_two_processes_one_is_kept_and_one_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KICKOFF, url, f"process-{index}"],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    try:
        assert [said(each) for each in processes] == ["@loaded"] * 2
        answers = []
        for each in processes:
            assert each.stdin is not None
            each.stdin.write("\n")
            each.stdin.flush()
            answers.append(said(each))
        assert answers == ["@kept", "@Conflict with process-0"]
        assert [each.wait(120) for each in processes] == [0, 0]
    finally:
        for each in processes:
            each.kill()
            each.communicate()
    with interlock.open(url) as space:
        saved = Persistence(space).load_state("trip")
    assert saved is not None
    assert saved["notes"] == ["process-0"]


def test_the_next_kickoff_goes_on_from_the_last_method_before_a_crash(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"

    def first() -> None:
        with interlock.open(url, agent="dies") as space:
            persistence = Persistence(space)
            kickoff(notes_flow(persistence, no_thought), "kept")
            kickoff(notes_flow(persistence, lambda: os._exit(7)), "lost")

    child = os.fork()
    if not child:
        try:
            first()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    with interlock.open(url, agent="next") as space:
        persistence = Persistence(space)
        kickoff(notes_flow(persistence, no_thought), "next")
        assert (persistence.load_state("trip") or {})["notes"] == ["kept", "next"]
