"""The memory tool of the anthropic SDK: what it tells the model, and that no edit is lost."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from anthropic.lib.tools import ToolError
from anthropic.lib.tools._beta_builtin_memory_tool import (
    BetaAsyncLocalFilesystemMemoryTool,
    BetaLocalFilesystemMemoryTool,
)

import interlock
from interlock.adapters.claude import AsyncMemoryTool, MemoryTool

NOTES = "/memories/notes.md"
LINES = "".join(f"line {n}\n" for n in range(5))


@pytest.fixture
def memory() -> Iterator[interlock.Space]:
    with interlock.open("sqlite://", agent="claude-1") as space:
        yield space


def told(tool: Any, command: str, path: str = NOTES, **rest: Any) -> str:
    """Return what the model is told."""
    try:
        answer: str = tool.call({"command": command, "path": path, **rest})
        return answer
    except ToolError as refused:
        return f"refused: {refused}"


COMMANDS: list[dict[str, Any]] = [
    {"command": "view", "path": "/memories/none"},
    {"command": "create", "path": NOTES, "file_text": "a\nb\nb\n"},
    {"command": "create", "path": NOTES, "file_text": "again"},
    {"command": "create", "path": "/memories", "file_text": "x"},
    {"command": "create", "path": "/memories/d/e/f/g.txt", "file_text": "x" * 1500},
    {"command": "create", "path": "/memories/d/h.txt", "file_text": ""},
    {"command": "create", "path": "/memories/.hidden/h.txt", "file_text": "z"},
    {"command": "view", "path": "/memories"},
    {"command": "view", "path": "/memories/d"},
    {"command": "view", "path": NOTES},
    {"command": "view", "path": NOTES, "view_range": [2, 3]},
    {"command": "view", "path": NOTES, "view_range": [2, -1]},
    {"command": "str_replace", "path": NOTES, "old_str": "a", "new_str": "A\nAA"},
    {"command": "str_replace", "path": NOTES, "old_str": "b", "new_str": "c"},
    {"command": "str_replace", "path": NOTES, "old_str": "z", "new_str": "c"},
    {"command": "str_replace", "path": "/memories/none", "old_str": "z", "new_str": "c"},
    {"command": "str_replace", "path": "/memories/d", "old_str": "z", "new_str": "c"},
    {"command": "insert", "path": NOTES, "insert_line": 0, "insert_text": "top\n"},
    {"command": "insert", "path": NOTES, "insert_line": 5, "insert_text": "end"},
    {"command": "insert", "path": NOTES, "insert_line": 50, "insert_text": "far"},
    {"command": "insert", "path": "/memories/d", "insert_line": 0, "insert_text": "far"},
    {"command": "insert", "path": "/memories/d/h.txt", "insert_line": 0, "insert_text": "x"},
    {"command": "view", "path": NOTES},
    {"command": "rename", "old_path": "/memories/d", "new_path": NOTES},
    {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/k/l"},
    {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/z"},
    {"command": "rename", "old_path": "/memories", "new_path": "/memories/z"},
    {"command": "view", "path": "/memories"},
    {"command": "delete", "path": "/memories/none"},
    {"command": "delete", "path": NOTES},
    {"command": "delete", "path": NOTES},
    {"command": "delete", "path": "/memories/k/l/e"},
    {"command": "delete", "path": "/memories/k/.."},
    {"command": "view", "path": "/memories/k"},
    {"command": "view", "path": "/etc/passwd"},
    {"command": "view", "path": "/memories/../secret"},
    {"command": "create", "path": "/memories/../../secret", "file_text": "x"},
]


async def test_the_model_is_told_what_the_tool_of_the_sdk_tells_it(
    memory: interlock.Space, tmp_path: Path
) -> None:
    def same(text: str) -> str:
        return re.sub(r"(?m)^[\d.]+[BKMG]\t(.*(?:/|/memories|/memories/[dk]))$", r"\1", text)

    theirs: Any = BetaLocalFilesystemMemoryTool(str(tmp_path))
    sync, both = MemoryTool(memory), AsyncMemoryTool(memory, folder="other")
    for command in COMMANDS:
        expected = same(told(theirs, **command))  # sizes of folders are the file system's
        assert same(told(sync, **command)) == expected, command
        try:
            answer = await both.call(command)
        except ToolError as refused:
            answer = f"refused: {refused}"
        assert same(str(answer)) == expected, command


async def test_a_tool_opens_a_url_and_closes_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/memory.db"
    with MemoryTool(url, space="shop", agent="claude-1") as tool:
        tool.call({"command": "create", "path": NOTES, "file_text": "tea"})
    with pytest.raises(interlock.Closed):
        tool.call({"command": "view", "path": NOTES})
    async with AsyncMemoryTool(url, space="shop") as both:
        assert "tea" in str(await both.call({"command": "view", "path": NOTES}))
    with pytest.raises(interlock.Closed):
        await both.call({"command": "view", "path": NOTES})


async def test_the_tool_of_the_sdk_loses_edits_of_one_turn(tmp_path: Path) -> None:
    tool = BetaAsyncLocalFilesystemMemoryTool(str(tmp_path))
    await tool.call({"command": "create", "path": NOTES, "file_text": LINES})
    answers = await asyncio.gather(*(tool.call(edit(n)) for n in range(5)))
    assert all("has been edited" in str(answer) for answer in answers)
    kept = (tmp_path / NOTES[1:]).read_text().count("LINE")
    assert kept < 5, "each edit was acknowledged"


def edit(n: int) -> dict[str, object]:
    old, new = f"line {n}\n", f"LINE {n}\n"
    return {"command": "str_replace", "path": NOTES, "old_str": old, "new_str": new}


async def test_ours_keeps_edits_of_one_turn_and_of_other_agents(space: Any) -> None:
    tools = [AsyncMemoryTool(space), AsyncMemoryTool(space)]
    await tools[0].call({"command": "create", "path": NOTES, "file_text": LINES})
    assert LINES.split("\n")[4] in str(await tools[1].call({"command": "view", "path": NOTES}))
    end = {"command": "insert", "path": NOTES, "insert_line": 5, "insert_text": "the end"}
    await asyncio.gather(
        *(tools[n % 2].call(edit(n)) for n in range(5)), *(tool.call(end) for tool in tools)
    )
    text = str(await tools[0].call({"command": "view", "path": NOTES}))
    assert text.count("LINE") == 5
    assert text.count("the end") == 2
    renamed = {"command": "rename", "old_path": "/memories", "new_path": "/memories/x"}
    with pytest.raises(ToolError, match="Cannot rename"):
        await tools[0].call(renamed)
    await tools[0].call(renamed | {"old_path": NOTES})
    assert "LINE 0" in str(await tools[1].call({"command": "view", "path": "/memories/x"}))


async def test_the_runner_of_the_sdk_carries_out_two_edits_of_one_turn(
    memory: interlock.Space,
) -> None:
    turns: list[Any] = [
        [{"command": "create", "path": NOTES, "file_text": LINES}],
        [edit(1), edit(2), {"command": "delete", "path": "/memories/none"}],
        [],
    ]
    asked: list[Any] = []

    def reply(request: httpx2.Request) -> httpx2.Response:
        asked.append(json.loads(request.content))
        calls = turns[len(asked) - 1]
        told: list[Any] = [
            {"type": "tool_use", "id": f"toolu_{len(asked)}_{n}", "name": "memory", "input": call}
            for n, call in enumerate(calls)
        ]
        message = {
            "id": f"msg_{len(asked)}",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": told or [{"type": "text", "text": "done"}],
            "stop_reason": "tool_use" if told else "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        return httpx2.Response(200, json=message)

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(reply)) as http:
        runner = AsyncAnthropic(api_key="none", http_client=http).beta.messages.tool_runner(
            model="claude",
            max_tokens=100,
            messages=[{"role": "user", "content": "tick off"}],
            tools=[AsyncMemoryTool(memory)],
            max_iterations=4,
        )
        await runner.until_done()
    assert memory.read("files/memories/notes.md").value["text"].count("LINE") == 2
    results = asked[-1]["messages"][-1]["content"]
    assert [each.get("is_error", False) for each in results] == [False, False, True]
    assert results[2]["content"] == "The path /memories/none does not exist"


def test_what_is_inserted_goes_where_the_model_saw_the_line(memory: interlock.Space) -> None:
    mine, other = MemoryTool(memory), MemoryTool(memory)
    told(mine, "create", file_text=LINES)
    told(other, "insert", insert_line=1, insert_text="of the other")
    told(mine, "insert", insert_line=0, insert_text="title")
    told(mine, "insert", insert_line=5, insert_text="before the last")
    told(mine, "str_replace", old_str="line 4", new_str="line 4, longer")
    told(mine, "insert", insert_line=7, insert_text="last")
    record = memory.read("files/memories/notes.md")
    assert record.value["text"] == (
        "title\nline 0\nof the other\nline 1\nline 2\nline 3\nbefore the last\n"
        "line 4, longer\nlast\n"
    )


def test_an_insertion_within_what_others_changed_is_refused(memory: interlock.Space) -> None:
    mine, other = MemoryTool(memory), MemoryTool(memory)
    told(mine, "create", file_text=LINES)
    told(other, "str_replace", old_str="line 1\nline 2\n", new_str="rewritten\n")
    before = memory.read("files/memories/notes.md")
    answer = told(mine, "insert", insert_line=2, insert_text="x")
    assert answer.startswith("refused: No insertion was performed"), answer
    assert memory.read("files/memories/notes.md").version == before.version
    told(mine, "view")
    assert told(mine, "insert", insert_line=2, insert_text="x").endswith("has been edited.")


def test_what_the_model_was_not_shown_is_not_deleted(memory: interlock.Space) -> None:
    mine, other = MemoryTool(memory), MemoryTool(memory)
    told(other, "create", file_text=LINES)
    assert told(mine, "delete").startswith("refused: Nothing was deleted: you have not viewed")
    told(mine, "view")
    told(other, "str_replace", old_str="line 1", new_str="important")
    told(mine, "view", "/memories")  # a list of names does not show it
    told(mine, "str_replace", old_str="line 2", new_str="2")
    assert told(mine, "delete").startswith("refused: Nothing was deleted: changed since")
    told(mine, "view")
    assert told(mine, "delete") == f"Successfully deleted {NOTES}"
    told(other, "create", "/memories/d/a", file_text="x")
    assert told(mine, "delete", "/memories/d").startswith("refused")
    told(mine, "view", "/memories")
    assert told(mine, "delete", "/memories/d") == "Successfully deleted /memories/d"
    told(other, "create", "/memories/b", file_text="x")
    told(MemoryTool(memory, unread="delete"), "delete", "/memories/b")
    assert not memory.scan("files/memories")


def test_a_rename_that_meets_an_edit_keeps_it(memory: interlock.Space) -> None:
    tool = MemoryTool(memory)
    told(tool, "create", "/memories/d/a.md", file_text="one")
    told(tool, "create", "/memories/d/b.md", file_text="two")
    before = memory.position()
    told(tool, "rename", old_path="/memories/d", new_path="/memories/e")
    assert len({entry.op_id for entry in memory.log(after=before)}) == 1, "one commit"
    edited = told(MemoryTool(memory), "str_replace", "/memories/d/a.md", old_str="o", new_str="0")
    assert edited.startswith("refused: The path /memories/d/a.md does not exist")
    assert told(tool, "rename", old_path="/memories/e", new_path="/memories/e/f") == (
        "refused: Cannot rename /memories/e into itself"
    )
    assert sorted(memory.scan("files/")) == ["files/memories/e/a.md", "files/memories/e/b.md"]


def test_what_the_space_refuses_is_told_in_paths_of_the_model(memory: interlock.Space) -> None:
    tool = MemoryTool(memory, "memories/user-17")
    told(tool, "create", file_text="x")
    answers = [
        told(tool, "create", "/memories/a*b", file_text="x"),
        told(tool, "create", f"{NOTES}/below", file_text="x"),
        told(tool, "create", "/memories/large", file_text="x" * 2_000_000),
    ]
    memory.apply_rules({"files/**": interlock.owned(by="curator")})
    answers.append(told(tool, "str_replace", old_str="x", new_str="y"))
    assert all(answer.startswith("refused: ") for answer in answers), answers
    assert not any("user-17" in answer for answer in answers), answers
    with pytest.raises(ToolError) as refused:
        tool.call({"command": "str_replace", "path": NOTES, "old_str": "x", "new_str": "y"})
    assert isinstance(refused.value.__cause__, interlock.Forbidden)
    with pytest.raises(NotImplementedError):
        tool.call({"command": "key", "path": NOTES})


def test_documents_show_as_files_and_only_text_is_shown(
    memory: interlock.Space, tmp_path: Path
) -> None:
    tool = MemoryTool(memory)
    told(tool, "create", file_text=LINES)
    files = memory.files(tmp_path, "memories/**")
    files.sync()
    assert (tmp_path / NOTES[1:]).read_text() == LINES
    files.write(files.read("memories/picture"), b"\xff\0")
    assert told(tool, "view", "/memories/picture").startswith("refused: The file /memories/picture")
    assert "2B\t/memories/picture" in told(tool, "view", "/memories")
    assert tool.clear_all_memory() == "All memory cleared"
    assert not memory.scan("files/")
    with pytest.raises(interlock.Invalid, match="folder"):
        MemoryTool(memory, "/")
    with pytest.raises(interlock.Invalid, match="unread"):
        MemoryTool(memory, unread="never")  # type: ignore[arg-type]  # wrong on purpose
    assert tool.to_dict() == {"type": "memory_20250818", "name": "memory"}
