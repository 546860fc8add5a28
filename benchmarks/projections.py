"""Projections: replaying events into state, and opening a snapshot over a long log, in each store.

Beside each replay: the same events read by the store's own Python client and decoded one by one,
key and value only, which is what a program without Interlock would do.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import redis

import interlock
from benchmarks.cases import Row, seconds
from benchmarks.servers import server, space_name
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

EVENTS = 10_000
SEATS = 1000
TAIL = 999  # entries since the snapshot, at most: see `snapshot_every`
_BATCH = 1000


def seats(state: dict[str, Any], entry: interlock.Entry) -> dict[str, Any]:
    """The last value of each key."""
    state[entry.key] = entry.value
    return state


def replay(folder: Path, scale: int) -> list[Row]:
    """10,000 events out of the store, decoded and folded; a new view each time."""
    rows = []
    for name, target, url, plain in _stores(folder):
        with interlock.open(url, space=space_name(), agent="bench") as space:
            _commit(space, EVENTS)
            read = plain(space)

            def ours(space: interlock.Space = space) -> Any:
                return space.projection(seats, prefix="seat/", initial={}).refresh()

            assert ours() == read()
            both = [(seconds(ours), seconds(read)) for _ in range(max(scale // 2, 5))]
        mine, theirs = zip(*both, strict=True)
        rows.append(
            Row(
                f"{name}: replay of 10,000 events",
                f"{_ms(mine)}; plain client {_ms(theirs)}",
                target,
                "median (best): read, decoded, folded; plain: key and value only",
            )
        )
    return rows


def snapshot(folder: Path, scale: int) -> list[Row]:
    """A new view of a log of 1,000,000 entries, as many of them since the snapshot as can be."""
    rows, count = [], 10_000 * scale
    for name, _, url, _ in _stores(folder):
        title = space_name()
        with interlock.open(url, space=title, agent="bench") as space:
            _FILLS[name](url, title, count)

            def ours(space: interlock.Space = space) -> Any:
                return space.projection(seats, prefix="seat/", initial={}, name="seats").refresh()

            whole = seconds(ours)
            _commit(space, TAIL)
            times = [seconds(ours) for _ in range(max(scale // 5, 5))]
        what = f"{name}: opening over {count:,} entries"
        how = f"median (best), with a snapshot and {TAIL:,} entries since; without: {whole:.1f} s"
        rows.append(Row(what, _ms(times), "under 50 ms", how))
    return rows


_Plain = Callable[[interlock.Space], Callable[[], Any]]


def _stores(folder: Path) -> Iterator[tuple[str, str, str, _Plain]]:
    """Each store's name, the target of a replay there, its URL, and a plain client's replay."""
    path = folder / "projections.db"
    yield "SQLite", "under 10 ms", f"sqlite:///{path}", lambda space: _plain_sqlite(path, space)
    with server(Redis, "redis", folder) as url:
        yield "Redis", "under 10 ms", url, lambda space: _plain_redis(url, space)
    with server(Postgres, "postgres", folder) as url:
        yield "PostgreSQL", "under 25 ms", url, lambda space: _plain_postgres(url, space)


def _value(n: int) -> dict[str, Any]:
    return {"seat": "12A", "paid": n}


def _commit(space: interlock.Space, count: int) -> None:
    """Write to a thousand keys in turn, many in one commit, for filling only."""
    for start in range(0, count, SEATS):
        with space.transaction() as tx:
            for n in range(start, min(start + SEATS, count)):
                record = tx.read(f"seat/{n % SEATS:04}")
                tx.write(record, _value(n))


def _plain_sqlite(path: Path, space: interlock.Space) -> Callable[[], Any]:
    db = sqlite3.connect(path)
    sql = (
        "SELECT key, body FROM log WHERE key >= 'seat/' AND key < 'seat0' AND "
        "space = (SELECT space FROM spaces WHERE name = ?) ORDER BY id"
    )
    return lambda: {k: json.loads(body) for k, body in db.execute(sql, (_name(space),))}


def _plain_redis(url: str, space: interlock.Space) -> Callable[[], Any]:
    client: Any = redis.Redis.from_url(url, decode_responses=True)
    log = f"interlock:{{{_name(space)}}}:log"
    return lambda: {
        fields["k"]: json.loads(fields["b"])
        for _, fields in client.xrange(log)
        if fields["k"].startswith("seat/")
    }


def _plain_postgres(url: str, space: interlock.Space) -> Callable[[], Any]:
    db = psycopg.connect(url, autocommit=True)
    sql = (
        "SELECT key, body FROM interlock.log WHERE key >= 'seat/' AND key < 'seat0' AND "
        "space = (SELECT space FROM interlock.spaces WHERE name = %s) ORDER BY position"
    )
    return lambda: {k: json.loads(body) for k, body in db.execute(sql, (_name(space),))}


def _name(space: interlock.Space) -> str:
    name: str = space.session.driver.backend.name
    return name


def _rows(count: int) -> Iterator[tuple[int, str, int, str, str]]:
    """Position, key, version, body and operation id of entries that fill a log from its start."""
    for n in range(count):
        yield n + 1, f"seat/{n % SEATS:04}", n // SEATS + 1, json.dumps(_value(n)), f"{n:028}"


def _fill_sqlite(url: str, name: str, count: int) -> None:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db:
        (space,) = db.execute("SELECT space FROM spaces WHERE name = ?", (name,)).fetchone()
        db.executemany(
            "INSERT INTO log VALUES (?, ?, ?, ?, 0, 'put', ?, 'bench', 1, ?, NULL, NULL)",
            (((space << 40) + p, space, k, v, body, op) for p, k, v, body, op in _rows(count)),
        )
        db.execute(
            "INSERT INTO heads SELECT space, key, MAX(version), 0, MAX(id), 1 FROM log "
            "WHERE space = ? GROUP BY key",
            (space,),
        )
        db.commit()


def _fill_postgres(url: str, name: str, count: int) -> None:
    with psycopg.connect(url) as db:
        found = db.execute("SELECT space FROM interlock.spaces WHERE name = %s", (name,)).fetchone()
        assert found is not None
        with db.cursor().copy("COPY interlock.log FROM STDIN") as copy:
            for p, k, v, body, op in _rows(count):
                copy.write_row((found[0], p, k, v, 0, "put", body, "bench", 1, op, None, None))
        db.execute(
            "INSERT INTO interlock.heads SELECT DISTINCT space, key, 0, 1 FROM interlock.log "
            "WHERE space = %s",
            found,
        )
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("ANALYZE interlock.log")


_FILL_REDIS = """
local n, count, seats, state = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), KEYS[1]
for i = n, n + count - 1 do
    local key, version = string.format('seat/%04d', i % seats), math.floor(i / seats) + 1
    local op, body = string.format('%028d', i), '{"seat":"12A","paid":' .. i .. '}'
    redis.call('XADD', KEYS[2], (i + 1) .. '-0', 'k', key, 'o', op, 'm',
        version .. ' 0 put 1 bench', 'b', body)
    redis.call('HSET', state, 'h:' .. key, cmsgpack.pack({version, 0, 1, i + 1, 1, 'bench'}),
        'b:' .. key, body, 'o:' .. op, cmsgpack.pack({i + 1, 1}))
    redis.call('ZADD', KEYS[3], 0, key)
end
redis.call('HSET', state, 'p', n + count, 't', 1)
"""


def _fill_redis(url: str, name: str, count: int) -> None:
    client: Any = redis.Redis.from_url(url)
    fill = client.register_script(_FILL_REDIS)
    state = f"interlock:{{{name}}}"
    for start in range(0, count, _BATCH):
        fill(
            keys=[state, f"{state}:log", f"{state}:keys"],
            args=[start, min(_BATCH, count - start), SEATS],
        )


_FILLS = {"SQLite": _fill_sqlite, "Redis": _fill_redis, "PostgreSQL": _fill_postgres}


def _ms(times: Any) -> str:
    return f"{1000 * statistics.median(times):.1f} ms ({1000 * min(times):.1f})"


CASES: list[Callable[[Path, int], list[Row]]] = [replay, snapshot]
