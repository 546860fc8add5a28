"""Hooks of Claude Code: several sessions edit one file, and each keeps the lines of the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import interlock
from interlock.adapters.claude import FileHooks

SESSIONS = 4


class Session:
    """What Claude Code does when its model reads and writes one file."""

    def __init__(self, name: str, file: Path, hooks: FileHooks | None, **who: str) -> None:
        self.name, self.file, self.hooks = name, file, hooks
        self.who = {"session_id": name, "cwd": str(file.parent), **who}

    def event(self, name: str, tool: str = "", path: Path | None = None) -> Any:
        given = {"file_path": str(path or self.file)}
        if tool == "NotebookEdit":
            given = {"notebook_path": given["file_path"]}
        call = {"tool_name": tool, "tool_input": given, "tool_use_id": f"{self.name}-{tool}"}
        event = {**self.who, "hook_event_name": name, **(call if tool else {})}
        return None if self.hooks is None else self.hooks.answer(event)

    def read(self) -> str:
        self.event("PreToolUse", "Read")
        text = self.file.read_text()
        self.event("PostToolUse", "Read")
        return text

    def begin(self, tool: str = "Write") -> str:
        """Ask before a write; return the reason of a refusal, or nothing."""
        answer = self.event("PreToolUse", tool)
        if answer is None:
            return ""
        told = answer["hookSpecificOutput"]
        assert (told["hookEventName"], told["permissionDecision"]) == ("PreToolUse", "deny")
        return str(told["permissionDecisionReason"])

    def write(self, text: str, tool: str = "Write") -> str:
        refused = self.begin(tool)
        if not refused:
            self.file.write_text(text)
            assert self.event("PostToolUse", tool) is None
        return refused


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    file = tmp_path / "MEMORY.md"
    file.write_text("# Memory\n")
    return file


@pytest.fixture
def hooks(tmp_path: Path) -> Iterator[FileHooks]:
    with interlock.open("sqlite://", agent="claude") as space:
        yield FileHooks(space, str(tmp_path), wait=0)


def kept(memory: Path, make: Any) -> int:
    """Let sessions add a line each, all having read the same; return how many lines are left."""
    all_have_read = threading.Barrier(SESSIONS)

    def work(n: int) -> None:
        session = Session(f"session-{n}", memory, make)
        text = session.read()
        all_have_read.wait()
        for _ in range(50):
            if not session.write(f"{text}- line of {n}\n"):
                return
            text = session.read()
        raise AssertionError("refused again and again")

    with ThreadPoolExecutor(SESSIONS) as pool:
        list(pool.map(work, range(SESSIONS)))
    return memory.read_text().count("- line of")


def test_sessions_without_hooks_lose_each_other_s_lines(memory: Path) -> None:
    assert kept(memory, None) < SESSIONS


def test_sessions_with_hooks_keep_each_other_s_lines(shared: interlock.Space, memory: Path) -> None:
    assert kept(memory, FileHooks(shared, str(memory.parent))) == SESSIONS
    record = next(iter(shared.scan("claude-code/file/").values()))
    assert record.value["path"] == str(memory)
    assert not shared.scan("claude-code/claim/")
    for n in range(SESSIONS):
        Session(f"session-{n}", memory, FileHooks(shared, "/")).event("SessionEnd")
    assert not shared.scan("claude-code/seen/")
    assert not shared.scan("claude-code/reading/")


@pytest.mark.parametrize("tool", ["Write", "Edit", "MultiEdit", "NotebookEdit"])
def test_a_stale_write_is_refused_with_the_fresh_text(
    hooks: FileHooks, memory: Path, tool: str
) -> None:
    one, two = Session("one", memory, hooks), Session("two", memory, hooks)
    one.read()
    two.read()
    assert not one.write("# Memory\n- of one\n", tool)
    assert not one.write("# Memory\n- of one\n- again\n", tool), "it knows what it wrote"
    refused = two.begin(tool)
    assert "MEMORY.md has changed since you read it; it was last written by one" in refused
    assert refused.endswith("# Memory\n- of one\n- again\n")
    assert two.begin(tool) == refused, "being told is not reading"
    memory.write_text("by hand\n")
    assert "by a program that does not use these hooks" in two.begin(tool)
    two.read()
    assert not two.write("both\n", tool)


def test_what_was_never_read_is_not_written_nor_shown(hooks: FileHooks, memory: Path) -> None:
    session = Session("one", memory, hooks)
    refused = session.begin()
    assert "was not read in this session" in refused
    assert "# Memory" not in refused, "it may not be allowed to read it"
    session.event("PreToolUse", "Read")  # which is then refused, or fails
    session.event("PostToolUseFailure", "Read")
    assert session.begin() == refused
    new = Session("one", memory.parent / "new.md", hooks)
    assert not new.write("mine\n")
    assert "was not read" in Session("two", new.file, hooks).begin()


def test_what_changes_while_it_is_read_is_not_taken_for_read(
    hooks: FileHooks, memory: Path
) -> None:
    session = Session("one", memory, hooks)
    session.event("PreToolUse", "Read")
    memory.write_text("changed\n")  # after the tool has read, before the hook is called
    session.event("PostToolUse", "Read")
    assert "has changed since" in session.begin()


def test_a_subagent_has_to_read_for_itself(hooks: FileHooks, memory: Path) -> None:
    session = Session("one", memory, hooks)
    helper = Session("one", memory, hooks, agent_id="a1")
    session.read()
    assert helper.begin()
    helper.read()
    assert not helper.begin()
    assert "being written by another agent (one/a1)" in session.begin()
    session.event("Stop")
    assert session.begin(), "the claim of the subagent stays"
    helper.event("SubagentStop")
    assert not session.begin()
    session.event("PostToolUseFailure", "Write")
    assert not helper.begin()
    session.event("SessionEnd")
    helper.read()
    assert not helper.begin()


def test_a_deleted_file_is_written_again_only_on_purpose(hooks: FileHooks, memory: Path) -> None:
    session = Session("one", memory, hooks)
    session.read()
    memory.unlink()
    assert "has been deleted" in session.begin()
    assert not session.write("again\n")


def test_a_claim_that_ran_out_while_the_tool_waited_is_told(
    hooks: FileHooks, memory: Path, tmp_path: Path
) -> None:
    with interlock.open("sqlite://", agent="claude") as space:
        one = Session("one", memory, FileHooks(space, str(tmp_path), ttl=0.01, wait=0))
        two = Session("two", memory, FileHooks(space, str(tmp_path), wait=5))
        one.read()
        two.read()
        assert not one.begin()  # and now the user is asked, and goes to lunch
        assert not two.write("# Memory\n- of two\n"), "it waits until the claim has run out"
        memory.write_text("# Memory\n- of one\n")
        answer = one.event("PostToolUse", "Write")
        assert answer["decision"] == "block"
        assert "another agent may have written the file meanwhile" in answer["reason"]
        assert one.begin(), "it has to read again"
        one.read()
        assert not one.begin()
        claimed = space.time()
        while (space.time() - claimed).total_seconds() < 0.01:
            pass
        memory.write_text("alone\n")
        assert one.event("PostToolUse", "Write") is None, "nobody else has had it"


def test_other_files_tools_and_events_pass(hooks: FileHooks, memory: Path) -> None:
    with interlock.open("sqlite://", agent="claude") as space:
        some = FileHooks(space, str(memory.parent), watch=["CLAUDE.md", "docs/*"])
        (memory.parent / "docs").mkdir()
        for name, watched in {"MEMORY.md": 0, "CLAUDE.md": 1, "docs/a.md": 1, "a.md": 0}.items():
            file = memory.parent / name
            file.write_text("x")
            assert bool(Session("one", file, some).begin()) == watched, name
    session = Session("one", memory, hooks)
    assert session.event("PreToolUse", "Bash") is None
    assert session.event("PreToolUse") is None
    assert session.event("Notification") is None
    assert session.event("PreToolUse", "Write", memory.parent) is None, "a folder"
    link = memory.parent / "AGENTS.md"
    os.symlink(memory, link)
    session.read()
    assert not Session("one", link, hooks).begin(), "one file by two names"
    with pytest.raises(interlock.Invalid):
        FileHooks("sqlite://", ".")  # type: ignore[arg-type]  # wrong on purpose


async def test_the_agent_sdk_calls_it_in_its_own_process(hooks: FileHooks, memory: Path) -> None:
    event = {
        "session_id": "one",
        "cwd": str(memory.parent),
        "hook_event_name": "PreToolUse",
        "tool_name": "Write",
        "tool_input": {"file_path": "MEMORY.md"},
        "tool_use_id": "t1",
    }
    told = await hooks.hook(event, "t1", None)
    assert told["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert await hooks.hook(event | {"tool_name": "Bash"}, "t1", None) == {}
