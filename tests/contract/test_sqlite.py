"""The contract suite on a SQLite file."""

from __future__ import annotations

import pytest

from interlock.verify import suite


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One file for all of them: each test has spaces of its own, and making files takes long."""
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'store.db'}"


globals().update(suite.tests())
