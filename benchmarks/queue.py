"""Many waiters on one key: commits a second, and what another space notices of them.

`python -m benchmarks queue`.  The waiters are tasks of one process, each of which updates the key
in its turn, joins again, and so on.  Another process commits to a space of its own meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import interlock
from benchmarks.cases import Row
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

WAITERS = (100, 240, 500, 1_000)
MOST = 10_000
_COMMITTING = """
import sys, time, interlock
space = interlock.open(sys.argv[1], space=sys.argv[2])
until, taken = time.time() + float(sys.argv[3]), []
record = space.read("k")
while time.time() < until:
    began = time.perf_counter()
    record = space.write(record, {"n": len(taken)})
    taken.append(time.perf_counter() - began)
    time.sleep(0.01)
taken.sort()
print(taken[len(taken) // 2], taken[len(taken) * 99 // 100])
"""


def queue(folder: Path, scale: int) -> list[Row]:
    """The rate of one key by the number of its waiters, beside that of 100, on every store."""
    rows = []
    stores: list[tuple[str, Any]] = [
        ("SQLite", contextlib.nullcontext(f"sqlite:///{folder / 'queue.db'}")),
        ("Redis", server(Redis, "redis", folder)),
        ("PostgreSQL", server(Postgres, "postgres", folder)),
    ]
    for name, opened in stores:
        with opened as url:
            rows += _store(name, url, scale / 10)
    return rows


def _store(name: str, url: str, seconds: float) -> list[Row]:
    idle = _latency(url, seconds)
    rates, latencies = {}, {}
    for count in (*WAITERS, *([MOST] if seconds >= 10 else [])):
        rates[count], latencies[count] = asyncio.run(_rate(url, count, seconds))
        print(name, count, f"{rates[count]:.1f}/s", latencies[count], idle, file=sys.stderr)
    least = rates[WAITERS[0]]
    return [
        Row(
            f"{name}: {count:,} waiters on one key",
            f"{rates[count] / least:.2f}x the rate of 100 ({rates[count]:.0f}/s); another space's "
            f"commit {latencies[count][0] / idle[0]:.1f}x at the median, "
            f"{latencies[count][1] / idle[1]:.1f}x at p99",
            "at least 1x" if count <= 1_000 else "at least 0.5x",
            "tasks of one process that update in turn; the other space's commits alone are 1x",
        )
        for count in rates
    ]


async def _rate(url: str, count: int, seconds: float) -> tuple[float, tuple[float, float]]:
    """Return commits a second of `count` waiters, and the latency of another space meanwhile."""
    async with interlock.open_async(url, space=space_name()) as space:

        async def wait() -> None:
            while True:
                await space.update("k", lambda n: n + 1, default=0, turns="always")

        tasks = [asyncio.create_task(wait()) for _ in range(count)]
        await asyncio.sleep(seconds / 5 + count / 200)  # until all of them stand in the queue
        other = asyncio.create_task(asyncio.to_thread(_latency, url, seconds))
        began, before = time.perf_counter(), await space.position()
        await asyncio.sleep(seconds)
        rate = (await space.position() - before) / (time.perf_counter() - began)
        latency = await other
        for task in tasks:
            task.cancel()
        for problem in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(problem, asyncio.CancelledError):
                print("failed:", problem, file=sys.stderr)
        return rate, latency


def _latency(url: str, seconds: float) -> tuple[float, float]:
    """Return median and 99th percentile of a commit's seconds, in a space of its own."""
    command = [sys.executable, "-c", _COMMITTING, url, space_name(), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    median, late = map(float, done.stdout.split())
    return median, late


CASES = (queue,)
