"""A pytest plugin that writes down how each test failed, for the judge of a mutant.

It stands alone: the runner copies it next to the sources that it tests, and names the file to write
in `MUTANTS_WITNESS`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# A shell has its background jobs ignore Ctrl-C, by which a test is told to stop its servers.
signal.signal(signal.SIGINT, signal.default_int_handler)

_told: list[dict[str, Any]] = []
_ran: list[str] = []


def _kinds(problem: BaseException) -> list[str]:
    """Return the names of an exception's classes."""
    return [each.__name__ for each in type(problem).__mro__]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    """Note the exception that a test ended with, and when."""
    report: Any = yield
    if call.when == "call":
        _ran.append(item.nodeid)
    if report.failed and call.excinfo is not None:
        problem = call.excinfo.value
        words = " ".join(str(problem).split())[:200]
        _told.append({"when": call.when, "kinds": _kinds(problem), "words": words})
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note what could not be collected."""
    if report.failed:
        lines = str(report.longrepr).strip().splitlines()
        _told.append({"when": "collect", "kinds": [], "words": lines[-1] if lines else ""})


def pytest_sessionfinish() -> None:
    """Write it all down, with the place that Interlock came from where it was imported."""
    module = sys.modules.get("interlock")
    told = {"ran": _ran, "failures": _told, "source": getattr(module, "__file__", None)}
    Path(os.environ["MUTANTS_WITNESS"]).write_text(json.dumps(told), encoding="utf-8")
