"""The commands for daily use, through click's runner: output, JSON and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from interlock.cli import main


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Run the command line on one new store."""
    url = f"sqlite:///{tmp_path / 'cli.db'}"

    def run(*arguments: str, stdin: str | None = None) -> Result:
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_AGENT": "shell"}
        return CliRunner().invoke(main, list(arguments), input=stdin, env=environment)

    return run


def test_put_and_get(call: Any) -> None:
    assert call("put", "k", '{"a": 1}').exit_code == 0
    assert json.loads(call("get", "k").stdout) == {"a": 1}
    record = json.loads(call("get", "k", "--json").stdout)
    assert (record["version"], record["writer"], record["exists"]) == (1, "shell", True)


def test_put_reads_standard_input_and_text(call: Any) -> None:
    assert call("put", "a", "-", stdin="[1, 2]").exit_code == 0
    assert call("put", "b", "plain words", "--text").exit_code == 0
    assert call("get", "a").stdout == "[1, 2]\n"
    assert call("get", "b").stdout == '"plain words"\n'


def test_a_blind_put_never_destroys(call: Any) -> None:
    call("put", "k", "1")
    refused = call("put", "k", "2")
    assert refused.exit_code == 3
    assert "--version 1" in refused.stderr
    assert call("get", "k").stdout == "1\n"
    assert call("put", "k", "2", "--version", "1").exit_code == 0
    assert call("put", "k", "3", "--version", "1").exit_code == 3
    assert call("put", "k", "3", "--create").exit_code == 3
    assert call("get", "k").stdout == "2\n"
    assert call("put", "k", "4", "--force").exit_code == 0


def test_a_conflict_in_json_carries_the_fresh_record(call: Any) -> None:
    call("put", "k", "1")
    refused = call("put", "k", "2", "--version", "7", "--json")
    told = json.loads(refused.stderr)
    assert (told["error"], told["retryable"], told["record"]["value"]) == ("Conflict", True, 1)


def test_the_same_operation_twice_is_one(call: Any) -> None:
    for _ in range(2):
        assert call("put", "k", "1", "--create", "--op-id", "once").exit_code == 0
    assert len(call("log", "--json").stdout.splitlines()) == 1


def test_delete_asks_for_the_version(call: Any) -> None:
    call("put", "k", "1")
    assert call("delete", "k").exit_code == 2
    assert call("delete", "k", "--version", "2").exit_code == 3
    assert call("delete", "k", "--version", "1").exit_code == 0
    gone = call("get", "k")
    assert (gone.exit_code, gone.stdout) == (4, "")


def test_log_history_at_keys_and_watch(call: Any) -> None:
    for key, value in (("a/1", "1"), ("b/1", "2"), ("a/2", "3")):
        call("put", key, value)
    call("put", "a/1", "9", "--version", "1")
    positions = [json.loads(line)["position"] for line in call("log", "--json").stdout.splitlines()]
    assert positions == [1, 2, 3, 4]
    assert len(call("log", "--prefix", "a/", "--limit", "2").stdout.splitlines()) == 2
    newest = call("log", "--json", "--newest-first", "--kind", "put", "--limit", "2").stdout
    assert [json.loads(line)["position"] for line in newest.splitlines()] == positions[:-3:-1]
    assert call("log", "--by", "nobody").stdout == call("log", "--kind", "append").stdout == ""
    assert "v2" in call("history", "a/1").stdout
    assert call("at", "a/1", "--position", "1").stdout == "1\n"
    assert call("at", "--prefix", "a/", "--position", "1").stdout.startswith("a/1")
    assert [line.split()[0] for line in call("keys", "a/").stdout.splitlines()] == ["a/1", "a/2"]
    assert len(call("watch", "--after", "2", "--limit", "2").stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "a//b"), 1),
        (("put", "a//b", "1"), 2),
        (("put", "k", "not json"), 2),
        (("put", "k", "NaN"), 2),
        (("put", "k", "1", "--version", "1", "--force"), 2),
        (("get",), 2),
    ],
)
def test_bad_calls_have_their_exit_code_and_no_traceback(
    call: Any, arguments: tuple[str, ...], code: int
) -> None:
    result = call(*arguments)
    assert result.exit_code == code
    assert result.stderr
    assert "Traceback" not in result.stderr


def test_reading_does_not_make_a_store(tmp_path: Path) -> None:
    file = tmp_path / "none.db"
    result = CliRunner().invoke(main, ["get", "k", "--store", f"sqlite:///{file}"])
    assert result.exit_code == 1
    assert "No Interlock store" in result.stderr
    assert not file.exists()


