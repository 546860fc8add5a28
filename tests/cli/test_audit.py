"""`interlock audit`: its output for people and machines, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from interlock.cli import main

RACE = """\
import redis
r = redis.Redis()

def bump(key):
    value = int(r.get(key))
    r.set(key, value + 1)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    file = tmp_path / "app.py"
    file.write_text(RACE, "utf-8")
    return file


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_people_see_the_read_the_write_and_the_fix(app: Path) -> None:
    result = run(app)
    assert result.exit_code == 6
    for text in ("lost-update", "5 |", "6 |", "<- reads key", "<- writes key", "fix:", "1 finding"):
        assert text in result.output


def test_json_holds_the_findings_and_what_was_read(app: Path) -> None:
    result = run(app, "--json")
    told = json.loads(result.output)
    assert (told["files"], told["lines"], len(told["findings"])) == (1, 6, 1)
    assert told["findings"][0]["path"][0]["line"] == 5


def test_sarif_has_a_result_with_rule_place_and_path(app: Path) -> None:
    log = json.loads(run(app, "--sarif").output)
    (sarif_run,) = log["runs"]
    (result,) = sarif_run["results"]
    rule = sarif_run["tool"]["driver"]["rules"][result["ruleIndex"]]
    assert (log["version"], result["ruleId"], rule["id"]) == ("2.1.0", "lost-update", "lost-update")
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (region["startLine"], result["level"]) == (6, "warning")
    assert len(result["codeFlows"][0]["threadFlows"][0]["locations"]) == 2


def test_annotations_are_commands_of_github(app: Path) -> None:
    (line,) = run(app, "--github").output.splitlines()
    assert line.startswith(f"::warning file={app},line=6,")
    assert "title=interlock lost-update::" in line


def test_a_baseline_is_written_and_used(app: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "accepted.json"
    assert run(app, "--write-baseline", baseline).exit_code == 0
    assert run(app, "--baseline", baseline).exit_code == 0


def test_rules_are_chosen_and_left_out(app: Path) -> None:
    assert run(app, "--ignore", "lost-update").exit_code == 0
    assert run(app, "--rule", "check-then-act").exit_code == 0
    assert run(app, "--rule", "lost-update").exit_code == 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rule", "no-such-rule"],
        ["--json", "--sarif"],
        ["--baseline", "missing.json"],
        ["--config", "missing.toml"],
    ],
)
def test_a_wrong_call_is_a_usage_error(app: Path, arguments: list[str]) -> None:
    assert run(app, *arguments).exit_code == 2


def test_the_code_that_is_read_is_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", "utf-8")
    assert run(trap).exit_code == 0
    assert not (tmp_path / "ran").exists()
