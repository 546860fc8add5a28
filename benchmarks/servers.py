"""The cases on PostgreSQL and Redis: ours beside the raw statement on the same server.

The servers are started by the tests' fixtures (or named by INTERLOCK_TEST_POSTGRES and
INTERLOCK_TEST_REDIS): PostgreSQL with fsync, Redis with the append-only file of every second.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis

import interlock
from benchmarks.cases import VALUE, Row, alternating, spread
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

_numbers = itertools.count()
CLIENTS = (1, 4, 16, 64)
SPACES = (1, 10, 100)


@contextlib.contextmanager
def server(kind: Any, name: str, folder: Path) -> Iterator[str]:
    """The URL of a server: the named one, or one started for the case."""
    named = os.environ.get(f"INTERLOCK_TEST_{name.upper()}")
    if named:
        yield named
        return
    (folder / name).mkdir()
    with kind.start((folder / name).resolve()) as started:
        yield started.url()


def space_name() -> str:
    """A space that nobody has used."""
    return f"bench-{os.getpid()}-{time.time_ns()}-{next(_numbers)}"


def chain_of(url: str, count: int) -> Callable[[], None]:
    """Return a function that commits `count` times, each over the record of the one before."""
    space = interlock.open(url, space=space_name(), agent="bench")
    state = {"record": space.read("k")}

    def ours() -> None:
        for _ in range(count):
            state["record"] = space.write(state["record"], VALUE, touch=True)

    return ours


def one_commit_postgres(folder: Path, scale: int) -> list[Row]:
    """A guarded commit against the raw conditional UPDATE, one connection each."""
    count, state = 5 * scale, {"version": 0}
    with server(Postgres, "postgres", folder) as url:
        db = psycopg.connect(url, autocommit=True)
        db.execute("CREATE TABLE IF NOT EXISTS raw (key text PRIMARY KEY, value text, version int)")
        db.execute(
            "INSERT INTO raw VALUES ('k', '', 0) ON CONFLICT (key) DO UPDATE SET version = 0"
        )
        update = "UPDATE raw SET value = %s, version = version + 1 WHERE key = %s AND version = %s"

        def theirs() -> None:
            for _ in range(count):
                db.execute(update, (json.dumps(VALUE), "k", state["version"]))
                state["version"] += 1

        ours = chain_of(url, count)
        alternating(ours, theirs, 2)
        ratios = alternating(ours, theirs, 11)
    how = "rate beside the raw conditional UPDATE"
    return [
        Row("PostgreSQL: guarded commit, one connection", spread(ratios), "at least 0.75x", how)
    ]


def one_commit_redis(folder: Path, scale: int) -> list[Row]:
    """A guarded commit against a raw SET, and against the published WATCH loop."""
    count, body = 10 * scale, json.dumps(VALUE)
    with server(Redis, "redis", folder) as url:
        client: Any = redis.Redis.from_url(url)

        def plain() -> None:
            for _ in range(count):
                client.set("raw", body)

        def watched() -> None:
            for _ in range(count):
                with client.pipeline() as pipe:
                    pipe.watch("watched")
                    pipe.get("watched")
                    pipe.multi()
                    pipe.set("watched", body)
                    pipe.execute()

        ours = chain_of(url, count)
        alternating(ours, plain, 2)
        beside_set = alternating(ours, plain, 11)
        beside_watch = alternating(ours, watched, 11)
    what = "Redis: guarded commit, one connection"
    return [
        Row(what, spread(beside_set), "at least 0.8x", "rate beside a raw SET"),
        Row(what, spread(beside_watch), "at least 1.4x", "beside WATCH, GET, MULTI, SET, EXEC"),
    ]


def grouped_servers(folder: Path, scale: int) -> list[Row]:
    """64 and 256 concurrent tasks of one process, each a chain of commits to a key of its own."""
    rows = []
    for kind, name, tasks, target in (
        (Postgres, "postgres", 64, "at least 10x"),
        (Redis, "redis", 64, ""),
        (Redis, "redis", 256, "at least 25,000/s"),
    ):
        place = folder / f"{name}-{tasks}"
        place.mkdir()
        with server(kind, name, place) as url:
            alone, together = asyncio.run(_concurrent(url, tasks, scale))
        ratio = statistics.median(together) / statistics.median(alone)
        figure = (
            f"{statistics.median(together):,.0f}/s ({max(together):,.0f} at best; {ratio:.1f}x)"
        )
        what = f"{name}: {tasks} concurrent tasks, grouped"
        rows.append(Row(what, figure, target, "commits/s, and beside one task alone"))
    return rows


async def _concurrent(url: str, tasks: int, scale: int) -> tuple[list[float], list[float]]:
    async with interlock.open_async(url, space=space_name(), agent="bench") as space:

        async def chain(key: str, count: int) -> None:
            record = await space.read(key)
            for _ in range(count):
                record = await space.write(record, VALUE, touch=True)

        async def rate(number: int, count: int) -> float:
            began = time.perf_counter()
            await asyncio.gather(*(chain(f"k{n}", count) for n in range(number)))
            return number * count / (time.perf_counter() - began)

        alone, together = [], []
        for _ in range(5):
            alone.append(await rate(1, 3 * scale))
            together.append(await rate(tasks, scale))
        return alone, together


def clients(folder: Path, scale: int) -> list[Row]:
    """How the rate changes from 1 to 64 clients (threads, each with connections of its own)."""
    rows = []
    for kind, name in ((Postgres, "postgres"), (Redis, "redis")):
        with server(kind, name, folder) as url:
            shared = [_rate_of(url, number, 1, scale) for number in CLIENTS]
            spaces = [_rate_of(url, 16, number, scale) for number in SPACES]
        for what, numbers, rates in (
            (f"{name}: 1 to 64 clients on one space", CLIENTS, shared),
            (f"{name}: 16 clients on 1 to 100 spaces", SPACES, spaces),
        ):
            figures = zip(numbers, rates, strict=True)
            figure = ", ".join(f"{number}: {rate:,.0f}/s" for number, rate in figures)
            rows.append(Row(what, figure, "", "commits/s, each client to a key of its own"))
    return rows


def _rate_of(url: str, number: int, spaces: int, scale: int) -> float:
    """Return commits/s of `number` processes' worth of clients, spread over `spaces` spaces."""
    names = [space_name() for _ in range(spaces)]
    opened = [
        interlock.open(url, space=names[n % spaces], agent=f"client-{n}")
        for n in range(max(number, spaces))
    ]
    count = max(20 * scale // len(opened), 5)
    gate = threading.Barrier(number + 1)

    def work(mine: list[interlock.Space], client: int) -> None:
        records = [space.read(f"k{client}") for space in mine]
        gate.wait()
        for _ in range(count):
            for n, space in enumerate(mine):
                records[n] = space.write(records[n], VALUE, touch=True)
        gate.wait()

    threads = [
        threading.Thread(target=work, args=(opened[n::number], n), daemon=True)
        for n in range(number)
    ]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    gate.wait()
    rate = count * len(opened) / (time.perf_counter() - began)
    for space in opened:
        space.close()
    return rate


def news(folder: Path, scale: int) -> list[Row]:
    """From a commit to the entry in another connection's watch."""
    rows = []
    with (
        server(Postgres, "postgres", folder) as postgres,
        server(Redis, "redis", folder) as redis_url,
    ):
        for name, url, target in (
            ("SQLite", f"sqlite:///{folder / 'news.db'}", "under 100 ms"),
            ("PostgreSQL", postgres, "under 50 ms"),
            ("Redis", redis_url, "under 50 ms"),
        ):
            times = _latencies(url, max(scale // 3, 5))
            figure = f"{1000 * statistics.median(times):.1f} ms (most: {1000 * max(times):.1f} ms)"
            rows.append(
                Row(f"{name}: watch", figure, target, "commit to entry, another connection")
            )
    return rows


def _latencies(url: str, count: int) -> list[float]:
    """A commit every tenth of a second; seconds until a watcher in another thread has it."""
    name = space_name()
    seen: dict[str, float] = {}
    heard = threading.Semaphore(0)
    with (
        interlock.open(url, space=name, agent="watcher") as watcher,
        interlock.open(url, space=name, agent="writer") as writer,
    ):

        def watch() -> None:
            for entry in watcher.watch(after=0):
                seen[entry.key] = time.perf_counter()
                heard.release()
                if entry.key == f"k{count - 1}":
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        sent = {}
        for n in range(count):
            time.sleep(0.1)
            sent[f"k{n}"] = time.perf_counter()
            writer.create(f"k{n}", n)
            heard.acquire()
        thread.join()
    return [seen[key] - sent[key] for key in sent]


CASES: list[Callable[[Path, int], list[Row]]] = [
    one_commit_postgres,
    one_commit_redis,
    grouped_servers,
    clients,
    news,
]
