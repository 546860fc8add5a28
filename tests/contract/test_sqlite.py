"""The contract suite on a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

from interlock.verify import suite


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """A new file for each test."""
    return f"sqlite:///{tmp_path / 'store.db'}"


globals().update(suite.tests())
