"""Where the tests of the LangGraph store put it: a space on each kind of store."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import interlock

BACKENDS = ("sqlite", "postgres", "redis")


class Place(NamedTuple):
    """A store's URL, in which every test takes spaces of its own."""

    url: str

    def open(self, name: str | None = None, **options: Any) -> interlock.Space:
        return interlock.open(self.url, name or f"adapters-{secrets.token_hex(8)}", **options)

    def open_async(self, name: str | None = None) -> Any:
        return interlock.open_async(self.url, name or f"adapters-{secrets.token_hex(8)}")


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A store of each kind."""
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'store.db'}")
    return Place(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def space(place: Place) -> Iterator[interlock.Space]:
    """An empty space in a store of each kind."""
    with place.open() as opened:
        yield opened


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make calls at one moment, each in a thread and a context of its own; return the answers."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    gate = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        gate.wait(30)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))
