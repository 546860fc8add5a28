"""The contract suite on a Redis Cluster: each space in one hash slot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interlock.verify import suite
from tests.conftest import present
from tests.servers.redis import RedisCluster


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A cluster of its own."""
    with present():
        cluster = RedisCluster.start(tmp_path_factory.mktemp("cluster"))
    with cluster:
        yield cluster.url()


# Runs and breakers ask a store for nothing that the other parts do not ask for.
PARTS = [part for part in suite.PARTS if not part.startswith(("runs", "breaker"))]
globals().update(suite.tests(*PARTS))
