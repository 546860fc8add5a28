"""A hundred agents, each a process, on one key of a real server: none lost, none failed."""

from __future__ import annotations

import pytest

from interlock.verify.simulate import PATTERNS, Settings, run


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_a_hundred_agents_at_once_lose_nothing_on_a_server_and_nobody_fails(
    server: str, request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{server}_url")
    result = run(PATTERNS["interlock-update"], Settings(agents=100, seed=1), url)
    assert (result.acknowledged, result.kept, result.lost, result.failed) == (100, 100, 0, 0)
    assert result.thoughts <= 2.0
