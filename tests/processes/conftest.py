"""Everything here starts processes: left out of `make quick`."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.processes.writers import Place


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A space of the test's own in a store of each kind."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return Place(url, f"processes-{secrets.token_hex(8)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder as slow."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
