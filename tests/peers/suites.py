"""The suites: where each comes from, how it is run, and how many tests it has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.peers import crewai_expected, openai_expected
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
    a module of this folder, `expected` the reason for each test that must fail.  `tests` is how
    many tests it has, `own_tests` how many of them what the framework brings does not skip (0:
    all).  `stores` are those that it is run on.
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
    expected: Mapping[str, str] = field(default_factory=dict)
    environment: str = ".venv-peers"
    variables: Mapping[str, str] = field(default_factory=dict)
    stores: tuple[str, ...] = STORES

    @property
    def python(self) -> Path:
        """The Python of the environment that the suite runs in."""
        return ROOT / self.environment / "bin" / "python"


SUITES = (
    Suite(
        name="own-losses",
        package="langgraph-checkpoint-sqlite",
        version="3.1.2",
        tests=2,
        arguments=(*_ALONE, str(HERE / "own_losses.py")),
        plugin="",
        stores=("sqlite", "postgres"),
    ),
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
        tests=1435,
        arguments=openai_expected.FILES,
        plugin="openai_plugin",
        expected=openai_expected.EXPECTED_FAILURES,
        variables={"OPENAI_AGENTS_DISABLE_TRACING": "1"},
        stores=("sqlite",),
    ),
    Suite(
        name="anthropic",
        package="anthropic",
        version="2.14.0",
        sha256="afb02f4df8efba429ff769bbfd71340d8b244b41ba42c073a45cc307702549fe",
        tests=74,
        arguments=(
            *("--noconftest", "-c", os.devnull, "--rootdir", ".", "--import-mode=importlib"),
            *("-o", "asyncio_mode=auto", "tests/lib/tools/memory_tools/test_filesystem.py"),
        ),
        matching="not symlink and not umask",  # these are about a file system, and we need none
        plugin="anthropic_plugin",
        environment=".venv",
    ),
    Suite(
        name="crewai",
        package="crewai",
        version="1.15.30",
        sha256="17de4b7cc3f2c207033e9f82be4f7d749e540b0e415a3885a8d97bb43a90a318",
        tests=crewai_expected.TESTS,
        # It has no settings of its own for pytest, which would look for ours.
        arguments=("-c", "pyproject.toml", "--rootdir", ".", *crewai_expected.FILES),
        plugin="crewai_plugin",
        expected=crewai_expected.EXPECTED,
        environment=".venv-crewai",
        variables={
            "CREWAI_DISABLE_TELEMETRY": "true",
            "OTEL_SDK_DISABLED": "true",
            "INTERLOCK_PEERS_URL": "",  # its tests look for a file where they asked for one
        },
        stores=("sqlite",),
    ),
)
