"""Fixtures that give every contract test each backend and each façade in turn."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.facades import Facades

_numbers = itertools.count()


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sync", "async"])
def facades(request: pytest.FixtureRequest, store_url: str) -> Iterator[Facades]:
    """Opens spaces of their own in one store, with the synchronous or the asyncio façade."""
    opened = Facades(request.param, store_url, f"test-{os.getpid()}-{next(_numbers)}")
    yield opened
    opened.close()


@pytest.fixture
def space(facades: Facades) -> Any:
    """One open space."""
    return facades.open()
