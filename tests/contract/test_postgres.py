"""The contract suite on PostgreSQL."""

from __future__ import annotations

import pytest

from interlock.verify import suite


@pytest.fixture(scope="session")
def store_url(postgres_url: str) -> str:
    """The server that all tests share."""
    return postgres_url


globals().update(suite.tests())
