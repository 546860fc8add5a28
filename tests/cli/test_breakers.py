"""The commands for circuit breakers: output, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main


@pytest.fixture
def url(tmp_path: Path) -> str:
    name = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(name, agent="w1"):
        return name


@pytest.fixture
def call(url: str) -> Any:
    def run(*arguments: str) -> Result:
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_AGENT": "shell", "COLUMNS": "140"}
        return CliRunner().invoke(main, list(arguments), env=environment)

    return run


def test_breakers_are_listed_and_closed(call: Any, url: str) -> None:
    assert call("breakers", "list").stdout == "no breakers\n"
    with interlock.open(url, agent="w1") as space:
        for name, failures in (("planner", 1), ("writer", 2)):
            with pytest.raises(OSError, match="no answer"):
                space.breaker(name, failures=failures).call(_fails)
    shown = call("breakers", "list").stdout
    for text in ("planner", "open", " s ", "OSError: no answer", "w1", "writer", "closed"):
        assert text in shown
    planner, writer = map(json.loads, call("breakers", "list", "--json").stdout.splitlines())
    assert (planner["name"], planner["state"], planner["agent"]) == ("planner", "open", "w1")
    assert 0 < planner["seconds"] <= 30
    assert (writer["state"], writer["failures"], writer["opened"]) == ("closed", 1, None)
    assert call("breakers", "reset", "planner").stdout == "planner is closed\n"
    assert json.loads(call("breakers", "reset", "writer", "--json").stdout)["failures"] == 0
    missing = call("breakers", "reset", "plannr")
    assert (missing.exit_code, "No breaker 'plannr'" in missing.stderr) == (4, True)


def _fails() -> None:
    raise OSError("no answer")
