"""The suites: where each comes from, how it is run, and how many tests it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tests.repository import ROOT

STORES = ("sqlite", "postgres", "redis")
HERE = Path(__file__).parent
# For a file of ours, which must not see the settings and fixtures of our own tests.
_ALONE = ("--noconftest", "-c", os.devnull, "--rootdir", str(HERE), "--import-mode=importlib")


@dataclass(frozen=True)
class Suite:
    """A suite of a published package.

    `sha256` is that of its source distribution; a suite without one is installed, and `arguments`
    name a file of ours that runs it.  `arguments` are pytest's, `matching` is its -k.  `plugin` is
    a module of this folder, `expected` one whose `EXPECTED_FAILURES` gives the reason for each test
    that must fail.
    `tests` is how many tests it has, `own_tests` how many
    of them what the framework brings does not skip (0: all).  `stores` are those that it is run on.
    """

    name: str
    package: str
    version: str
    tests: int
    arguments: tuple[str, ...]
    plugin: str
    own_tests: int = 0
    sha256: str = ""
    matching: str = ""
    expected: str = ""
    environment: str = ".venv-peers"
    variables: Mapping[str, str] = field(default_factory=dict)
    stores: tuple[str, ...] = STORES

    @property
    def python(self) -> Path:
        """The Python of the environment that the suite runs in."""
        return ROOT / self.environment / "bin" / "python"

    def expected_failures(self) -> dict[str, str]:
        """Return the reason why each test that must fail does."""
        if not self.expected:
            return {}
        found: dict[str, str] = import_module(f"tests.peers.{self.expected}").EXPECTED_FAILURES
        return found


SUITES = (
    Suite(
        name="conformance",
        package="langgraph-checkpoint-conformance",
        version="0.0.2",
        tests=81,
        own_tests=58,
        arguments=(*_ALONE, str(HERE / "langgraph_conformance.py")),
        plugin="langgraph_plugin",
    ),
    Suite(
        name="langgraph",
        package="langgraph",
        version="1.2.22",
        sha256="32700dc34b5cf9ebb397258c2e56392f017d4dbc51c9591339225c3c1b7b5126",
        tests=1063,
        arguments=("tests",),
        matching="sqlite or store",
        plugin="langgraph_plugin",
        variables={"NO_DOCKER": "true", "LANGSMITH_TRACING": "false"},
    ),
    Suite(
        name="openai-agents",
        package="openai-agents",
        version="0.24.0",
        sha256="4b4b285f4fed81fdf1b4ac426a9101658d9cd29b4fb1aaeee18f639b77e704e3",
        tests=1293,
        arguments=(
            "tests/memory/test_compaction_model_visibility.py",
            "tests/memory/test_compaction_suffix.py",
            "tests/memory/test_openai_responses_compaction_session.py",
            "tests/memory/test_session.py",
            "tests/memory/test_session_limit.py",
            "tests/test_agent_runner.py",
            "tests/test_agent_runner_streamed.py",
            "tests/test_max_turns.py",
            "tests/test_native_tool_failure_history.py",
            "tests/test_programmatic_tool_calling.py",
            "tests/test_run_impl_resume_paths.py",
            "tests/test_soft_cancel.py",
            "tests/test_tool_batch_failure_history.py",
            "tests/test_tool_failure_boundaries.py",
        ),
        plugin="openai_plugin",
        expected="openai_expected",
        variables={"OPENAI_AGENTS_DISABLE_TRACING": "1"},
        stores=("sqlite",),
    ),
    Suite(
        name="crewai",
        package="crewai",
        version="1.15.30",
        sha256="17de4b7cc3f2c207033e9f82be4f7d749e540b0e415a3885a8d97bb43a90a318",
        tests=101,
        arguments=(
            "tests/test_async_human_feedback.py",
            "tests/test_flow_persistence.py",
            "tests/test_flow_persistence_factory.py",
            "tests/test_flow_resumability_regression.py",
            "tests/test_sqlite_connection_lifecycle.py",
        ),
        plugin="crewai_plugin",
        expected="crewai_expected",
        environment=".venv-crewai",
        variables={"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true"},
        stores=("sqlite",),
    ),
)
