"""The contract suite on Redis."""

from __future__ import annotations

import pytest

from interlock.verify import suite


@pytest.fixture(scope="session")
def store_url(redis_url: str) -> str:
    """The server that all tests share."""
    return redis_url


globals().update(suite.tests())
