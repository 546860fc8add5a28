"""Spaces as either API opens them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import interlock
from tests.processes.writers import Place

FACADES = ["async", "sync"]
# Both APIs on SQLite, and one on each server: for tests of the fixture `space`.
SHORT = pytest.mark.parametrize(
    ("place", "space"),
    [("sqlite", "async"), ("sqlite", "sync"), ("postgres", "async"), ("redis", "async")],
    indirect=True,
)
ON_SQLITE = pytest.mark.parametrize("place", ["sqlite"], indirect=True)


@asynccontextmanager
async def opened(facade: str, place: Place, agent: str) -> AsyncIterator[Any]:
    """Open a space with `interlock.open` or `interlock.open_async`."""
    if facade == "async":
        async with interlock.open_async(place.url, space=place.space, agent=agent) as space:
            yield space
    else:
        with interlock.open(place.url, space=place.space, agent=agent) as sync_space:
            yield sync_space
