"""A pytest plugin, which `-p interlock.verify.pytest` loads: the fixture `explore_interlock`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from interlock.verify.explorer.search import Exploration


@pytest.fixture
def explore_interlock() -> Callable[..., Exploration]:
    """`interlock.verify.explore`, which prints what it explored; a `Violation` fails the test."""

    def run(agents: Mapping[str, object], **options: Any) -> Exploration:
        __tracebackhide__ = True
        from interlock.verify.explorer.search import explore

        exploration = explore(agents, **options)
        print(exploration)
        return exploration

    return run
