"""The service beside the store that it serves: the same calls through `interlock serve`."""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import interlock
from benchmarks.cases import VALUE, Row, alternating, spread

_TASKS = 32


@contextmanager
def served(url: str) -> Iterator[str]:
    """Serve a store from a process of its own; yield the address."""
    interlock_ = str(Path(sys.executable).parent / "interlock")
    command = [interlock_, "serve", url, "--bind", "127.0.0.1:0", "--rate", "1000000"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        yield server.stderr.readline().strip().removeprefix("serving at ")
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()


def service(folder: Path, scale: int) -> list[Row]:
    """Reads, commits and appends through a service against those on its store, and its latency."""
    store = f"sqlite:///{folder / 'served.db'}"
    count = 3 * scale
    rules = {"found": interlock.merged("append")}
    with (
        served(store) as url,
        interlock.open(store, agent="direct", rules=rules) as direct,
        interlock.open(url, agent="served") as through,
    ):
        direct.create("k", VALUE)

        def reading(space: interlock.Space) -> Callable[[], object]:
            return lambda: [space.read("k") for _ in range(count)]

        def committing(space: interlock.Space) -> Callable[[], object]:
            def commit() -> None:
                record = space.read(space.agent)
                for _ in range(count):
                    record = space.write(record, VALUE, touch=True)

            return commit

        def appending(space: interlock.Space) -> Callable[[], object]:
            return lambda: [space.append("found", 1) for _ in range(count)]

        rows = []
        for what, one in (("read", reading), ("commit", committing), ("append", appending)):
            ratios = alternating(one(through), one(direct), 7)
            how = "rate through the service beside that of its SQLite file"
            rows.append(Row(f"{what} through a service", spread(ratios), "", how))
        late = watched(through, direct, min(count, 60))
        figure = f"{statistics.median(late) * 1e3:.1f} ms ({max(late) * 1e3:.1f} at most)"
        how = "from a commit on the store to its entry at a watcher of the service"
        rows.append(Row("watch latency through a service", figure, "under 50 ms", how))
        rate = asyncio.run(many(url, 2 * count))
        how = f"{_TASKS} tasks of one process, each with keys of its own"
        rows.append(Row("commits through one service", f"{rate:,.0f}/s", "", how))
    return rows


def watched(through: interlock.Space, direct: interlock.Space, count: int) -> list[float]:
    """Return how long after its commit each entry arrives."""
    sent: dict[str, float] = {}
    late: list[float] = []
    arrived = threading.Semaphore(0)

    def watch() -> None:
        for entry in through.watch("watched/", after=start):
            late.append(time.perf_counter() - sent[entry.key])
            arrived.release()
            if len(late) == count:
                return

    start = direct.position()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for n in range(count):
        sent[f"watched/{n}"] = time.perf_counter()
        direct.create(f"watched/{n}", n)
        arrived.acquire()
    watcher.join()
    return late


async def many(url: str, count: int) -> float:
    """Return the commits a second of many tasks."""
    async with interlock.open_async(url, agent="many") as space:

        async def one(name: str) -> None:
            record: Any = await space.read(name)
            for _ in range(max(count // _TASKS, 1)):
                record = await space.write(record, VALUE, touch=True)

        began = time.perf_counter()
        await asyncio.gather(*(one(f"many/{n}") for n in range(_TASKS)))
        return max(count // _TASKS, 1) * _TASKS / (time.perf_counter() - began)


CASES = (service,)
