"""A space of the test's own on each kind of store."""

from __future__ import annotations

import gc
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import interlock
from tests.adapters.processes import Nursery
from tests.adapters.spaces import FACADES, opened
from tests.processes.writers import Place


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a test keeps its state, as other processes open it."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'store.db'}", "s")
    url: str = request.getfixturevalue(f"{request.param}_url")
    return Place(url, f"adapters-{secrets.token_hex(8)}")


@pytest.fixture(params=FACADES)
async def space(request: pytest.FixtureRequest, place: Place) -> AsyncIterator[Any]:
    """A space of either API, for asynchronous code."""
    async with opened(request.param, place, "app") as found:
        yield found


@pytest.fixture
async def store_space(place: Place) -> AsyncIterator[interlock.AsyncSpace]:
    """A space for asynchronous code on each kind of store, opened with `open_async`."""
    async with interlock.open_async(place.url, space=place.space, agent="app") as found:
        yield found


@pytest.fixture
def shared(place: Place) -> Iterator[interlock.Space]:
    """A space for threads."""
    with interlock.open(place.url, space=place.space, agent="app") as found:
        yield found


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Where the processes of a test file come from."""
    started = Nursery()
    yield started
    started.close()


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing may wait for the garbage collector."""
    gc.disable()
    yield
    gc.enable()
