"""The pytest plugin, found once Interlock is installed: the fixture `explore_interlock`, and those
of the contract suite (`interlock.verify.suite`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from interlock.verify.explorer_search import Exploration
    from interlock.verify.suite import Capabilities, Facades

_MARKERS = (
    "interlock_space(**options): what the fixture `space` is opened with (interlock.verify.suite)",
    "interlock_needs(*names): capabilities without which a test of the suite is skipped",
)


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers of the suite known."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)


@pytest.fixture
def explore_interlock() -> Callable[..., Exploration]:
    """`interlock.verify.explore`, which prints what it explored; a `Violation` fails the test."""

    def run(agents: Any, **options: Any) -> Exploration:
        __tracebackhide__ = True
        from interlock.verify.explorer import explore  # nobody else pays for it

        exploration = explore(agents, **options)
        print(exploration)
        return exploration

    return run


# The contract suite


@pytest.fixture(scope="session")
def store_capabilities() -> Capabilities:
    """What the store at `store_url` has: everything.  Override it where something is lacking."""
    from interlock.verify.suite import Capabilities

    return Capabilities()


@pytest.fixture(params=["sync", "async"])
def facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """Opens spaces that no other test uses in one store, with each façade in turn."""
    yield from _facades(request, request.param, store_url, store_capabilities)


@pytest.fixture
def async_facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """The same for a test that has a meaning with the asyncio façade only."""
    yield from _facades(request, "async", store_url, store_capabilities)


@pytest.fixture
def sync_facades(
    request: pytest.FixtureRequest, store_url: str, store_capabilities: Capabilities
) -> Iterator[Facades]:
    """The same for a test that has a meaning with the synchronous façade only."""
    yield from _facades(request, "sync", store_url, store_capabilities)


def _facades(
    request: pytest.FixtureRequest, kind: str, url: str, capabilities: Capabilities
) -> Iterator[Facades]:
    from interlock.verify.suite import Facades

    for mark in request.node.iter_markers("interlock_needs"):
        capabilities.need(*mark.args)
    with Facades(kind, url, capabilities=capabilities) as opened:
        yield opened


@pytest.fixture
def space(request: pytest.FixtureRequest, facades: Facades) -> Any:
    """One open space."""
    mark = request.node.get_closest_marker("interlock_space")
    return facades.open(**(mark.kwargs if mark else {}))
