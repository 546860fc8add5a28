"""Fixtures that give every contract test each façade in turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.facades import Facades


@pytest.fixture(params=["sync", "async"])
def facades(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Facades]:
    """Opens spaces in one new SQLite file, with the synchronous or the asyncio façade."""
    opened = Facades(request.param, f"sqlite:///{tmp_path / 'store.db'}")
    yield opened
    opened.close()


@pytest.fixture
def space(facades: Facades) -> Any:
    """One open space."""
    return facades.open()
