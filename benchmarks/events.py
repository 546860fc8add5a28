"""Events: typed, through one stream, from 64 tasks of one process; and read back.

Tasks that append at the same moment share a commit of the database, each judged alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import interlock
from benchmarks.cases import Row, seconds
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

TASKS = 64
RULES = {"orders": interlock.merged("append")}


@dataclass(frozen=True)
class OrderPaid:
    order: int
    cents: int


@dataclass(frozen=True)
class OrderShipped:
    order: int
    to: str


def stream(folder: Path, scale: int) -> list[Row]:
    """64 tasks, each appending events to one stream one after the other; then all are read."""
    rows, each = [], 2 * scale
    for name, url in _stores(folder):
        rates, replays = asyncio.run(_appended(url, each))
        rows.append(
            Row(
                f"{name}: events through one stream, {TASKS} tasks",
                f"{statistics.median(rates):,.0f}/s ({max(rates):,.0f} at best)",
                "at least 10,000/s",
                f"median of {len(rates)} rounds of {TASKS * each:,} events, each acknowledged",
            )
        )
        rows.append(
            Row(
                f"{name}: those events, read and typed",
                f"{statistics.median(replays):,.0f}/s ({max(replays):,.0f} at best)",
                "",
                "whole stream, oldest first",
            )
        )
    return rows


async def _appended(url: str, each: int) -> tuple[list[float], list[float]]:
    """Return events a second, appended and read."""
    async with interlock.open_async(url, space_name(), "bench", rules=RULES) as space:
        events = space.events("orders", OrderPaid, OrderShipped)

        async def work(task: int, count: int) -> None:
            for n in range(count):
                event = OrderPaid(task, n) if n % 2 else OrderShipped(task, "12 High Street")
                await events.append(event)

        await asyncio.gather(*(work(task, 5) for task in range(TASKS)))
        rates = []
        for _ in range(5):
            begun = asyncio.get_running_loop().time()
            await asyncio.gather(*(work(task, each) for task in range(TASKS)))
            rates.append(TASKS * each / (asyncio.get_running_loop().time() - begun))

    with interlock.open(url, space=space.session.driver.backend.name, agent="bench") as read:
        found = read.events("orders", OrderPaid, OrderShipped)
        count = TASKS * (5 + 5 * each)
        replays = []
        for _ in range(5):
            replays.append(count / seconds(lambda: _counted(found, count)))
    return rates, replays


def _counted(events: interlock.Events[OrderPaid | OrderShipped], count: int) -> None:
    assert sum(1 for _ in events.read()) == count


def _stores(folder: Path) -> Iterator[tuple[str, str]]:
    yield "SQLite", f"sqlite:///{folder / 'events.db'}"
    for kind, name in ((Redis, "Redis"), (Postgres, "PostgreSQL")):
        with contextlib.ExitStack() as stack:
            yield name, stack.enter_context(server(kind, name.lower(), folder))


CASES = (stream,)
