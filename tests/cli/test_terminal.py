"""What others wrote into a store cannot steer the terminal that shows it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from interlock.cli.common import escaped

# A C1 control, a reversed direction of writing, an escape sequence, a line separator.
HARMFUL = ["\x9b2J", "\u202egnp.exe", "\x1b[2J", "\u2028forged", "\u2066x"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shown.db'}"


def _call(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--store", url], env={"COLUMNS": "300"})


@pytest.mark.parametrize("text", HARMFUL)
def test_harmful_characters_of_values_are_escaped(url: str, text: str) -> None:
    with interlock.open(url, agent="a") as space:
        space.create("k", {"note": text})
    for command in (
        ["get", "k"],
        ["get", "k", "--json"],
        ["log"],
        ["log", "--json"],
        ["history", "k"],
    ):
        shown = _call(url, *command).output
        assert not set(shown) & set(text) & set("\x9b\u202e\x1b\u2028\u2066")
    assert json.loads(_call(url, "get", "k").stdout) == {"note": text}
    assert json.loads(_call(url, "get", "k", "--json").stdout)["value"] == {"note": text}


@pytest.mark.parametrize("text", [*HARMFUL, "[red]x[/nothing]"])
def test_harmful_characters_of_errors_are_escaped_in_tables(url: str, text: str) -> None:
    with (
        interlock.open(url, agent="a") as space,
        suppress(interlock.RunFailed),
        space.run("order-1"),
    ):
        raise interlock.RunFailed(f"it said {text}")
    for command in (["runs", "list"], ["runs", "show", "order-1"]):
        shown = _call(url, *command)
        assert shown.exit_code == 0, shown.output
        assert not set(shown.output) & set(text) & set("\x9b\u202e\x1b\u2028\u2066")
        assert "it said" in shown.output
        assert escaped(text) in shown.output or text.startswith("\x1b")  # click takes those out
