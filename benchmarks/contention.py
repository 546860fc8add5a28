"""A hundred agents at once on one existing key, row, document and file.

Guards in turns, and what is published for each, in the same run.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import Row
from tests.guards.contention import contend, rivals
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis


def contention(folder: Path, scale: int) -> list[Row]:
    """Guards beside the published snippets: what is lost, who fails, how often agents think."""
    rows, agents = [], scale
    folder = folder.resolve()
    with (
        Redis.start(folder / "redis") as redis,
        Postgres.start(folder / "postgres") as postgres,
        rivals(redis.url(), folder, postgres.url()) as found,
    ):
        for rival in found:
            figures = contend(rival, agents)
            is_ours = rival.name.endswith("guard")
            rows.append(
                Row(
                    f"{agents} agents at once, {rival.name}",
                    f"{figures.lost} lost, {figures.failed} failed, "
                    f"{figures.thoughts_per_commit:.2f} thoughts per commit",
                    "0 lost, 0 failed, under 2.0" if is_ours else "",
                    "in turns of one space" if is_ours else "as published, in our own code",
                )
            )
    return rows


CASES = (contention,)
