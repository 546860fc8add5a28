"""Guards over data outside, beside the raw statement on the same server, both sides in one run."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import redis

from benchmarks.cases import VALUE, Row, alternating, spread
from benchmarks.servers import server
from interlock import guards
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

_TABLE = (
    "CREATE TABLE bookings (id text PRIMARY KEY, status text, seat text, paid int, note text, "
    "version int NOT NULL DEFAULT 1)"
)
_COMPARED = ("row", "version")
_ROW = "INSERT INTO bookings VALUES ('{}', 'NEW', '1A', 0, 'x', 1)"
_UPDATE = (
    "UPDATE bookings SET seat = {0}, paid = {0}, version = version + 1 "
    "WHERE id = 'raw' AND version = {0}"
)


def tables(folder: Path, scale: int) -> list[Row]:
    """A guarded write of a row against the conditional UPDATE, one connection."""
    rows = []
    with (
        server(Postgres, "postgres", folder) as url,
        psycopg.connect(url, autocommit=True) as db,
    ):
        db.execute("DROP TABLE IF EXISTS bookings")
        rows += _of_table("PostgreSQL", db, "%s", 5 * scale)
        db.execute("DROP TABLE bookings")
    lite = sqlite3.connect(folder / "guard.db", isolation_level=None)
    lite.execute("PRAGMA journal_mode=WAL")
    lite.execute("PRAGMA synchronous=FULL")
    rows += _of_table("SQLite", lite, "?", 5 * scale)
    lite.close()
    return rows


def _of_table(name: str, db: Any, mark: str, count: int) -> list[Row]:
    db.execute(_TABLE)
    numbers, state = itertools.count(), {"version": 1}
    for key in ("raw", *_COMPARED):
        db.execute(_ROW.format(key))

    def theirs() -> None:
        for _ in range(count):
            number = next(numbers)
            changed = db.execute(
                _UPDATE.format(mark), (f"{number}", number, state["version"])
            ).rowcount
            assert changed == 1
            state["version"] += 1

    rows = []
    for compare in _COMPARED:
        guard = guards.table(db, "bookings", key="id", version="version", compare=compare)
        ours = _chain(guard, compare, count, numbers)
        alternating(ours, theirs, 2)
        ratios = alternating(ours, theirs, 9)
        what = f"{name}: guarded write of a row, compare={compare!r}"
        how = "rate beside UPDATE ... WHERE version"
        rows.append(Row(what, spread(ratios), "at least 0.8x", how))
    return rows


def _chain(guard: Any, key: str, count: int, numbers: Any) -> Callable[[], None]:
    state = {"record": guard.read(key)}

    def ours() -> None:
        for _ in range(count):
            number = next(numbers)
            value = {**state["record"].value, "seat": f"{number}", "paid": number}
            state["record"] = guard.write(state["record"], value)

    return ours


def strings(folder: Path, scale: int) -> list[Row]:
    """A guarded write of a Redis string against SET, and against the published WATCH loop."""
    count, numbers = 10 * scale, itertools.count()
    with server(Redis, "redis", folder) as url:
        client: Any = redis.Redis.from_url(url)
        guard = guards.redis(client)
        guard.create("ours", VALUE)

        def body() -> str:
            return json.dumps({**VALUE, "paid": next(numbers)})

        def plain() -> None:
            for _ in range(count):
                client.set("raw", body())

        def watched() -> None:
            for _ in range(count):
                with client.pipeline() as pipe:
                    pipe.watch("watched")
                    pipe.get("watched")
                    pipe.multi()
                    pipe.set("watched", body())
                    pipe.execute()

        ours = _chain(guard, "ours", count, numbers)
        alternating(ours, plain, 2)
        beside_set = alternating(ours, plain, 9)
        beside_watch = alternating(ours, watched, 9)
    what = "Redis: guarded write of a string"
    return [
        Row(what, spread(beside_set), "at least 0.7x", "rate beside a raw SET"),
        Row(what, spread(beside_watch), "at least 1.4x", "beside WATCH, GET, MULTI, SET, EXEC"),
    ]


def files(folder: Path, scale: int) -> list[Row]:
    """A guarded write of a JSON file against a temporary file, fsync and rename."""
    guard = guards.file(folder)
    count, numbers, path = scale // 2 + 1, itertools.count(), folder / "raw.json"
    guard.create("ours.json", VALUE)

    def theirs() -> None:
        for _ in range(count):
            beside = path.with_suffix(".new")
            with beside.open("w") as file:
                file.write(json.dumps({**VALUE, "paid": next(numbers)}))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)

    ours = _chain(guard, "ours.json", count, numbers)
    alternating(ours, theirs, 2)
    ratios = alternating(ours, theirs, 9)
    how = "rate beside write, fsync and rename without a check"
    return [Row("file: guarded write of JSON", spread(ratios), "", how)]


CASES: list[Callable[[Path, int], list[Row]]] = [tables, strings, files]
