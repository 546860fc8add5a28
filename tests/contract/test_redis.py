"""The contract suite on Redis."""

from __future__ import annotations

import pytest

from interlock.verify import suite


@pytest.fixture(scope="session")
def store_url(redis_url: str) -> str:
    """The server that all tests share."""
    return redis_url


@pytest.fixture(scope="session")
def store_capabilities() -> suite.Capabilities:
    """What this backend does not answer yet."""
    return suite.Capabilities(lacks={"groups": "the backend does not answer their requests yet"})


globals().update(suite.tests())
