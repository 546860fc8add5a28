"""The tests of the CrewAI adapter, which need an environment of their own: `make crewai`.

CrewAI cannot be installed beside openai-agents.  `pytest tests` leaves this folder out, see
`tests/conftest.py`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

# CrewAI sends what it does to its makers, and some tests run with no network.
os.environ.update(
    CREWAI_DISABLE_TELEMETRY="true", CREWAI_DISABLE_TRACKING="true", OTEL_SDK_DISABLED="true"
)
os.environ["CREWAI_TRACING_ENABLED"] = "false"

import interlock


def pytest_configure(config: pytest.Config) -> None:
    """Let CrewAI and what it is made of warn as they like; our own warnings stay errors."""
    config.addinivalue_line("filterwarnings", "ignore")
    config.addinivalue_line("filterwarnings", "error:::interlock")


@pytest.fixture(autouse=True)
def storage_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CrewAI's own stores, which a flow makes beside ours, go into the test's folder."""
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def name() -> str:
    """The name of a space of the test's own."""
    return f"crewai-{secrets.token_hex(8)}"


@pytest.fixture
def space(url: str, name: str) -> Iterator[interlock.Space]:
    """A space of the test's own, on each kind of store."""
    with interlock.open(url, space=name, agent="crew") as opened:
        yield opened


@pytest.fixture
def local() -> Iterator[interlock.Space]:
    """A space in memory, for what is alike on every store."""
    with interlock.open("sqlite://", agent="crew") as opened:
        yield opened
