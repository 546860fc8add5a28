"""A space of the test's own on each kind of store."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.processes.writers import Place


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a test keeps its state, as other processes open it."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return Place(url, f"adapters-{secrets.token_hex(8)}")
