"""Torture of guards passes on each place with blind writers, and finds a missing comparison.

What the ledger finds in records that are doctored is in `tests/verify`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from interlock.cli.common import ANOMALIES, USAGE
from interlock.verify.torture.ledger import UNSEEN
from tests.processes.test_torture import SEED, Guard, command, sources_without, told
from tests.torture import PLACES, store, tortured

FAULTS = ("kill", "cut", "lost", "restart")


@pytest.mark.parametrize("kind", PLACES)
def test_guards_destroy_nothing_unseen_while_blind_writers_and_faults_strike(kind: str) -> None:
    report = tortured(kind, 300, SEED, 2, 8, guarded=True, faults=FAULTS)
    assert report.verdict == "ok", json.dumps(report.as_json(), indent=1)
    lacking = {"cut", "restart"} if kind in ("sqlite", "file") else set()
    assert {fault for fault, count in report.faults.items() if count} == {*FAULTS} - lacking
    assert report.commits > 100
    assert min(report.blind, report.blindly_destroyed) > 0
    assert report.headline().endswith("0 changes destroyed unseen by a guard")


COMPARISONS = {
    "redis": {
        "guards/places/string.lua": {
            "there == (ARGV[at] == '=' and ARGV[at + 1]), there": "true, there",
        }
    },
    "sqlite": {
        "guards/places/sqlite_row.py": {
            'IS {MARK}" for name in table': 'IS {MARK} IS NOT NULL" for name in table'
        }
    },
    "file": {
        "guards/places/file.py": {
            "if there.data != old:": "old = there.data\n            if False:",
        }
    },
}


@pytest.mark.parametrize("kind", COMPARISONS)
def test_a_missing_comparison_is_found(kind: str, tmp_path: Path) -> None:
    ((file, replaced),) = COMPARISONS[kind].items()
    sources = sources_without(Guard(kind, file, replaced, UNSEEN), tmp_path)
    folder = tmp_path / "place"
    folder.mkdir()
    with store(kind, folder) as (url, _):
        place = url.removeprefix("file://")
        code, report = told(
            *(sources, "--guard", place, "--operations", "200", "--workers", "2", "--tasks", "8"),
            *("--no-faults", "--yes", "--keep", str(tmp_path / "kept")),
        )
    assert code == ANOMALIES
    assert report["anomalies"][UNSEEN] > 0
    lines = (tmp_path / "kept" / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == report["entries"]
    destroyed = [line for line in map(json.loads, lines) if line["destroyed_blindly"]]
    assert len(destroyed) == report["blindly_destroyed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--guard", "/nowhere"], "'/nowhere' is no folder"),
        (["--guard", "redis://127.0.0.1:1"], "keys, a table or a folder named torture-"),
        (["--guard", ".", "--store", "sqlite:///s.db"], "only one of --store and --guard"),
        (["--guard", "mongodb://x", "--yes"], "is no place: use redis://"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str) -> None:
    ran = subprocess.run(
        command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == USAGE
    assert message in " ".join(ran.stderr.replace("│", " ").split())
