"""`interlock hook claude`, as Claude Code calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from interlock.cli import main

INTERLOCK = Path(sys.executable).with_name("interlock")


def event(project: Path, session: str, name: str, tool: str = "Edit") -> str:
    told = {"session_id": session, "cwd": str(project), "hook_event_name": name}
    call = {"tool_name": tool, "tool_input": {"file_path": str(project / "CLAUDE.md")}}
    return json.dumps({**told, **call, "tool_use_id": "t1"})


def run(project: Path, session: str, name: str, tool: str = "Edit", *options: str) -> str:
    """Call the hook in a process; return the reason of a refusal."""
    done = subprocess.run(
        [INTERLOCK, "hook", "claude", *options],
        input=event(project, session, name, tool),
        env=os.environ | {"CLAUDE_PROJECT_DIR": str(project)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if not done.stdout:
        return ""
    reason: str = json.loads(done.stdout)["hookSpecificOutput"]["permissionDecisionReason"]
    return reason


def call(text: str, *options: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["hook", "claude", *options], input=text, env=environment)


def read(project: Path, session: str) -> None:
    """Read the file, without a process for each event."""
    for name in ("PreToolUse", "PostToolUse"):
        done = call(event(project, session, name, "Read"), CLAUDE_PROJECT_DIR=str(project))
        assert (done.exit_code, done.output) == (0, "")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "CLAUDE.md").write_text("# Rules\n")
    return tmp_path


def test_two_sessions_on_one_file_in_real_processes(project: Path) -> None:
    file = project / "CLAUDE.md"
    for name in ("PreToolUse", "PostToolUse"):
        assert not run(project, "one", name, "Read")
    read(project, "two")
    assert not run(project, "one", "PreToolUse")
    assert "being written by another agent (one)" in run(
        project, "two", "PreToolUse", "Write", "--wait", "0"
    )
    file.write_text("# Rules\n- of one\n")
    assert not run(project, "one", "PostToolUse")
    assert run(project, "two", "PreToolUse", "Write").endswith("# Rules\n- of one\n")
    assert (project / ".interlock" / ".gitignore").read_text() == "*\n"


def test_the_claim_of_a_session_that_died_runs_out(project: Path) -> None:
    read(project, "one")
    read(project, "two")
    assert not run(project, "one", "PreToolUse", "Edit", "--ttl", "1")
    # It is killed here: nobody gives the claim up.
    assert not run(project, "two", "PreToolUse", "Edit", "--wait", "20")


def test_its_own_failure_blocks_only_if_asked_to(project: Path) -> None:
    nowhere = {"INTERLOCK_URL": "postgresql://user:secret@127.0.0.1:1/none"}
    nowhere_now = nowhere | {"CLAUDE_PROJECT_DIR": str(project)}
    edit, ended = event(project, "one", "PreToolUse"), event(project, "one", "PostToolUse")
    for text, options, code in [
        ("{", (), 1),
        ("[]", (), 1),
        ("{", ("--strict",), 2),
        (edit, ("--store", "nonsense://"), 1),
        (edit, ("--store", "nonsense://", "--strict"), 2),
        (ended, ("--store", "nonsense://", "--strict"), 1),
        (edit, ("--newer-option",), 1),
        (edit, ("--newer-option", "--strict"), 2),
    ]:
        done = call(text, *options, CLAUDE_PROJECT_DIR=str(project))
        assert done.exit_code == code, (text, options)
        assert done.stderr
        assert not done.stdout
    assert not (project / ".interlock").exists()
    done = call(edit, **nowhere_now, PGCONNECT_TIMEOUT="1")
    assert done.exit_code == 1
    assert "nothing is guarded" in done.stderr
    assert "secret" not in done.stderr


def test_what_it_does_not_know_passes_and_makes_no_store(project: Path) -> None:
    for text in (
        event(project, "one", "PreToolUse", "Bash"),
        json.dumps({"hook_event_name": "Brandnew", "session_id": "one"}),
    ):
        done = call(text, CLAUDE_PROJECT_DIR=str(project))
        assert (done.exit_code, done.output) == (0, "")
    assert not (project / ".interlock").exists()


def test_install_prints_or_adds_the_settings(project: Path) -> None:
    shown: Any = json.loads(call("", "--install", "--watch", "MEMORY.md").stdout)
    before, end = shown["hooks"]["PreToolUse"][0], shown["hooks"]["SessionEnd"][0]
    assert before["matcher"].split("|")[:2] == ["Read", "Edit"]
    assert before["hooks"][0]["command"] == "interlock hook claude --watch MEMORY.md"
    assert "matcher" not in end

    file = project / ".claude" / "settings.json"
    assert call("", "--install", "--write", str(file)).exit_code == 0
    theirs = {"matcher": "Bash", "hooks": [{"type": "command", "command": "lint"}]}
    settings = json.loads(file.read_text())
    settings["hooks"]["PreToolUse"].append(theirs)
    file.write_text(json.dumps(settings | {"model": "opus"}))
    assert call("", "--install", "--strict", "--write", str(file)).exit_code == 0
    again = json.loads(file.read_text())
    assert again["model"] == "opus"
    assert [each["hooks"][0]["command"] for each in again["hooks"]["PreToolUse"]] == [
        "lint",
        "interlock hook claude --strict",
    ]
    assert os.listdir(file.parent) == ["settings.json"]

    for broken in ("{", "[]", '{"hooks": []}', '{"hooks": {"PreToolUse": [1]}}'):
        file.write_text(broken)
        assert call("", "--install", "--write", str(file)).exit_code == 2, broken
        assert file.read_text() == broken
    assert call("", "--write", str(file)).exit_code == 2
