"""`interlock trim`: output, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from interlock.core import trim


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command line on a store with nine entries, the first of which a group needs."""
    monkeypatch.setattr(trim, "KEPT_AT_LEAST", 0.0)
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(url, agent="a") as space:
        for n in range(9):
            space.create(f"k{n}", n)
        space.group("slow", start=0).take(1)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments), env={"INTERLOCK_STORE": url})

    return run


def test_it_says_what_is_kept_and_why(call: Any) -> None:
    told = call("trim", "--keep", "0")
    assert told.exit_code == 0
    assert told.stdout == ("Nothing trimmed: group 'slow' has not finished it.\n")
    call("groups", "drop", "slow")
    told = json.loads(call("trim", "--keep", "0", "--before", "4", "--json").stdout)
    assert told == {"oldest": 4, "cut": 3, "held": "position 4 was to be kept", "expired": 0}
    assert "no rule says" in call("trim").stdout
    assert call("log", "--json").stdout.count("\n") == 6
    assert call("trim", "--keep", "0").stdout == (
        "Trimmed 6 entries; the oldest is position 10 now.\n"
    )


def test_it_goes_in_steps(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interlock.cli.streams._STEP", 2)
    call("groups", "drop", "slow")
    told = json.loads(call("trim", "--keep", "0", "--json").stdout)
    assert told == {"oldest": 10, "cut": 9, "held": "", "expired": 0}


def test_what_was_cut_is_refused(call: Any) -> None:
    call("groups", "drop", "slow")
    call("trim", "--keep", "0", "--before", "4")
    refused = call("log", "--after", "1")
    assert refused.exit_code == 5
    assert "start there" in refused.stderr
    assert call("at", "--position", "2", "k1", "--json").exit_code == 5
    assert call("at", "--position", "3", "k1").stdout == "1\n"


def test_bad_calls(call: Any) -> None:
    assert call("trim", "--keep", "-1").exit_code == 2
    assert call("trim", "--keep", "soon").exit_code == 2
    assert call("trim", "--before", "-1").exit_code == 2
