"""Applications with a database of their own beside a space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.applications import Application


@pytest.fixture(
    params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)],
)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Application]:
    """An application on each store that has transactions."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'app.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    yield from prepared(url)


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Application]:
    """An application on SQLite."""
    yield from prepared(f"sqlite:///{tmp_path / 'app.db'}")


@pytest.fixture
def on_postgres(postgres_url: str) -> Iterator[Application]:
    """An application on PostgreSQL."""
    yield from prepared(postgres_url)


def prepared(url: str) -> Iterator[Application]:
    application = Application(url)
    try:
        application.open().close()  # a store first: SQLite knows it by its file
        application.prepare()
        yield application
    finally:
        application.close()