def test_no_store_named_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTERLOCK_STORE", raising=False)
    result = CliRunner().invoke(main, ["get", "k"])
    assert result.exit_code == 2
    assert "INTERLOCK_STORE" in result.stderr


def test_a_missing_key_has_one_exit_code(call: Any) -> None:
    call("put", "k", "1")
    for command in (["get"], ["history"], ["reclaim"], ["at", "--position", "1"]):
        missing = call(*command, "no/such/key")
        assert (missing.exit_code, "does not exist" in missing.stderr) == (4, True), command
    call("delete", "k", "--version", "1")
    assert call("history", "k").exit_code == 0


def test_reclaim_of_a_mistyped_key_makes_no_epoch(call: Any) -> None:
    call("put", "report.md", "1")
    assert call("reclaim", "raport.md").exit_code == 4
    assert json.loads(call("get", "raport.md", "--json").stdout)["epoch"] == 0
    assert call("reclaim", "report.md").exit_code == 0


def test_a_program_without_a_function_says_what_is_missing(call: Any, tmp_path: Path) -> None:
    for reference in ("shop", "shop:", ":buy"):
        told = call("worker", reference)
        assert (told.exit_code, "is not module:NAME" in told.stderr) == (2, True), reference


def test_put_force_can_store_null(call: Any) -> None:
    call("put", "k", "1")
    for _ in range(2):
        done = call("put", "k", "null", "--force", "--op-id", "once")
        assert (done.exit_code, done.stdout) == (0, "k is at version 2 (position 2)\n")
    assert call("put", "k", "2", "--force", "--op-id", "once").exit_code == 2
    assert call("get", "k").stdout == "null\n"


def test_keys_of_adapters_are_not_written(call: Any) -> None:
    for arguments in (
        ("put", "langgraph/blob/t", "1"),
        ("put", "langgraph/blob/t", "1", "--force"),
        ("put", "openai-agents/s/head", "1", "--version", "0"),
        ("delete", "crewai/flow/1", "--version", "1"),
        ("append", "autogen/memory/m/1", "1"),
        ("transition", "langgraph/run/t", "ended"),
        ("coordinate", "--into", "langgraph/x", "--from", "c/", "--reducer", "append", "--once"),
    ):
        call("put", "k", "1")  # there is a store
        refused = call(*arguments)
        assert refused.exit_code == 5
        assert "adapter" in refused.stderr
    assert call("put", "langgraph", "1").exit_code == 0


def test_put_with_an_expiry(call: Any) -> None:
    for how in (("--create",), ("--version", "1"), ("--force",)):
        told = json.loads(call("put", "k", "1", *how, "--expires", "60", "--json").stdout)
        assert told["expires_at"] > told["at"]
    call("put", "gone", "1", "--expires", "0.001")
    while call("get", "gone").exit_code == 0:
        pass
    refused = call("put", "gone", "2", "--version", "1")
    assert (refused.exit_code, "expired" in refused.stderr) == (3, True)
    assert call("keys").stdout.startswith("k ")
    assert call("trim").stdout.startswith("Deleted 1 expired key.\n")
    assert "(expired)" in call("history", "gone").stdout
    assert json.loads(call("trim", "--json").stdout)["expired"] == 0
    for wrong in ("0", "-1", "nan"):
        assert call("put", "new", "1", "--expires", wrong).exit_code == 2
    assert call("get", "new").exit_code == 4


def test_a_field_that_is_set_twice_is_refused(tmp_path: Path) -> None:
    store = ["--store", f"sqlite:///{tmp_path / 'twice.db'}"]
    assert CliRunner().invoke(main, ["put", "k", '{"a": 0}', *store]).exit_code == 0
    twice = ["--set", "a=1", "--set", "a=2"]
    for command in (["update-fields", "k"], ["transition", "k", "x"]):
        told = CliRunner().invoke(main, [*command, *twice, *store])
        assert (told.exit_code, "--set names 'a' twice" in told.output) == (2, True)
    assert json.loads(CliRunner().invoke(main, ["get", "k", *store]).output) == {"a": 0}


def test_the_package_runs_as_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "interlock", "get", "k"]
    for more, code, said in (
        (["--store", f"sqlite:///{tmp_path}/none.db"], 1, "Error: No Interlock store at "),
        (["--help"], 0, "Usage: interlock get "),
    ):
        ran = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
        assert (ran.returncode, (ran.stdout + ran.stderr)[: len(said)]) == (code, said)
