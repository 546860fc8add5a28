"""The real servers that tests share, started when the first test asks and ended with the session.

`INTERLOCK_TEST_POSTGRES` and `INTERLOCK_TEST_REDIS` name servers to use instead.  A server that is
missing fails the test with what to install.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import settings

from interlock.core import pace
from tests.servers.postgres import Postgres
from tests.servers.process import Missing
from tests.servers.redis import Redis

# Hundreds of processes are started here: each would compile the whole package, and what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # What a shell starts in the background ignores Ctrl-C, and so would what the tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.dont_write_bytecode = False

# How long an example takes says nothing: the machine may be busy.
settings.register_profile("default", deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)
# `make crewai` runs these in an environment of their own: CrewAI and openai-agents exclude each
# other.
collect_ignore = ["crewai"]
LONGEST = ("tests/processes/", "tests/test_repository_docs.py", "tests/verify/")
pytest_plugins = ["tests.facades", "interlock.verify.pytest"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the contract suite run on another store: `make contract STORE=...`."""
    group = parser.getgroup("contract", "the contract suite of Interlock (tests/contract)")
    group.addoption("--store", metavar="URL", help="run it on this store, and nothing else")
    group.addoption(
        "--lacks",
        action="append",
        default=[],
        metavar="CAPABILITY=REASON",
        help="what the store lacks, and why: tests that need it are skipped",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes longest first, so that at the end no process waits for another's last file."""
    items.sort(key=lambda item: not any(part in item.nodeid for part in LONGEST))


@pytest.fixture
def long_thoughts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no function taken for a quick one, so that updates queue after a conflict."""
    monkeypatch.setattr(pace, "QUICK", 0.0)


@contextmanager
def present() -> Iterator[None]:
    """Turn a server that is not installed into a failure that says what to install."""
    try:
        yield
    except Missing as problem:
        pytest.fail(str(problem), pytrace=False)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL server that all tests share: make a database or a schema of your own."""
    with present():
        server = Postgres.start(tmp_path_factory.mktemp("postgres"))
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis server that all tests share: use keys or a space of your own."""
    with present():
        server = Redis.start(tmp_path_factory.mktemp("redis"))
    with server:
        yield server


def named_or_started(name: str, request: pytest.FixtureRequest) -> str:
    """Return the address that the environment names, else that of the server shared by all."""
    if named := os.environ.get(f"INTERLOCK_TEST_{name.upper()}"):
        return named
    server: Postgres | Redis = request.getfixturevalue(f"{name}_server")
    return server.url()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The address of the PostgreSQL server that all tests share."""
    return named_or_started("postgres", request)


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest) -> str:
    """The address of the Redis server that all tests share."""
    return named_or_started("redis", request)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the schedule explorer went through (`tests/verify/conftest.py` pins the numbers),
    and what the runs that were killed.
    """
    passed, failed = (terminalreporter.stats.get(how, ()) for how in ("passed", "failed"))
    found: dict[str, list[Any]] = {"explored": [], "killed": []}
    for report in (*passed, *failed):
        for name, value in getattr(report, "user_properties", ()):
            found.get(name, []).append(value)
    if found["explored"]:
        terminalreporter.section("explored schedules")
    for protocol, schedules, states in sorted(found["explored"]):
        terminalreporter.line(f"{protocol:<56} {schedules:>13,} schedules {states:>9,} states")
    if found["killed"]:
        terminalreporter.section("killed runs")
    for line in found["killed"]:
        terminalreporter.line(line)
