"""The commands for durable runs and workers: output, JSON and exit codes."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main

PROGRAMS = """
import interlock

def order(run):
    amount = run.step("amount", lambda: run.input["amount"])
    run.effect("charge", lambda key, n: {"charged": n}, amount, compensate=lambda key, made: None)
    if not run.wait_for("approval"):
        raise interlock.RunFailed("not approved")

    def book():
        run.tx.create(f"booking/{run.id}", amount)

    run.step("book", book)
    return "booked"

def doubtful(run):
    def call(key):
        raise ConnectionError("no answer")
    return run.effect("mail", call)

def broken(run):
    raise ValueError("it [red]is[/red] broken")

async def awaited(run):
    return await run.step("one", lambda: 1)
"""


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "cli_programs.py").write_text(PROGRAMS)
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'cli.db'}"


@pytest.fixture
def call(url: str) -> Any:
    def run(*arguments: str) -> Result:
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_AGENT": "shell", "COLUMNS": "200"}
        return CliRunner().invoke(main, list(arguments), env=environment)

    return run


@pytest.fixture
def ordered(call: Any) -> Any:
    """Orders r1 and r2, which wait for approval."""
    for name in ("r1", "r2"):
        done = call("runs", "start", name, "cli_programs:order", "--input", '{"amount": 5}')
        assert done.stdout == f"{name} is there for a worker of cli_programs:order\n"
    worked = call("worker", "cli_programs:order", "--once")
    assert sorted(worked.stdout.splitlines()) == [
        "r1 (cli_programs:order) waits",
        "r2 (cli_programs:order) waits",
    ]
    assert worked.stderr == "working on cli_programs:order, 4 runs at a time\n"
    return call


def shown(call: Any, name: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(call("runs", "show", name, "--json").stdout)
    return told


def test_a_run_is_started_answered_and_completed(ordered: Any) -> None:
    again = ordered("runs", "start", "r1", "cli_programs:order")
    assert (again.exit_code, "'$run/r1'" in again.stderr) == (3, True)
    told = shown(ordered, "r1")
    assert (told["state"], told["waits"]) == ("AwaitingInput", ["approval"])
    assert [step["name"] for step in told["steps"]] == ["amount", "charge", "approval"]
    for name, answer in (("r1", "true"), ("r2", "false")):
        assert ordered("runs", "send", name, "approval", answer).exit_code == 0
    assert ordered("runs", "send", "r1", "approval", "true").exit_code == 3
    worked = ordered("worker", "cli_programs:order", "--once", "--json").stdout.splitlines()
    ended = {each["id"]: (each["how"], each["error"]) for each in map(json.loads, worked)}
    assert ended == {"r1": ("completed", None), "r2": ("failed", "not approved")}
    assert json.loads(ordered("get", "booking/r1").stdout) == 5
    assert 'result: "booked"' in ordered("runs", "show", "r1").stdout
    late = ordered("runs", "send", "r1", "more", "1")
    assert (late.exit_code, "has ended" in late.stderr) == (2, True)


def test_runs_are_listed_and_chosen(ordered: Any) -> None:
    ordered("runs", "send", "r1", "approval", '"yes"', "--text")
    ordered("worker", "cli_programs:order", "--once")
    table = ordered("runs", "list").stdout
    assert "Completed" in table
    assert "AwaitingInput" in table
    assert "r1" not in ordered("runs", "list", "--open").stdout
    lines = ordered("runs", "list", "--state", "completed", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r1"]
    assert ordered("runs", "list", "--state", "parked").stdout == "no runs\n"
    assert ordered("runs", "list", "--state", "gone").exit_code == 2


def test_an_effect_in_doubt_is_settled(call: Any) -> None:
    call("runs", "start", "m", "cli_programs:doubtful")
    work = ("worker", "cli_programs:doubtful", "--once")
    assert "m (cli_programs:doubtful) again: " in call(*work).stdout
    call("runs", "resume", "m")
    assert (
        call(*work).stdout == "m (cli_programs:doubtful) waits: " + shown(call, "m")["error"] + "\n"
    )
    asked = "interlock runs settle m 1 --happened (or --not-happened)"
    assert asked in call("runs", "show", "m").stdout
    assert shown(call, "m")["in_doubt"] == ["mail"]
    assert call("runs", "settle", "m", "1").exit_code == 2
    done = call("runs", "settle", "m", "1", "--happened", "--result", '"sent"')
    assert done.stdout == "step 1 of m is known to have happened\n"
    call(*work)
    assert (shown(call, "m")["state"], shown(call, "m")["result"]) == ("Completed", "sent")


def test_a_parked_run_is_shown_resumed_and_cancelled(call: Any) -> None:
    call("runs", "start", "b", "cli_programs:broken")
    work = ("worker", "cli_programs:broken", "--once", "--attempts", "1", "--slots", "1")
    error = "ValueError('it [red]is[/red] broken')"
    parked = f"b (cli_programs:broken) parked: {error}\n"
    assert call(*work).stdout == parked
    assert call(*work).stdout == ""
    table = call("runs", "list", "--state", "parked").stdout
    assert "AwaitingInput (parked)" in table
    assert error in table
    assert call("runs", "resume", "b").stdout == "b is to be taken up again\n"
    assert call(*work, "--ttl", "5", "--poll", "0.1").stdout == parked
    assert call("runs", "cancel", "b", "--reason", "useless").stdout == "b has failed\n"
    assert (shown(call, "b")["state"], shown(call, "b")["error"]) == ("Failed", "useless")
    assert call("runs", "resume", "b").exit_code == 2


def test_cancelling_has_a_worker_undo(ordered: Any) -> None:
    said = "r1 fails as soon as a worker has undone what it did\n"
    assert ordered("runs", "cancel", "r1").stdout == said
    worked = ordered("worker", "cli_programs:order", "--once").stdout
    assert worked == "r1 (cli_programs:order) failed: cancelled\n"
    assert [step["path"] for step in shown(ordered, "r1")["steps"]][-1] == "undo.2"


def test_coroutine_functions_have_a_worker_of_their_own(call: Any) -> None:
    call("runs", "start", "a", "cli_programs:awaited")
    assert call("worker", "cli_programs:awaited", "--once").stdout == (
        "a (cli_programs:awaited) completed\n"
    )
    mixed = call("worker", "cli_programs:awaited", "cli_programs:order", "--once")
    assert (mixed.exit_code, "one worker for" in mixed.stderr) == (2, True)
    assert call("worker", "cli_programs:no_such", "--once").exit_code == 2
    assert call("worker", "cli_programs:order", "--slots", "0").exit_code == 2
    assert call("worker").exit_code == 2


def test_a_run_is_replayed_forwards_and_back_and_at_any_moment(ordered: Any, url: str) -> None:
    ordered("runs", "send", "r1", "approval", "true")
    ordered("worker", "cli_programs:order", "--once")
    lines = ordered("runs", "replay", "r1", "--json").stdout.splitlines()
    moments = [json.loads(line) for line in lines]
    assert [each["run"]["state"] for each in moments][:2] == ["Idle", "Processing"]
    assert moments[-1]["run"]["result"] == "booked"
    (booked,) = [m for m in moments if any(e["key"] == "booking/r1" for e in m["entries"])]
    assert [e["key"] for e in booked["entries"]] == ["booking/r1", "$run/r1/step/4"]
    assert [step["name"] for step in booked["run"]["steps"]][-1] == "book"
    back = ordered("runs", "replay", "r1", "--json", "--back").stdout.splitlines()
    assert back == lines[::-1]
    assert ordered("runs", "replay", "r1", "--json", "--from", "3").stdout.splitlines() == lines[2:]
    third = ordered("runs", "replay", "r1", "--json", "--from", "3", "--back").stdout
    assert third.splitlines() == lines[2::-1]
    for moment in (moments[2]["at"], str(moments[2]["position"]), str(moments[3]["position"] - 1)):
        assert ordered("runs", "replay", "r1", "--json", "--at", moment).stdout == lines[2] + "\n"
    text = ordered("runs", "replay", "r1").stdout
    assert f"1 of {len(lines)}: position {moments[0]['position']}, " in text
    assert "  then Completed; 1 amount finished; 2 charge finished; 3 approval finished; 4" in text
    # What is folded from the log is what the records hold.
    with interlock.open(url) as space:
        assert space.runs.replay("r1")[-1].run == space.runs.show("r1")


def test_a_moment_that_is_not_there_is_refused(ordered: Any) -> None:
    for options in (["--at", "1"], ["--from", "99"], ["--at", "soon"], ["--at", "9", "--back"]):
        assert ordered("runs", "replay", "r1", *options).exit_code == 2
    missing = ordered("runs", "replay", "none")
    assert (missing.exit_code, "Nothing of a run 'none'" in missing.stderr) == (2, True)


def test_on_a_terminal_one_walks(ordered: Any, url: str) -> None:
    mine, theirs = pty.openpty()
    command = (sys.executable, "-c", "from interlock.cli import main; main()")
    process = subprocess.Popen(
        [*command, "runs", "replay", "r1", "--store", url],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""

    def until(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([mine], [], [], 20)[0], f"{text!r} does not come: {seen!r}"
            seen += os.read(mine, 4096)
        seen = seen.partition(text)[2]

    prompt = b"[Enter next, p previous, q quit] "
    until(b"1 of ")
    # Before the first there is nothing.
    for line, number in ((b"\n", 2), (b"n\n", 3), (b"p\n", 2), (b"p\n", 1), (b"p\n", 1)):
        until(prompt)
        os.write(mine, line)
        until(b"%d of " % number)
    until(prompt)
    os.write(mine, b"q\n")
    assert process.wait(20) == 0
    os.close(mine)
