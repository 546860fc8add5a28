"""A plugin of pytest that writes the outcome of each test, by its whole name, into a file.

The file is named by the environment variable `INTERLOCK_PEERS_LOG`: a line of JSON for each phase
of a test, and for each file that could not be read.  It imports nothing of ours: it is loaded into
other projects' environments.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

_LOG = "INTERLOCK_PEERS_LOG"


class _Log:
    def __init__(self, path: str) -> None:
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # open for the session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write a phase that decides something: the call, and whatever else does not pass."""
        if report.when == "call" or not report.passed:
            outcome = "skipped" if hasattr(report, "wasxfail") else report.outcome
            self._write(report.nodeid, outcome, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write that a file cannot be read."""
        if report.failed:
            self._write(report.nodeid, "failed", report)

    def pytest_unconfigure(self) -> None:
        """Close the file."""
        self.file.close()

    def _write(self, test: str, outcome: str, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message if crash else report.longreprtext[-500:]
        told = {"test": test, "outcome": outcome, "why": why if outcome == "failed" else ""}
        self.file.write(json.dumps(told) + "\n")
        self.file.flush()


def pytest_configure(config: pytest.Config) -> None:
    """Write in the process that hears of all tests: not in the workers of pytest-xdist."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Log(os.environ[_LOG]))
