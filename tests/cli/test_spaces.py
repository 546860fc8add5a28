"""`interlock spaces`, `export`, `import`, `copy`, `init`, `doctor`: output, JSON and exit codes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main

Call = Callable[..., Result]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with the space `team` of two keys."""
    found = f"sqlite:///{tmp_path / 'team.db'}"
    with interlock.open(found, space="team", agent="a") as space:
        space.create("k", 1)
        space.create("l", 2)
    return found


@pytest.fixture
def call() -> Call:
    """Run the command line."""

    def run(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(main, list(arguments), input=input)

    return run


def lines(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_spaces_are_listed_by_the_url_or_the_environment(url: str, call: Call) -> None:
    assert "team" in call("spaces", url).stdout
    (told,) = lines(call("spaces", "--store", url, "--json"))
    assert (told["name"], told["keys"], told["entries"], told["importing"]) == ("team", 2, 2, False)
    assert str(told["at"]).startswith("20")
    found = CliRunner().invoke(main, ["spaces"], env={"INTERLOCK_STORE": url})
    assert "team" in found.stdout
    assert call("spaces").exit_code == 2
    assert call("spaces", "sqlite://").exit_code == 2


def test_spaces_are_made_and_renamed(url: str, call: Call) -> None:
    new = url.replace("team.db", "new.db")
    assert call("spaces", "create", "one", "--store", new).exit_code == 0
    assert call("spaces", "create", "one", "--store", new).exit_code == 2
    assert lines(call("spaces", "rename", "one", "two", "--store", new, "--json")) == [
        {"renamed": "one", "to": "two"}
    ]
    assert [each["name"] for each in lines(call("spaces", new, "--json"))] == ["two"]


def test_a_space_is_dropped_where_somebody_says_yes(url: str, call: Call) -> None:
    asked = call("spaces", "drop", "team", "--store", url, input="n\n")
    assert asked.exit_code == 1
    assert "2 keys and 2 entries" in asked.stderr
    assert call("get", "k", "--store", url, "--space", "team").exit_code == 0
    assert call("spaces", "drop", "team", "--store", url, input="y\n").exit_code == 0
    missing = call("spaces", "drop", "team", "--store", url, "--yes", "--json")
    assert (missing.exit_code, json.loads(missing.stderr)["error"]) == (2, "Invalid")
    assert call("spaces", url).stdout == "no spaces\n"


def test_an_export_is_imported(url: str, call: Call, tmp_path: Path) -> None:
    exported = call("export", url, "--space", "team")
    assert len(lines(exported)) == 5
    target = f"sqlite:///{tmp_path / 'other.db'}"
    assert lines(call("import", target, "--json", input=exported.stdout)) == [
        {"space": "team", "position": 2, "entries": 2}
    ]
    again = call("import", target, input=exported.stdout)
    assert (again.exit_code, "not empty" in again.stderr) == (2, True)
    file = tmp_path / "export.jsonl"
    file.write_text(exported.stdout, "utf-8")
    told = call("import", target, "--file", str(file), "--space", "more")
    assert told.stdout == "space 'more' is there, up to position 2\n"
    heads = call("export", url, "--space", "team", "--heads-only")
    assert [next(iter(each)) for each in lines(heads)[1:]] == ["space", "base", "base", "end"]
    assert call("import", target, input="what?").exit_code == 2
    assert call("export", url, "--space", "none").exit_code == 1


def test_text_that_a_terminal_would_obey_survives(url: str, call: Call) -> None:
    text = "ü\u2028\x7f\x1b[2J\x9b\u202e\0"
    with interlock.open(url, space="odd", agent="ä") as space:
        space.create("ключ", text)
    exported = call("export", url, "--space", "odd").stdout
    assert exported.isascii()
    assert call("import", url, "--space", "even", input=exported).exit_code == 0
    with interlock.open(url, space="even", agent="a") as space:
        assert space.read("ключ").value == text
    again = call("export", url, "--space", "even").stdout
    assert again.splitlines()[1:] == exported.splitlines()[1:]


def test_a_space_is_copied(url: str, call: Call, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path / 'other.db'}"
    where = ("--from", url, "--to", target, "--space", "team")
    assert lines(call("copy", *where, "--heads-only", "--to-space", "new", "--json")) == [
        {"space": "new", "position": 2, "entries": 0}
    ]
    assert call("copy", *where).exit_code == 0
    assert call("copy", *where).exit_code == 2
    assert call("copy", "--to", target).exit_code == 2
    assert call("copy", "--from", url, "--to", "sqlite://").exit_code == 2
    assert call("copy", *where[:2], "--to", "what", "--space", "team").exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_follows_ends_unfinished_and_is_finished_without(
    url: str, call: Call, tmp_path: Path, number: int
) -> None:
    target = f"sqlite:///{tmp_path / 'other.db'}"
    where = ("--from", url, "--to", target, "--space", "team")
    command = [sys.executable, "-c", "from interlock.cli import main; main()", "copy", *where]
    with (
        interlock.open(url, space="team", agent="a") as space,
        subprocess.Popen([*command, "--follow"], stderr=subprocess.PIPE, text=True) as process,
    ):
        space.create("late", 3)
        file = tmp_path / "other.db"
        while not _entries(file):  # until it has come so far
            assert process.poll() is None
        os.kill(process.pid, number)
        assert process.wait() == 130
        assert process.stderr is not None
        assert "is not finished" in process.stderr.read()
    assert call("get", "late", "--store", target, "--space", "team").exit_code == 1
    assert call("copy", *where).exit_code == 0
    assert call("get", "late", "--store", target, "--space", "team").stdout == "3\n"


def _entries(file: Path) -> int:
    """Count what was copied, looking at the file from outside."""
    try:
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
            found: int = connection.execute("SELECT COUNT(*) FROM log").fetchone()[0]
        connection.close()
    except sqlite3.Error:
        return 0
    return found


def test_init_makes_a_store_and_its_sql_makes_the_same(
    url: str, call: Call, tmp_path: Path
) -> None:
    assert lines(call("init", url, "--space", "new", "--json")) == [{"space": "new", "position": 0}]
    by_hand = tmp_path / "hand.db"
    told = call("init", f"sqlite:///{by_hand}", "--sql")
    assert not by_hand.exists()
    with sqlite3.connect(by_hand) as connection:
        connection.executescript(told.stdout)
    connection.close()

    def schema(file: Path) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(file)
        try:
            return [
                *connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name"),
                *(connection.execute(f"PRAGMA {name}").fetchone() for name in PRAGMAS),
            ]
        finally:
            connection.close()

    assert schema(by_hand) == schema(tmp_path / "team.db")
    assert call("put", "k", "1", "--store", f"sqlite:///{by_hand}").exit_code == 0
    assert call("init", "redis://x", "--sql").exit_code == 2


PRAGMAS = ("application_id", "user_version", "journal_mode")


def test_doctor_says_what_is_wrong_and_what_to_do(url: str, call: Call) -> None:
    told = lines(call("doctor", url, "--json"))
    assert {each["level"] for each in told} == {"ok"}
    assert {"server", "schema", "durability", "connected", "space"} <= {e["check"] for e in told}
    exported = call("export", url, "--space", "team").stdout.splitlines()
    call("import", url, "--space", "half", input="\n".join(exported[:-1]))
    found = call("doctor", url, "--json")
    assert found.exit_code == 6
    (wrong,) = [e for e in map(json.loads, found.stdout.splitlines()) if e["level"] == "wrong"]
    assert wrong["check"] == "space 'half'"
    assert "interlock spaces drop half" in wrong["advice"]
    assert "WRONG" in call("doctor", url).stdout
