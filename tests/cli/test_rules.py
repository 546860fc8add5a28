"""The commands for rules, machines, merged keys and conflicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import interlock
from interlock.cli import main
from tests import newer
from tests.newer import store_rules

RULES = {
    "findings": interlock.merged("append"),
    "booking/*": interlock.guarded(machine=interlock.BOOKING, on_conflict="rebase"),
    "agent/{agent}/**": interlock.private(),
    "report.md": interlock.leased(),
    "team/**": interlock.owned(by="curator"),
}


@pytest.fixture
def call(tmp_path: Path) -> Any:
    """Run the command line on one new store."""
    url = f"sqlite:///{tmp_path / 'cli.db'}"
    interlock.open(url).close()

    def run(*arguments: str) -> Result:
        environment = {"INTERLOCK_STORE": url, "INTERLOCK_AGENT": "shell"}
        return CliRunner().invoke(main, list(arguments), env=environment)

    return run


@pytest.fixture
def rules_file(tmp_path: Path) -> str:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({name: rule.to_json() for name, rule in RULES.items()}))
    return str(path)


def test_rules_are_checked_applied_and_shown(call: Any, rules_file: str) -> None:
    assert "no rules" in call("rules", "show").stdout
    checked = call("rules", "check", rules_file)
    assert "would be added: findings: merged('append')" in checked.stdout
    assert "no rules" in call("rules", "show").stdout
    applied = json.loads(call("rules", "apply", rules_file, "--json").stdout)
    assert applied == {"added": sorted(RULES), "removed": [], "changed": []}
    shown = json.loads(call("rules", "show", "--json").stdout)
    assert interlock.rules_from_json(shown) == RULES
    assert "these already" in call("rules", "apply", rules_file).stdout


def test_the_doc_tells_every_kind_of_key(call: Any, rules_file: str) -> None:
    call("rules", "apply", rules_file)
    told = {row["keys"]: row for row in json.loads(call("rules", "doc", "--json").stdout)}
    assert told["findings"]["kind"] == "merged"
    assert told["booking/*"]["kind"] == "shared, machine-bound"
    assert "machine 'booking'" in told["booking/*"]["how"]
    assert told["agent/{agent}/**"]["who_writes"] == "the agent named at {agent}"
    assert told["report.md"]["kind"] == "leased"
    assert (told["team/**"]["kind"], told["team/**"]["who_writes"]) == ("owned", "curator")
    assert "all others" in call("rules", "doc").stdout


def test_a_rule_of_a_newer_version_is_shown_as_unknown_and_holds(call: Any, tmp_path: Path) -> None:
    with interlock.open(f"sqlite:///{tmp_path / 'cli.db'}") as newer_space:
        newer_space.create("account/a", 1)
        store_rules(newer_space, newer.RULES)
    shown = call("rules", "show").stdout
    assert 'account/*: unknown, upgrade Interlock: {"rule": "escrow", "by": ["bank"]}' in shown
    assert json.loads(call("rules", "show", "--json").stdout) == newer.RULES
    rows = json.loads(call("rules", "doc", "--json").stdout)
    assert {row["kind"] for row in rows} == {"unknown"}
    refused = call("put", "account/a", "2", "--force")
    assert (refused.exit_code, call("get", "account/a").stdout) == (5, "1\n")
    for words in ("rule 'escrow'", "'account/*'", "Upgrade Interlock"):
        assert words in refused.stderr
    file = tmp_path / "rules.json"
    file.write_text("{}")
    assert call("rules", "apply", str(file)).exit_code == 5
    file.write_text(json.dumps({**newer.RULES, "x": {"rule": "guarded"}}))
    assert "added: x: guarded()" in call("rules", "apply", str(file)).stdout
    assert json.loads(call("rules", "show", "--json").stdout).items() >= newer.RULES.items()


def test_rules_that_values_break_are_reported(call: Any, rules_file: str) -> None:
    call("put", "findings", "1")
    for command in ("check", "apply"):
        refused = call("rules", command, rules_file)
        assert refused.exit_code == 2
        assert "'findings' has a plain value" in refused.stderr


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"a": {}}', '{"a": {"rule": "no"}}', '{"a": {"rule": "merged"}}', "{'a'}"]
)
def test_files_that_hold_no_rules(call: Any, tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert call("rules", "apply", str(path)).exit_code == 2
    assert call("rules", "apply", str(tmp_path / "missing.json")).exit_code == 2
    assert call("rules", "apply", "no.such.module:RULES").exit_code == 2
    assert "no rules" in call("rules", "show").stdout


def test_rules_come_from_a_module_too(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team_rules.py").write_text(
        "import interlock\nRULES = {'k': interlock.merged('counter')}\nOTHER = 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert call("rules", "apply", "team_rules:RULES").exit_code == 0
    assert call("rules", "apply", "team_rules:OTHER").exit_code == 2
    assert "merged('counter')" in call("rules", "show").stdout


def test_append_transition_and_reclaim(call: Any, rules_file: str) -> None:
    call("rules", "apply", rules_file)
    assert call("append", "findings", '{"a": 1}', "--id", "x").exit_code == 0
    entry = json.loads(call("append", "findings", '{"a": 1}', "--id", "x", "--json").stdout)
    assert (entry["kind"], entry["version"]) == ("append", 1)
    call("append", "findings", "words", "--text", "--dedupe")
    assert json.loads(call("get", "findings").stdout) == [{"a": 1}, "words"]
    call("put", "booking/1", '{"status": "PENDING"}')
    moved = call("transition", "booking/1", "PENDING_PAYMENT", "--set", "amount=3", "--json")
    assert json.loads(moved.stdout)["value"] == {"status": "PENDING_PAYMENT", "amount": 3}
    for arguments in (
        ("transition", "booking/1", "PENDING"),
        ("put", "booking/1", '{"status": "PENDING"}', "--force"),
        ("put", "booking/1", '{"status": "PENDING"}', "--version", "2"),
        ("put", "agent/ann/notes", "1"),
        ("put", "team/goals", "1"),
        ("put", "report.md", "1"),
    ):
        assert call(*arguments).exit_code == 5
    assert call("transition", "booking/1", "FAILED", "--set", "amount").exit_code == 2
    assert json.loads(call("reclaim", "booking/1", "--json").stdout)["epoch"] == 1
    told = {row["key"]: row for row in json.loads(call("conflicts", "--json").stdout)}
    assert told["booking/1"]["reasons"] == {"IllegalTransition": 3}
    assert "agent/ann/notes shell: Forbidden" in call("conflicts", "--each").stdout
    assert "booking/1" in call("conflicts").stdout


def test_what_others_changed_meanwhile_is_kept_where_the_rule_rebases(
    call: Any, rules_file: str
) -> None:
    call("rules", "apply", rules_file)
    call("put", "booking/1", "--create", '{"status": "PENDING", "seat": 1, "meal": 1}')
    call("put", "booking/1", "--version", "1", '{"status": "PENDING", "seat": 2, "meal": 1}')
    late = ("put", "booking/1", "--version", "1", "--json")
    merged = call(*late, '{"status": "PENDING", "seat": 1, "meal": 2}')
    assert json.loads(merged.stdout)["value"] == {"status": "PENDING", "seat": 2, "meal": 2}
    assert call(*late, '{"status": "PENDING", "seat": 3, "meal": 1}').exit_code == 3


def test_what_is_deleted_cannot_be_deleted_again(call: Any) -> None:
    call("put", "plan.md", "--create", "1")
    assert call("delete", "plan.md", "--version", "1").exit_code == 0
    assert call("delete", "plan.md", "--version", "1").exit_code == 3
    again = call("delete", "plan.md", "--version", "2")
    assert (again.exit_code, "plan.md" in again.stderr) == (2, True)


def test_machines_are_drawn(call: Any, rules_file: str) -> None:
    call("rules", "apply", rules_file)
    assert "COMPLETED       -> REFUND_PENDING" in call("machine", "draw", "booking").stdout
    drawn = call("machine", "draw", "agent-lifecycle", "--format", "mermaid").stdout
    assert "Idle --> Processing" in drawn
    source = call("machine", "draw", "interlock:BOOKING", "--format", "dot").stdout
    assert '"FAILED" -> "CANCELLED"' in source
    assert call("machine", "draw", "nothing").exit_code == 2
    assert call("machine", "draw", "interlock:open").exit_code == 2


def test_a_picture_is_what_graphviz_makes(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = call("machine", "draw", "booking", "--format", "svg")
    assert (missing.exit_code, "apt-get install graphviz" in missing.stderr) == (1, True)
    graphviz = tmp_path / "dot"
    graphviz.write_text('#!/bin/sh\necho "<svg> $1"\nexec /bin/cat\n')
    graphviz.chmod(0o755)
    drawn = call("machine", "draw", "booking", "--format", "svg").stdout
    source = call("machine", "draw", "booking", "--format", "dot").stdout
    assert drawn == f"<svg> -Tsvg\n{source.removesuffix(chr(10))}"
    graphviz.write_text("#!/bin/sh\necho no such font >&2\nexit 1\n")
    failed = call("machine", "draw", "booking", "--format", "png")
    assert (failed.exit_code, "Graphviz failed: no such font" in failed.stderr) == (1, True)


def test_a_used_operation_id_with_another_value_is_refused(call: Any) -> None:
    assert call("put", "k", "1", "--op-id", "o").exit_code == 0
    assert call("put", "k", "2", "--op-id", "o", "--force").exit_code == 2
    assert call("put", "k", "1", "--op-id", "o", "--force").exit_code == 0
    assert json.loads(call("get", "k").stdout) == 1


def test_calls_that_cannot_be_meant(call: Any) -> None:
    deep = "[" * 5000 + "]" * 5000
    for arguments in (
        ("put", "k", deep),
        ("at", "k"),
        ("at", "k", "--position", "0", "--prefix", "k"),
        ("watch", "--after", "99"),
        ("put", "k", "1", "--store", "sqlite://"),
    ):
        assert call(*arguments).exit_code == 2, arguments
    told = json.loads(call("put", "k", "{bad", "--json").stderr)
    assert (told["error"], told["retryable"]) == ("Usage", False)


def test_a_value_from_the_shell_fits_the_schema_of_its_rule(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    schema = {"title": "Seat", "type": "object", "properties": {"row": {"type": "integer"}}}
    path.write_text(json.dumps({"seat/*": {"rule": "guarded", "schema": schema}}))
    assert "guarded(schema=Seat)" in call("rules", "check", str(path)).stdout
    assert call("rules", "apply", str(path)).exit_code == 0
    assert json.loads(call("rules", "show", "--json").stdout)["seat/*"]["schema"] == schema
    wrong = call("put", "seat/1", '{"row": "x"}')
    assert wrong.exit_code != 0
    assert (
        "does not fit Seat (rule 'seat/*'): 'x' is not of type 'integer' at $.row" in wrong.stderr
    )
    assert call("put", "seat/1", '{"row": 1}').exit_code == 0
    path.write_text('{"seat/*": {"rule": "guarded", "schema": {"type": "nope"}}}')
    assert call("rules", "apply", str(path)).exit_code != 0
