"""Many waiters on one key: commits a second, and what another space notices of them.

`python -m benchmarks queue`: three processes.  In the first, each waiter is a task that updates the
key in its turn, joins again, and so on.  The second commits to a space of its own.  This one looks
how far the log of the key's space has come, once a second, from the moment the waiters begin.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import interlock
from benchmarks.cases import Row
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

WAITERS = (1, 100, 1_000, 10_000)
_BESIDE = 100  # the rate of so many waiters is 1x
_LONGEST = 60  # seconds until the first commit
_WAITING = """
import asyncio, sys, interlock

async def wait(space):
    while True:
        try:
            await space.update("k", lambda n: n + 1, default=0, turns="always")
        except interlock.InterlockError as problem:
            print(f"failed: {problem!r:.300}", flush=True)

async def main():
    async with interlock.open_async(sys.argv[1], space=sys.argv[2]) as space:
        await space.update("k", lambda n: n + 1, default=0)
        print("begun", flush=True)
        await asyncio.gather(*(wait(space) for _ in range(int(sys.argv[3]))))

asyncio.run(main())
"""
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


class Measured(NamedTuple):
    """What some number of waiters reached."""

    rate: float  # commits a second, once it was steady
    joining: int  # seconds from the beginning to the first with half that rate
    failed: int  # updates that ended in an error
    median: float  # seconds of another space's commit
    late: float  # the same, the 99th percentile


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
            rows += _store(name, url, scale // 10)
    return rows


def _store(name: str, url: str, seconds: int) -> list[Row]:
    with _latency(url, seconds) as process:
        idle = _seconds(process)
    found = {}
    for count in WAITERS:
        found[count] = _measured(url, count, seconds)
        print(name, count, found[count], "idle", idle, file=sys.stderr)
    least = found[_BESIDE].rate or 1.0
    return [
        Row(
            f"{name}: {count:,} waiters on one key",
            f"{each.rate / least:.2f}x the rate of {_BESIDE} ({each.rate:.0f}/s after "
            f"{each.joining} s; {each.failed} failed); another space's commit "
            f"{1000 * each.median:.1f} ms at the median, {1000 * each.late:.1f} ms at p99 "
            f"(idle: {1000 * idle[0]:.1f} and {1000 * idle[1]:.1f} ms)",
            {1_000: "at least 1x", 10_000: "at least 0.5x"}.get(count, ""),
            "tasks of one process that update in turn; another process commits to another space",
        )
        for count, each in found.items()
    ]


def _measured(url: str, count: int, seconds: int) -> Measured:
    """Let `count` begin and wait until they commit, then look for `seconds` more."""
    name = space_name()
    command = [sys.executable, "-c", _WAITING, url, name, str(count)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting,
        interlock.open(url, space=name) as space,
    ):
        assert waiting.stdout is not None
        waiting.stdout.readline()
        try:
            rates = _rates(space, 1)
            while not any(rates) and len(rates) < _LONGEST:
                rates += _rates(space, 1)  # all of them read the key before the first commits
            rates += _rates(space, 2 + count // 2_000)
            with _latency(url, seconds) as process:
                steady = _rates(space, seconds)
                median, late = _seconds(process)
        finally:
            waiting.kill()
        failed = waiting.stdout.readlines()
    for problem in failed[:1]:
        print(problem, file=sys.stderr, end="")
    rate = statistics.mean(steady)
    joining = next((n for n, each in enumerate(rates + steady) if each >= rate / 2), 0)
    return Measured(rate, joining, len(failed), median, late)


def _rates(space: interlock.Space, seconds: int) -> list[float]:
    """Return the commits of each second."""
    rates = []
    position, began = space.position(), time.perf_counter()
    for _ in range(seconds):
        time.sleep(1.0)
        now, ended = space.position(), time.perf_counter()
        rates.append((now - position) / (ended - began))
        position, began = now, ended
    return rates


def _latency(url: str, seconds: int) -> subprocess.Popen[str]:
    """Commit to a space of its own, in another process."""
    command = [sys.executable, "-c", _COMMITTING, url, space_name(), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _seconds(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return median and 99th percentile of a commit's seconds."""
    median, late = map(float, process.communicate()[0].split())
    return median, late


CASES = (queue,)
