"""The commands for consumer groups and coordinators: output, JSON and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main


@pytest.fixture
def url(tmp_path: Path) -> str:
    name = f"sqlite:///{tmp_path / 'cli.db'}"
    with interlock.open(name, agent="w1", rules={"contrib/*": interlock.merged("append")}) as space:
        for n in (1, 2, 3):
            space.append("contrib/w1", {"id": n, "n": n})
    return name


@pytest.fixture
def call(url: str) -> Any:
    def run(*arguments: str) -> Result:
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_AGENT": "shell"}
        return CliRunner().invoke(main, list(arguments), env=environment)

    return run


def test_consuming_acknowledges(call: Any) -> None:
    assert call("groups", "list").stdout == "no groups\n"
    first = call("consume", "g", "--prefix", "contrib/", "--limit", "2", "--json")
    assert [json.loads(line)["value"]["n"] for line in first.stdout.splitlines()] == [1, 2]
    shown = json.loads(call("groups", "show", "g", "--json").stdout)
    assert (shown["prefix"], shown["pending"]) == ("contrib/", [])
    assert [(c["name"], c["alive"]) for c in shown["consumers"]] == [("shell", False)]
    assert "3" in call("consume", "g", "--prefix", "contrib/", "--limit", "1").stdout
    assert call("groups", "list").stdout.startswith("g: keys under 'contrib/', dealt up to 4 of 4")
    assert json.loads(call("groups", "list", "--json").stdout)["name"] == "g"
    assert call("groups", "drop", "g").stdout == "g is forgotten\n"
    missing = call("groups", "show", "g")
    assert (missing.exit_code, "no group 'g'" in missing.stderr) == (2, True)


def test_a_group_shows_what_is_pending(call: Any, url: str) -> None:
    with interlock.open(url, agent="w2") as space:
        space.group("g").take(2)
    shown = call("groups", "show", "g").stdout
    assert "w2" in shown
    assert "contrib/w1  with w2, delivered 1 times" in shown


def test_a_start_may_be_a_position(call: Any) -> None:
    shown = call("consume", "late", "--start", "3", "--limit", "1", "--ttl", "5", "--json")
    assert json.loads(shown.stdout)["position"] == 4
    assert call("consume", "g", "--start", "soon").exit_code == 2


def test_coordinating_once(call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_merging.py").write_text(
        "def add(value, item):\n    return [*(value or []), item['n']]\n"
        "def check(item):\n    return 'too big' if item['n'] > 2 else None\n"
    )
    monkeypatch.chdir(tmp_path)
    base = ("coordinate", "--into", "report", "--from", "contrib/", "--once")
    done = call(*base, "--reducer", "my_merging:add", "--validate", "my_merging:check", "--json")
    assert json.loads(done.stdout) == {
        "cursor": 5,  # the fifth says that the coordinator needs the log
        "head": 5,
        "merged": 2,
        "rejected": 1,
        "duplicates": 0,
    }
    assert json.loads(call("get", "report").stdout) == [1, 2]
    assert "too big" in call("get", "report/rejected/000000000004").stdout
    again = call(*base, "--reducer", "my_merging:add")
    assert again.stdout == "at 11 of 11: 2 merged, 1 rejected, 0 duplicates\n"
    named = call(*base, "--reducer", "deep_merge", "--name", "n", "--dedupe", "none", "--ttl", "5")
    assert "2 merged" not in named.stdout
    assert call(*base, "--reducer", "adding").exit_code == 2
    assert "t import no_such:thing" in call(*base, "--reducer", "no_such:thing").stderr


def test_a_curator_is_what_a_function_returns(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_memory.py").write_text(
        "def curator(space):\n"
        "    scope = lambda event: 'project' if event['n'] < 3 else 'x'\n"
        "    return space.curator('contrib/', route=scope)\n"
        "def other(space):\n    return space.coordinator('x', source='contrib/', merge='append')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    done = call("curator", "my_memory:curator", "--once", "--json")
    assert json.loads(done.stdout)["merged"] == 2
    assert [item["n"] for item in json.loads(call("get", "memory/project").stdout)] == [1, 2]
    assert call("curator", "my_memory:curator", "--once").stdout.endswith(
        "2 merged, 1 rejected, 0 duplicates\n"
    )
    wrong = call("curator", "my_memory:other", "--once")
    assert (wrong.exit_code, "not space.curator(...)" in wrong.stderr) == (2, True)
    assert call("curator", "my_memory", "--once").exit_code == 2


def test_ctrl_c_ends_a_coordinator_and_frees_its_lease(url: str) -> None:
    command = (sys.executable, "-c", "from interlock.cli import main; main()", "coordinate")
    options = ("--into", "report", "--from", "contrib/", "--reducer", "append", "--json")
    process = subprocess.Popen(
        [*command, *options, "--store", url, "--agent", "boss"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["merged"] == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.communicate()
    with interlock.open(url) as space:
        assert space.lease("report/coordinator", wait=0).acquire().epoch == 2
