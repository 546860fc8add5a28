"""`interlock check`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from interlock.cli import main


def op(kind: str, invoked: float, completed: float, **fields: Any) -> dict[str, Any]:
    line = {"process": "ann", "kind": kind, "outcome": "ok"}
    return {**line, "invoked": invoked, "completed": completed, **fields}


@pytest.fixture
def check(tmp_path: Path) -> Any:
    """Check a history of these lines."""

    def run(lines: list[dict[str, Any]], *options: str) -> Result:
        file = tmp_path / "run.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return CliRunner().invoke(main, ["check", str(file), *options])

    return run


GOOD = [op("write", 0, 1, key="k", value=1), op("read", 2, 3, key="k", value=1)]
STALE = [*GOOD, op("read", 4, 5, key="k", value=None)]
LATE = [
    op("txn", 0, 1, writes={"k": 1}),
    op("txn", 2, 3, reads={"k": 0}, writes={"other": 1}),
]
LOST = [op("txn", 0, 1, reads={"k": 0}, writes={"k": version}) for version in (1, 2)]
BLIND = [op("txn", 0, 1, writes={"k": {"value": value}}) for value in "ab"]


def test_a_good_history_is_said_to_be(check: Any) -> None:
    result = check(GOOD)
    assert (result.exit_code, result.stdout) == (0, "2 operations are linearizable per key\n")
    assert json.loads(check(GOOD, "--json").stdout) == {
        "model": "linearizable per key",
        "verdict": "ok",
        "operations": 2,
        "found": 0,
        "anomalies": [],
        "undecided": [],
    }


def test_an_anomaly_is_told_with_the_operations(check: Any) -> None:
    result = check(STALE)
    assert result.exit_code == 6
    assert result.stdout.startswith("3 operations are not linearizable per key: 1 anomaly\n")
    assert "line 3: ann read k as null [4-5]" in result.stdout
    (anomaly,) = json.loads(check(STALE, "--json").stdout)["anomalies"]
    assert (anomaly["name"], anomaly["keys"]) == ("not linearizable", ["k"])
    assert [operation["line"] for operation in anomaly["operations"]] == [1, 3]


def test_transactions_are_checked_for_serializability(check: Any) -> None:
    result = check(LOST)
    assert result.exit_code == 6
    assert "lost update" in result.stdout
    assert json.loads(check(LOST, "--json").stdout)["model"] == "serializable"


@pytest.mark.parametrize(
    ("model", "code"), [("serializable", 0), ("strict", 6), ("linearizable", 6)]
)
def test_the_model_can_be_chosen(check: Any, model: str, code: int) -> None:
    assert check(LATE).exit_code == 0
    assert check(LATE, "--model", model).exit_code == code


def test_what_is_not_decided_is_no_pass(check: Any) -> None:
    result = check(BLIND)
    assert result.exit_code == 7
    assert "undecided: k: no versions were recorded" in result.stdout
    assert json.loads(check(BLIND, "--json").stdout)["verdict"] == "undecided"
    many = [op("write", 0, 9, key="k", value=n) for n in range(12)]
    many += [op("read", 10, 11, key="k", value=n) for n in (0, 1)]
    assert check(many, "--budget", "100").exit_code == 7


def test_an_empty_file_is_no_pass(check: Any) -> None:
    result = check([])
    assert result.exit_code == 7
    assert "the file holds no operations" in result.stdout


def test_only_so_many_are_printed(check: Any) -> None:
    lines = [line | {"key": f"k{n}"} for n in range(4) for line in STALE]
    result = check(lines, "--limit", "1")
    assert result.stdout.count("fits nowhere") == 1
    assert "3 more are not shown" in result.stdout


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_no_history_is_named(check: Any, as_json: bool) -> None:
    result = check([*GOOD, {"kind": "raed"}], *(["--json"] if as_json else []))
    assert (result.exit_code, result.stdout) == (2, "")
    told = json.loads(result.stderr)["message"] if as_json else result.stderr
    assert "run.jsonl, line 3: kind is 'raed'; must be one of read" in told
    assert "Traceback" not in told


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(tmp_path / "none.jsonl")])
    assert result.exit_code == 2
    assert "none.jsonl" in result.stderr
