"""Many agents at once on one key, row, document and file: guards lose none, what is published does.

`python -m benchmarks contention` does the same with a hundred.
"""

from __future__ import annotations

from pathlib import Path

from tests.guards.contention import contend, rivals

AGENTS = 20


def test_agents_in_turns_lose_none_fail_none_and_think_less_than_twice(
    redis_url: str, tmp_path: Path
) -> None:
    with rivals(redis_url, tmp_path) as found:
        figures = {rival.name: contend(rival, AGENTS) for rival in found}
    by_guards = {name: each for name, each in figures.items() if name.endswith("guard")}
    assert len(by_guards) == 4
    for name, each in by_guards.items():
        assert (each.acknowledged, each.failed, each.lost) == (AGENTS, 0, 0), name
        assert each.thoughts_per_commit < 2.0, name
    for name, each in figures.items() - by_guards.items():
        right = "WATCH loop" in name or "version_id_col" in name
        if right:
            assert each.lost == 0, (name, each)
            assert each.thoughts + each.failed > AGENTS, (name, each)
        else:
            assert each.lost + each.failed > AGENTS / 4, (name, each)
