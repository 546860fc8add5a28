"""Pins what the explorer counts, and keeps the counts for the end of the session."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from interlock.verify import Exploration

Pin = Callable[[str, Exploration, tuple[int, int]], None]


@pytest.fixture
def pin(record_property: Callable[[str, object], None]) -> Pin:
    """Check the numbers of schedules and states of a protocol's exploration, and show them."""

    def check(protocol: str, explored: Exploration, counts: tuple[int, int]) -> None:
        record_property("explored", (protocol, explored.schedules, explored.states))
        assert (explored.schedules, explored.states) == counts, protocol

    return check
