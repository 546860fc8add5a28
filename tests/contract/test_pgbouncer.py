"""The contract suite on PostgreSQL behind PgBouncer, which gives a connection away after each
transaction: no prepared statements and no notifications.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from interlock.verify import suite
from tests.conftest import present
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres


@pytest.fixture(scope="module")
def store_url(postgres_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pool in front of the server that all tests share."""
    with present():
        pool = PgBouncer.start(tmp_path_factory.mktemp("pgbouncer"), postgres_server)
    with pool:
        yield pool.url()


# Runs and breakers ask a store for nothing that the other parts do not ask for.
PARTS = [part for part in suite.PARTS if not part.startswith(("runs", "breaker"))]
globals().update(suite.tests(*PARTS))
