"""`interlock erase`: it asks first, and says what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from tests.cli.test_detect import on_a_terminal

SECRET = 'alice "äöü"'


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Run the command line on a store with a secret in two keys."""
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(url, agent="a") as space:
        space.create("customer/1", {"mail": SECRET})
        space.create("customer/2", ["bob"])
        space.create("notes", f"ask {SECRET}")

    def run(*arguments: str, answer: str = "") -> Result:
        told = CliRunner().invoke(main, list(arguments), env={"INTERLOCK_STORE": url}, input=answer)
        assert SECRET not in told.output or "log" in arguments
        return told

    return run


def test_it_asks_and_takes_no_for_an_answer(call: Any) -> None:
    told = call("erase", "--containing", SECRET, answer="n\n")
    assert told.exit_code == 1
    assert "Erase 2 values of 2 keys for good?" in told.output
    assert SECRET.replace('"', '\\"') in call("log").output
    told = call("erase", "--containing", SECRET, answer="y\n")
    assert told.exit_code == 0
    assert "Erased 2 values of 2 keys, of 3 looked at:\n  customer/1\n  notes\n" in told.output
    assert "Not reached: " in told.output
    log = call("log").output
    assert log.count("(erased)") == 2
    assert "alice" not in log


def test_json_and_dry_run(call: Any) -> None:
    would = json.loads(call("erase", "--prefix", "customer/", "--dry-run", "--json").stdout)
    assert (would["dry_run"], would["keys"]) == (True, ["customer/1", "customer/2"])
    done = json.loads(call("erase", "customer/1", "--yes", "--vacuum", "--json").stdout)
    assert (done["dry_run"], done["removed"]["log"]) == (False, 1)
    assert "the file was rewritten (VACUUM)" in done["done"]
    (entry, _) = map(json.loads, call("history", "customer/1", "--json").stdout.splitlines())
    assert (entry["erased"], entry["value"]) == (True, None)
    assert "Nothing to erase: looked at 0 values." in call("erase", "customer/1").stdout
    assert json.loads(call("check-store", "--json").stdout)["problems"] == []


def test_what_is_malformed_is_said(call: Any) -> None:
    for wrong in (
        ("erase", "--yes"),
        ("erase", "a", "--prefix", "b", "--yes"),
        ("erase", "--containing", "", "--yes"),
        ("erase", "--containing", "x", "--where", "json:loads", "--yes"),
    ):
        assert call(*wrong).exit_code in (2, 5), wrong
    assert "(erased)" not in call("log").output


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(url, agent="a") as space:
        space.create("notes", SECRET)
    seen, code = on_a_terminal("erase", "notes", "--yes", "--store", url)
    assert (code, b"looking through the log" in seen, b"erasing" in seen) == (0, True, True)
    assert b"100%" in seen
