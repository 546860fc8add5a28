"""Runs one suite on one store, and judges what came out against what must."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.peers.sources import CACHE, unpacked
from tests.peers.suites import HERE, Suite
from tests.repository import ROOT
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

OWN = "own"  # the store of what a framework brings
PROGRESS_EVERY = 15  # seconds
_SHOWN = 300  # characters of a failure
_RAN = (0, 1)  # pytest's exit codes for: all passed, some failed


@dataclass(frozen=True)
class Outcome:
    """What became of a suite on a store.

    `store` is "own" where it was run without our plugin.  `wrong` says, a line each, what
    must not be: unexpected failures, expected ones that passed or are gone, tests that are missing.
    """

    suite: Suite
    store: str
    passed: int = 0
    failed: int = 0
    expected: int = 0
    skipped: int = 0
    seconds: float = 0.0
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Say whether the run is as it must be."""
        return not self.wrong

    def as_json(self) -> dict[str, object]:
        """Return it as the command line prints it."""
        return {
            "suite": self.suite.name,
            "package": self.suite.package,
            "version": self.suite.version,
            "store": self.store,
            "ok": self.ok,
            "tests": self.passed + self.failed + self.expected,
            "passed": self.passed,
            "failed": self.failed,
            "expected_failures": self.expected,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
            "wrong": list(self.wrong),
        }


@dataclass
class Log:
    """The outcomes of the tests, by name, and what each failure said."""

    outcomes: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Log:
        """Read what `peers_log` wrote; a test that failed in any phase has failed."""
        log = cls()
        for line in path.read_text().splitlines() if path.exists() else ():
            told = json.loads(line)
            test, outcome = told["test"], told["outcome"]
            if log.outcomes.get(test) != "failed":
                log.outcomes[test] = outcome
                log.why[test] = told["why"]
        return log

    def having(self, outcome: str) -> set[str]:
        """Return the tests that ended in a way."""
        return {test for test, found in self.outcomes.items() if found == outcome}


def judged(
    suite: Suite, store: str, log: Log, expected: Mapping[str, str], partial: bool = False
) -> Outcome:
    """Judge the outcomes of a suite's tests, or of a part, against the failures expected."""
    passed, failed = log.having("passed"), log.having("failed")
    ran = len(passed) + len(failed)
    wrong = [
        f"{test} failed: {log.why[test].strip()[:_SHOWN]}"
        for test in sorted(failed - expected.keys())
    ]
    for test in sorted(expected.keys() - failed):
        how = "passed" if test in passed else "did not run"
        wrong.append(f"{test} {how}, and is expected to fail: {expected[test]}")
    least = (suite.own_tests if store == OWN else 0) or suite.tests
    if ran < least and not partial:
        wrong.append(f"{ran} tests ran, and {least} are in the suite")
    return Outcome(
        suite=suite,
        store=store,
        passed=len(passed),
        failed=len(failed - expected.keys()),
        expected=len(failed & expected.keys()),
        skipped=len(log.having("skipped")),
        wrong=tuple(wrong),
    )


def run(
    suite: Suite,
    store: str,
    *,
    say: Callable[[str], None],
    python: str | None = None,
    matching: str = "",
    jobs: int = 1,
) -> Outcome:
    """Run a suite on a store: sqlite, postgres or redis; OWN: without our plugin.

    `python` takes the place of the suite's environment.  `matching`, as
    pytest's -k, runs a part, and tests that do not run are no fault then.  `say` gets progress for
    people.  Raises NotFetched where the suite cannot be had.
    """
    folder = unpacked(suite) if suite.sha256 else HERE
    both = " and ".join(f"({each})" for each in (suite.matching, matching) if each)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interlock-peers-") as name:
        log = Path(name) / "log.jsonl"
        command = [python or str(suite.python), "-m", "pytest", "-q", "-p", "peers_log"]
        command += [] if store == OWN or not suite.plugin else ["-p", suite.plugin]
        command += [*suite.arguments, *(["-k", both] if both else [])]
        command += ["-n", str(jobs)] if jobs > 1 else []
        with _url("sqlite" if store == OWN else store, Path(name)) as url:
            code, said = _pytest(command, folder, _environment(suite, log, url), log, say)
        read = Log.read(log)
    expected = {} if store == OWN else suite.expected
    if matching:
        expected = {test: why for test, why in expected.items() if test in read.outcomes}
    outcome = judged(suite, store, read, expected, partial=bool(matching))
    crashed = () if code in _RAN else (f"pytest ended with code {code}:\n{said}",)
    seconds = time.monotonic() - began
    return replace(outcome, seconds=seconds, wrong=(*outcome.wrong, *crashed))


def _environment(suite: Suite, log: Path, url: str) -> dict[str, str]:
    """Return the environment of a suite: nothing of ours but the sources and the plugins."""
    kept = ("HOME", "LANG", "PATH", "TMPDIR", "USER")
    return {
        **{name: value for name, value in os.environ.items() if name in kept},
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "INTERLOCK_PEERS_URL": url,
        "INTERLOCK_PEERS_LOG": str(log),
        **suite.variables,
    }


def _pytest(
    command: list[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
    say: Callable[[str], None],
) -> tuple[int, str]:
    """Run pytest; return its exit code and the end of what it said, which is kept in a file."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "last-run.txt").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    code = process.wait(PROGRESS_EVERY)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{len(Log.read(log).outcomes)} tests")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        output.seek(0)
        return code, "\n".join(output.read().splitlines()[-15:])


@contextmanager
def _url(store: str, folder: Path) -> Iterator[str]:
    """Yield the URL of a new store, whose server is ended afterwards."""
    if store == "sqlite":
        yield f"sqlite:///{folder / 'peers.db'}"
        return
    starts = Postgres.start if store == "postgres" else Redis.start
    with starts(folder / store) as server:
        yield server.url()
