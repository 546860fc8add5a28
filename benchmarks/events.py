"""Events: typed, through one stream, from 64 tasks of one process, one by one and many at once;
read back, and replayed beside the library `eventsourcing`.

Tasks that append at the same moment share a commit of the database, each judged alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import interlock
from benchmarks.cases import Row, seconds
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

TASKS = 64
BATCH = 100  # events of one append_many
REPLAYED = 10_000
RULES = {"orders": interlock.merged("append")}


@dataclass(frozen=True, slots=True)
class OrderPaid:
    order: int
    cents: int


@dataclass(frozen=True, slots=True)
class OrderShipped:
    order: int
    to: str


class Paid(msgspec.Struct, frozen=True):
    order: int
    cents: int


class Shipped(msgspec.Struct, frozen=True):
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


def batches(folder: Path, scale: int) -> list[Row]:
    """8 tasks, each appending many events at once to one stream."""
    rows, each = [], max(scale // 5, 2)
    for name, url in _stores(folder):
        rates = asyncio.run(_batched(url, each))
        rows.append(
            Row(
                f"{name}: events through one stream, append_many of {BATCH}, 8 tasks",
                f"{statistics.median(rates):,.0f}/s ({max(rates):,.0f} at best)",
                "at least 10,000/s",
                f"median of {len(rates)} rounds of {8 * each * BATCH:,} events",
            )
        )
    return rows


async def _batched(url: str, each: int) -> list[float]:
    async with interlock.open_async(url, space_name(), "bench", rules=RULES) as space:
        events = space.events("orders", OrderPaid, OrderShipped)

        async def work(task: int, count: int) -> None:
            for _ in range(count):
                await events.append_many(_events(OrderPaid, OrderShipped, BATCH))

        await asyncio.gather(*(work(task, 1) for task in range(8)))
        rates = []
        for _ in range(5):
            begun = asyncio.get_running_loop().time()
            await asyncio.gather(*(work(task, each) for task in range(8)))
            rates.append(8 * each * BATCH / (asyncio.get_running_loop().time() - begun))
    return rates


def replay_events(folder: Path, scale: int) -> list[Row]:
    """10,000 typed events of one stream out of SQLite, beside those of `eventsourcing`."""
    rounds = max(scale // 3, 5)
    theirs = _eventsourcing(folder / "peer.db")
    rows = []
    with interlock.open(
        f"sqlite:///{folder / 'replay.db'}", agent="bench", rules=RULES_OF
    ) as space:
        for what, paid, shipped in (
            ("dataclasses", OrderPaid, OrderShipped),
            ("msgspec Structs", Paid, Shipped),
        ):
            stream = space.events(f"stream/{paid.__name__}", paid, shipped)
            stream.append_many(_events(paid, shipped, REPLAYED))

            def ours(stream: Any = stream) -> int:
                return sum(1 for _ in stream.replay())

            def folded(stream: Any = stream) -> int:
                view: int = stream.project(lambda total, event: total + event.order, 0).refresh()
                return view

            assert ours() == REPLAYED
            both = [
                (seconds(ours), seconds(folded), seconds(theirs) if theirs else 0.0)
                for _ in range(rounds)
            ]
            mine, folds, peers = zip(*both, strict=True)
            beside = f"eventsourcing {_ms(peers)}" if theirs else _MISSING
            for name, times in (("replay", mine), ("project", folds)):
                rows.append(
                    Row(
                        f"SQLite: {name} of {REPLAYED:,} typed events ({what})",
                        f"{_ms(times)}; {beside}",
                        "under 10 ms",
                        "median (best): read, decoded to objects; project: folded, too",
                    )
                )
    return rows


RULES_OF = {"stream/*": interlock.merged("append")}
_MISSING = "eventsourcing is not installed: pip install eventsourcing"


def _events(paid: Any, shipped: Any, count: int) -> list[Any]:
    return [paid(n, n) if n % 2 else shipped(n, "12 High Street") for n in range(count)]


def _eventsourcing(path: Path) -> Callable[[], int] | None:
    """What reads the same events of an aggregate, as objects; None where it is not installed."""
    try:
        application: Any = importlib.import_module("eventsourcing.application")
        domain: Any = importlib.import_module("eventsourcing.domain")
    except ImportError:
        return None
    env = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
    app = application.Application(env=env)

    class Order(domain.Aggregate):  # type: ignore[misc]  # it is imported by name
        @domain.event("Paid")  # type: ignore[untyped-decorator]  # imported by name
        def pay(self, order: int, cents: int) -> None:
            self.order = order

        @domain.event("Shipped")  # type: ignore[untyped-decorator]  # imported by name
        def ship(self, order: int, to: str) -> None:
            self.order = order

    one = Order()
    for n in range(REPLAYED):
        if n % 2:
            one.pay(n, n)
        else:
            one.ship(n, "12 High Street")
    app.save(one)
    return lambda: sum(1 for _ in app.events.get(one.id))


def _ms(times: Any) -> str:
    return f"{1000 * statistics.median(times):.1f} ms ({1000 * min(times):.1f})"


def _counted(events: interlock.Events[OrderPaid | OrderShipped], count: int) -> None:
    assert sum(1 for _ in events.read()) == count


def _stores(folder: Path) -> Iterator[tuple[str, str]]:
    yield "SQLite", f"sqlite:///{folder / 'events.db'}"
    for kind, name in ((Redis, "Redis"), (Postgres, "PostgreSQL")):
        with contextlib.ExitStack() as stack:
            yield name, stack.enter_context(server(kind, name.lower(), folder))


CASES = (stream, batches, replay_events)
