"""`interlock files`: output, JSON and exit codes."""

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
    """A store with two documents."""
    made = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(made, agent="a") as space:
        space.files(tmp_path / "first").publish({"plan.md": "a\nb\nc\n", "notes/x.md": "x"})
    return made


@pytest.fixture
def call(url: str) -> Any:
    """Run the command line on it."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments), env={"INTERLOCK_STORE": url})

    return run


def test_another_folder_is_synced(call: Any, tmp_path: Path) -> None:
    root = tmp_path / "second"
    assert call("files", "status", str(root)).stdout == "behind    notes/x.md\nbehind    plan.md\n"
    synced = call("files", "sync", str(root), "--pattern", "notes/*", "--json")
    assert json.loads(synced.stdout) == {"path": "notes/x.md", "version": 1, "state": "published"}
    assert call("files", "sync", str(root)).stdout == "published plan.md\n"
    assert (root / "plan.md").read_text() == "a\nb\nc\n"
    told = call("files", "status", str(root))
    assert (told.stdout, told.stderr) == ("", "every file is what the space holds\n")


def test_edits_are_adopted_or_set_aside(call: Any, url: str, tmp_path: Path) -> None:
    root = tmp_path / "first"
    (root / "plan.md").write_text("A\nb\nc\n")
    (root / "new.md").write_text("new")
    assert call("files", "status", str(root)).stdout == "new       new.md\nedited    plan.md\n"
    assert call("files", "sync", str(root)).stdout == "edited    plan.md\n"
    with interlock.open(url, agent="elsewhere") as space:
        space.files(tmp_path / "other").update("plan.md", lambda text: text.replace("c", "C"))
    adopted = call("files", "adopt", str(root), "--json")
    assert [json.loads(line)["version"] for line in adopted.stdout.splitlines()] == [1, 3]
    assert (root / "plan.md").read_text() == "A\nb\nC\n"
    (root / "plan.md").write_text("mine\n")
    with interlock.open(url, agent="elsewhere") as space:
        space.files(tmp_path / "other").update("plan.md", lambda text: "theirs\n")
    clash = call("files", "adopt", str(root), "plan.md", "--json")
    assert clash.exit_code == 3
    assert json.loads(clash.stderr)["error"] == "FileEdited"
    assert call("files", "adopt", str(root)).exit_code == 3
    assert call("files", "discard", str(root), "plan.md").stdout == "published plan.md\n"
    assert (root / "plan.md").read_text() == "theirs\n"
    saved = json.loads(call("files", "status", str(root), "--json").stdout)
    assert (saved["path"], saved["state"]) == ("plan.md", "saved")
    assert Path(saved["where"]).read_text() == "mine\n"
    (root / "plan.md").write_text("again\n")
    assert call("files", "sync", str(root), "--rebuild").stdout == "published plan.md\n"
    assert (root / "plan.md").read_text() == "theirs\n"


def test_bad_calls(call: Any, tmp_path: Path) -> None:
    assert call("files", "adopt", str(tmp_path / "first"), "../x").exit_code == 2
    assert call("files", "sync", str(tmp_path / "first"), "--pattern", "**/x").exit_code == 2
    assert call("files", "discard", str(tmp_path / "first")).exit_code == 2
    assert call("files", "discard", str(tmp_path / "first"), "never").exit_code == 2
