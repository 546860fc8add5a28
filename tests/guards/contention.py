"""Many agents at once on one counter, by a guard in turns and by what is published: who loses what.

`python -m benchmarks guards` runs it with a hundred agents, and a test with fewer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mongomock_ng
import redis
import sqlalchemy

import interlock
from interlock import guards
from interlock.core.pace import QUICK
from tests.guards import snippets
from tests.guards.documents import Atomic
from tests.guards.snippets import Once

PATIENCE = 600.0  # seconds
THOUGHT = 2 * QUICK  # seconds: who thinks for less would rather think twice than wait
FAILURES = (
    snippets.Refused,
    interlock.Refused,
    redis.WatchError,
    sqlalchemy.exc.SQLAlchemyError,
)


class Figures(NamedTuple):
    """What became of the agents: `lost` were acknowledged, and are not there."""

    acknowledged: int
    failed: int
    lost: int
    thoughts: int

    @property
    def thoughts_per_commit(self) -> float:
        """How often an agent thought for each that is there."""
        return self.thoughts / max(1, self.acknowledged)


class Rival(NamedTuple):
    """One way to write, and what is there in the end."""

    name: str
    once: Once
    there: Callable[[], int]


def contend(rival: Rival, agents: int) -> Figures:
    """Let agents add one to a counter, all having read it before anyone writes."""
    lock, all_read, thoughts, failed = threading.Lock(), threading.Barrier(agents), 0, 0
    before = rival.there()

    def agent() -> None:
        nonlocal failed
        first = True

        def think(value: Any) -> Any:
            nonlocal thoughts, first
            with lock:
                thoughts += 1
            if first:
                first = False
                all_read.wait(PATIENCE)
            time.sleep(THOUGHT)
            return {**value, "n": value["n"] + 1}

        try:
            rival.once(think)
        except FAILURES:
            with lock:
                failed += 1
        except BaseException:
            all_read.abort()  # nobody waits for this agent
            raise

    with ThreadPoolExecutor(agents) as pool:
        for each in [pool.submit(agent) for _ in range(agents)]:
            each.result()
    acknowledged = agents - failed
    return Figures(acknowledged, failed, acknowledged - (rival.there() - before), thoughts)


@contextmanager
def rivals(redis_url: str, folder: Path, postgres_url: str | None = None) -> Iterator[list[Rival]]:
    """Yield a guard of each place, in turns, each followed by what is published for it."""
    with ExitStack() as stack:
        space = stack.enter_context(interlock.open("sqlite://"))
        client = stack.enter_context(redis.Redis.from_url(redis_url, max_connections=500))
        found = [*_redis(client, space)]
        urls = {"row of SQLite": f"sqlite:///{folder / 'counters.db'}"}
        if postgres_url is not None:
            urls["row of PostgreSQL"] = postgres_url.replace("://", "+psycopg://", 1)
        for name, url in urls.items():
            found += _rows(stack, name, url, space)
        collection: Any = Atomic(mongomock_ng.MongoClient().app.counters)
        collection.insert_one({"_id": 1, "n": 0})
        documents = guards.collection(collection, version="version", make_id=int, turns=space)
        counted = _counter(lambda: collection.find_one({"_id": 1}))
        found.append(Rival("document: guard", _updates(documents, "1"), counted))
        find = snippets.find_then_replace(collection)
        found.append(Rival("document: find, then replace_one", find, counted))
        path = folder / "counter.json"
        path.write_text('{"n": 0}')
        read = _counter(lambda: json.loads(path.read_text()))
        file = guards.file(path, turns=space)
        found.append(Rival("file: guard", _updates(file, path.name), read))
        found.append(Rival("file: read, then write", snippets.read_then_write(path), read))
        yield found


def _redis(client: redis.Redis, space: interlock.Space) -> Iterator[Rival]:
    key = "counter"

    def count() -> int:
        return int(json.loads(client.get(key) or "{}").get("n", 0))

    client.set(key, '{"n": 0, "_version": 0}')
    ways = {
        "guard": _updates(guards.redis(client, turns=space), key),
        "_version compared, then SET": snippets.VersionedState(client).once(key),
        "WATCH after GET": snippets.watch_after_get(client, key),
        "the same thought again": snippets.retry_with_stale_data(client, key),
        "WATCH loop, 3 attempts": snippets.right_watch_loop(client, key),
    }
    for name, once in ways.items():
        yield Rival(f"key of Redis: {name}", once, count)


def _rows(stack: ExitStack, name: str, url: str, space: interlock.Space) -> list[Rival]:
    engine = sqlalchemy.create_engine(url, pool_size=20, max_overflow=100, pool_timeout=PATIENCE)
    stack.callback(engine.dispose)
    snippets.Base.metadata.drop_all(engine)
    snippets.Base.metadata.create_all(engine)

    def count() -> int:
        with engine.connect() as connection:
            text = sqlalchemy.text("SELECT n FROM counters WHERE id = 1")
            return int(connection.execute(text).scalar_one())

    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("INSERT INTO counters VALUES (1, 0, 1)"))
    guard = guards.table(engine, "counters", version="version", turns=space)
    rows = [
        Rival(f"{name}: guard", _updates(guard, "1"), count),
        Rival(f"{name}: SELECT, then UPDATE", snippets.select_then_update(engine), count),
    ]
    if url.startswith("sqlite"):
        rows.append(Rival(f"{name}: version_id_col", snippets.version_column(engine), count))
    return rows


def _updates(guard: guards.Guard, key: str) -> Once:
    return lambda think: guard.update(key, think, patience=PATIENCE)


def _counter(look: Callable[[], Any]) -> Callable[[], int]:
    return lambda: int(look()["n"])
