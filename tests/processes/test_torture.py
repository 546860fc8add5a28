"""Torture passes on the three stores with every fault, and finds a guard that is missing.

What its checks find in records and logs that are doctored is in `tests/verify`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from interlock.backends.postgres import calls
from interlock.cli.common import ANOMALIES, INTERRUPTED, USAGE
from interlock.verify import check_serializable, read_history
from interlock.verify.torture import FAULTS, Settings, new_space, run
from interlock.verify.torture.log import Findings
from interlock.verify.torture.runner import Durable
from tests.repository import PACKAGE
from tests.servers import guard
from tests.servers.process import wait_until, within
from tests.servers.redis import Redis
from tests.torture import STORES, store, tortured

SEED = 7
ATTEMPTS = 40  # until agents happen to meet where the guard is missing


@pytest.mark.parametrize("kind", STORES)
def test_a_store_passes_with_every_fault(kind: str) -> None:
    report = tortured(kind, 2000, SEED)
    assert report.verdict == "ok", json.dumps(report.as_json(), indent=1)
    lacking = {"sqlite": {"cut", "restart", "durable"}, "redis": {"durable"}}
    expected = set(FAULTS) - lacking.get(kind, set())
    assert {fault for fault, count in report.faults.items() if count} == expected
    assert report.commits > 800
    assert report.headline().startswith("PASS 2,000 operations")


class Guard(NamedTuple):
    """A guard in the sources of a backend, and what takes its place: nothing is asked."""

    kind: str
    file: str
    replaced: dict[str, str]
    anomaly: str


VERSION = "lost update"
GUARDS = {
    "sqlite-version": Guard(
        "sqlite",
        "backends/sqlite/commit.py",
        {"else version != expected.version\n": "else False\n"},
        VERSION,
    ),
    "postgres-version": Guard(
        "postgres",
        "backends/postgres/judge.sql",
        {
            "COALESCE(p_version = interlock.observed(h.version, h.live, p_now), true) END": (
                "true END"
            ),
            "IF COALESCE(p_versions[i] <> versions[i], lives[i] > 0) THEN": "IF false THEN",
        },
        VERSION,
    ),
    "redis-version": Guard(
        "redis",
        "backends/redis/commit.lua",
        {"differs = tonumber(version) ~= observed(heads[number])": "differs = false"},
        VERSION,
    ),
    "sqlite-scan": Guard(
        "sqlite",
        "backends/sqlite/commit.py",
        {"if refusal is None and plan.scans:": "if False:"},
        "phantom",
    ),
    "sqlite-operation": Guard(
        "sqlite",
        "backends/sqlite/commit.py",
        {"self._applied(plan) if plan.op_id in self._known else None": "None"},
        "applied twice",
    ),
    "sqlite-epoch": Guard(
        "sqlite",
        "backends/sqlite/commit.py",
        {"expected.epoch is not None and expected.epoch != epoch": "False"},
        "zombie wrote",
    ),
}


def sources_without(guard_: Guard, folder: Path) -> Path:
    """Return a copy of the sources in which a guard is missing."""
    copied = folder / "src" / PACKAGE.name
    shutil.copytree(PACKAGE, copied, ignore=shutil.ignore_patterns("__pycache__"))
    file = copied / guard_.file
    text = file.read_text("utf-8")
    for old, new in guard_.replaced.items():
        assert text.count(old) == 1, f"{guard_.file} has another guard by now: {old}"
        text = text.replace(old, new)
    file.write_text(text, "utf-8")
    return folder / "src"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "interlock.cli.torture", *arguments]


def told(sources: Path, *arguments: str, seed: int = SEED) -> tuple[int, Any]:
    """Run the command with these sources; return its exit code and what it printed."""
    ran = subprocess.run(
        command("--seed", str(seed), "--json", *arguments),
        env=os.environ | {"PYTHONPATH": str(sources)},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ran.stdout, ran.stderr
    return ran.returncode, json.loads(ran.stdout)


@pytest.mark.parametrize("name", GUARDS)
def test_a_missing_guard_is_found(name: str, tmp_path: Path) -> None:
    missing = GUARDS[name]
    sources = sources_without(missing, tmp_path)
    with store(missing.kind, tmp_path) as (url, _):
        arguments = ["--operations", "2000", "--workers", "3", "--faults", "kill,stop", "--yes"]
        for seed in range(SEED, SEED + ATTEMPTS):
            code, report = told(sources, "--store", url, *arguments, seed=seed)
            if missing.anomaly in report["anomalies"]:
                break
    assert code == ANOMALIES
    assert missing.anomaly in report["anomalies"], report["anomalies"]
    assert report["verdict"] == "anomalies"
    assert report["examples"][missing.anomaly][0]


def test_a_replay_that_is_not_durable_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads ask for no durability; commits do."""
    call_of: Any = calls.call_of
    monkeypatch.setattr(calls, "call_of", lambda *asked: call_of(*asked[:-1], False))
    with store("postgres", tmp_path) as (url, restart):
        assert restart is not None
        durable, findings = Durable(Settings(url, "s")), Findings()
        for _ in range(2):  # the outcome is asked for; then the commit is sent again
            durable.promise()
            restart()
        durable.check(findings)
    assert findings.counts == {"acknowledged and lost": 1}
    assert "durable-0: acknowledged again" in findings.examples["acknowledged and lost"][0]


def test_a_server_that_forgets_is_found(tmp_path: Path) -> None:
    with Redis.start(tmp_path, {"appendonly": "no"}) as server:

        def restart() -> None:
            server.kill()
            server.start_again()

        settings = Settings(
            server.url(), new_space(SEED), 2000, SEED, workers=3, faults=("restart",)
        )
        with within(400, "a run and its verdict"):
            report = run(settings, restart=restart)
    assert report.anomalies["acknowledged and lost"] > 100
    assert "LostCommits" in report.reasons, "nobody noticed while it ran"
    assert report.crashes == 0


def test_the_history_is_kept_for_other_checkers(tmp_path: Path) -> None:
    settings = Settings(f"sqlite:///{tmp_path}/s.db", new_space(1), 400, 1, workers=2, faults=())
    report = run(settings, kept=tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    history = read_history(file)
    assert len(history) >= report.commits
    assert check_serializable(history, strict=True).ok


def test_interrupted_it_leaves_nothing_behind(tmp_path: Path) -> None:
    here = tmp_path / "tmp"
    here.mkdir()
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(
            command("--operations", "1000000", "--faults", "stop"),
            env=os.environ | {"TMPDIR": str(here), "PYTHONPATH": str(PACKAGE.parent)},
            stderr=said,
        )
    try:
        wait_until(lambda: len(list(here.glob("*/window-*"))) == 8, "all workers write")
        workers = guard.tree(process.pid)[1:]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == INTERRUPTED
    finally:
        guard.kill_tree(process.pid)
    assert len(workers) == 8
    assert not guard.states().keys() & set(workers)
    assert list(here.iterdir()) == []
    assert (tmp_path / "said").read_bytes().strip() == b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--store", "sqlite://"], "can't share a store in memory"),
        (["--store", "redis://127.0.0.1:1"], "Add --yes if that is meant"),
        (["--faults", "flood"], "'flood' is none of kill, stop"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str) -> None:
    ran = subprocess.run(
        command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ran.returncode == USAGE
    assert message in " ".join(ran.stderr.replace("│", " ").split())
