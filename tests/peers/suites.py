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
    `tests` is how many tests it has.  `stores` are those that it is run on.
    """

    name: str
    package: str
    version: str
    tests: int
    arguments: tuple[str, ...]
    plugin: str
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
        tests=58,
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
)
