"""The commands about traces of agents: output, JSON, exit codes, progress."""

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
from interlock import forensics
from interlock.cli import main
from tests.repository import pages, text_of
from tests.test_repository_docs import code_of, mentions, undocumented_names

ANN = {"session": "s", "id": "i", "agent": "ann", "read_time": 1, "write_time": 5}
BEN = {"session": "s", "id": "j", "agent": "ben", "read_time": 0, "write_time": 3}
LINES = [ANN | {"read_set": {"k": 1}}, BEN | {"write_set": {"k": 2}}, BEN | {"session": "t"}]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")
    return file


def call(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], input=stdin)


def test_an_anomaly_is_told_and_is_the_exit_code(trace: Path) -> None:
    result = call("detect", trace)
    assert result.exit_code == 6
    first, s, t = result.stdout.splitlines()
    assert first == (
        "s: stale generation: 'i' of agent 'ann' read 'k' as 1 (it read at 1) and wrote at 5, "
        "but 'j' of agent 'ben' wrote 2 to it at 3"
    )
    assert s.startswith("session s: L0, 2 operations, 1 stale generation; nothing recorded that ")
    assert t.startswith("session t: L4, 1 operations, no anomaly; nothing recorded that could show")
    assert result.stderr == ""


def test_json_has_all_of_it(trace: Path) -> None:
    result = call("detect", trace, "--json", "--limit", "1")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["operations"]) == (6, 3)
    assert [(s["session"], s["level"], s["found"]) for s in told["sessions"]] == [
        ("s", "L0", {"stale generation": 1}),
        ("t", "L4", {}),
    ]
    (anomaly,) = told["anomalies"]
    assert anomaly.pop("sentence").startswith("'i' of agent 'ann' read 'k' as 1")
    assert anomaly == {
        "kind": "stale generation",
        "session": "s",
        "operations": ["i", "j"],
        "agents": ["ann", "ben"],
        "read_time": 1,
        "write_time": 5,
        "key": "k",
        "other_time": 3,
        "shown": ["1", "2"],
    }


def test_a_clean_trace_and_an_empty_one(trace: Path) -> None:
    trace.write_text(json.dumps(LINES[0]), encoding="utf-8")
    assert call("detect", trace).exit_code == 0
    assert call("detect", "-", stdin="").stdout == "the trace is empty\n"


def test_the_limit_says_how_many_are_left(trace: Path) -> None:
    many = [{**LINES[0], "id": f"i{n}"} for n in range(5)] + LINES[1:2]
    text = "\n".join(map(json.dumps, many))
    result = call("detect", "-", "--limit", "2", stdin=text)
    assert result.exit_code == 6
    assert result.stdout.splitlines()[2] == "... and 3 more (--limit)"


def test_a_malformed_trace_is_a_wrong_call(trace: Path) -> None:
    with trace.open("a", encoding="utf-8") as file:
        file.write('{"session": "s"}\n')
    refused = call("detect", trace)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"{trace}, line 4: id is missing" in refused.stderr
    told = json.loads(call("detect", trace, "--json").stderr)
    assert (told["error"], told["retryable"]) == ("BadTrace", False)
    assert told["next_step"] == "add a text: every operation has id"
    assert "standard input, line 1" in call("detect", "-", stdin="x").stderr
    assert call("detect", trace.parent / "none.jsonl").exit_code == 2


def test_a_log_is_exported_and_found_clean(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'team.db'}"
    for name in ("ann", "ben"):
        with interlock.open(url, space="team", agent=name) as space:
            space.update("k", lambda value: (value or 0) + 1)
            with space.transaction() as tx:
                tx.write(tx.read(f"seen/{name}"), tx.read("k").value)
    export = call("export-trace", "--store", url, "--space", "team")
    assert export.exit_code == 0
    operations = [json.loads(line) for line in export.stdout.splitlines()]
    assert [each["session"] for each in operations] == ["team"] * 4
    assert operations[3]["read_set"] == {"seen/ben": None, "k": 2}
    found = call("detect", "-", stdin=export.stdout)
    assert (found.exit_code, found.stdout) == (
        0,
        "session team: L4, 4 operations, no anomaly; nothing recorded that could show "
        "tool-effect reordering, phantom tool\n",
    )
    later = call("export-trace", "--store", url, "--space", "team", "--after", "3")
    assert json.loads(later.stdout)["read_set"] == {"seen/ben": None, "k": {"version": 2}}
    stale = {"agent": "cy", "read_time": operations[0]["write_time"], "read_set": {"k": 1}}
    doctored = [*export.stdout.splitlines()[:3], json.dumps(operations[3] | stale)]
    assert call("detect", "-", stdin="\n".join(doctored)).exit_code == 6


def test_a_long_file_shows_progress_on_a_terminal_only(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for n in range(6000):
            out.write(json.dumps({**LINES[2], "id": f"o{n}", "write_set": {"k": "x" * 700}}) + "\n")
    seen, ran = on_a_terminal("detect", str(file))
    assert (ran, b"reading" in seen) == (0, True)
    assert call("detect", file).stderr == ""


def on_a_terminal(*arguments: str) -> tuple[bytes, int]:
    """Run the command line with a terminal for standard error; return what it showed there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-c", "from interlock.cli import main; main()", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=environment
    )
    os.close(theirs)
    seen = b""
    try:
        while select.select([ours], [], [], 60)[0] and (part := os.read(ours, 4096)):
            seen += part
    except OSError:  # the other end of a terminal was closed
        pass
    os.close(ours)
    return seen, process.wait(60)


def test_every_public_name_is_in_the_manual() -> None:
    manual = "\n\n".join(text_of(page) for page in pages())
    assert undocumented_names(forensics, manual) == []


def test_every_field_is_in_the_page() -> None:
    page = next(text_of(page) for page in pages() if page.name == "detect.md")
    fields: Any = forensics.Operation._fields
    assert [field for field in fields if not mentions(code_of(page), field)] == []
