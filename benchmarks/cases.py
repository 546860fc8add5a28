"""The cases: each measures ours beside its reference in alternating rounds and returns ratios."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import interlock
from interlock.backends.drive import SyncDriver
from interlock.core.records import Committed, Written
from interlock.core.write import write_record
from interlock.core.writer import Writer

VALUE = {"status": "PENDING_PAYMENT", "seat": "12A", "note": "x" * 50}


class Row(NamedTuple):
    """One line of the results: what was measured, the figure, the target ("" where none), how."""

    what: str
    figure: str
    target: str
    how: str


def seconds(fn: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    fn()
    return time.perf_counter() - began


def alternating(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> list[float]:
    """Return theirs / ours (above 1: ours is faster) of rounds that run both in turn."""
    return [seconds(theirs) / seconds(ours) for _ in range(rounds)]


def spread(ratios: list[float]) -> str:
    """Return the median with the range."""
    return f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


def raw_table(path: Path) -> sqlite3.Connection:
    """A table of versioned values in plain SQLite with the same durability."""
    db = sqlite3.connect(path, isolation_level=None, timeout=60)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE IF NOT EXISTS t (key TEXT PRIMARY KEY, value TEXT, version INTEGER)")
    db.execute("INSERT OR IGNORE INTO t VALUES ('k', '', 0)")
    return db


def one_commit(folder: Path, scale: int) -> list[Row]:
    """A guarded commit against the raw conditional UPDATE."""
    db = raw_table(folder / "raw.db")
    space = interlock.open(f"sqlite:///{folder / 'ours.db'}", agent="bench")
    state: dict[str, Any] = {"record": space.read("k"), "version": 0}
    count = 50 * scale

    def ours() -> None:
        for _ in range(count):
            state["record"] = space.write(state["record"], VALUE, touch=True)

    def theirs() -> None:
        for _ in range(count):
            db.execute(
                "UPDATE t SET value = ?, version = version + 1 WHERE key = ? AND version = ?",
                (json.dumps(VALUE), "k", state["version"]),
            )
            state["version"] += 1

    alternating(ours, theirs, 2)
    ratios = alternating(ours, theirs, 11)
    space.close()
    return [
        Row(
            "guarded commit, one process", spread(ratios), "at least 0.8x", "rate beside raw UPDATE"
        )
    ]


def grouped(folder: Path, scale: int) -> list[Row]:
    """100 concurrent asyncio tasks against the same commits one after the other."""
    url = f"sqlite:///{folder / 'grouped.db'}"
    count = 2 * scale

    async def measure() -> list[float]:
        async with interlock.open_async(url, agent="bench") as space:

            async def chain(key: str) -> None:
                record = await space.read(key)
                for _ in range(count):
                    record = await space.write(record, VALUE, touch=True)

            async def timed(*chains: Any) -> float:
                began = time.perf_counter()
                await asyncio.gather(*chains)
                return time.perf_counter() - began

            ratios = []
            for _ in range(5):
                alone = await timed(chain("alone"))
                together = await timed(*(chain(f"k{n}") for n in range(100)))
                ratios.append(100 * alone / together)
            return ratios

    ratios = asyncio.run(measure())
    return [
        Row(
            "100 concurrent tasks, grouped",
            spread(ratios),
            "at least 10x",
            "commits/s beside awaiting one after the other",
        )
    ]


def _updates(url: str, key: str, count: int, gate: Any) -> None:
    with interlock.open(url, agent=f"bench-{key}") as space:
        space.read(key)
        gate.wait()
        for _ in range(count):
            space.update(key, lambda n: n + 1, default=0)
        gate.wait()


def _raw_updates(path: Path, key: str, count: int, gate: Any) -> None:
    db = raw_table(path)
    db.execute("INSERT OR IGNORE INTO t VALUES (?, '0', 0)", (key,))
    gate.wait()
    for _ in range(count):
        db.execute("BEGIN IMMEDIATE")
        row = db.execute("SELECT value FROM t WHERE key = ?", (key,)).fetchone()
        changed = str(int(row[0] or 0) + 1)
        db.execute("UPDATE t SET value = ?, version = version + 1 WHERE key = ?", (changed, key))
        db.execute("COMMIT")
    gate.wait()
    db.close()


def _rate(target: Any, place: Any, keys: list[str], count: int) -> float:
    context = multiprocessing.get_context("spawn")
    gate = context.Barrier(len(keys) + 1)
    agents = [context.Process(target=target, args=(place, key, count, gate)) for key in keys]
    for agent in agents:
        agent.start()
    gate.wait()
    took = seconds(gate.wait)
    for agent in agents:
        agent.join()
    return len(keys) * count / took


def processes(folder: Path, scale: int) -> list[Row]:
    """1, 4 and 8 processes on one key and on distinct keys, beside raw transactions."""
    rows = []
    for kind in ("one key", "distinct keys"):
        for number in (1, 4, 8):
            keys = ["k" if kind == "one key" else f"k{n}" for n in range(number)]
            name = f"{kind}-{number}".replace(" ", "-")
            count = 20 * scale // number
            ours = _rate(_updates, f"sqlite:///{folder / name}.db", keys, count)
            raw = _rate(_raw_updates, folder / f"{name}-raw.db", keys, count)
            figure = f"{ours:,.0f}/s; raw {raw:,.0f}/s ({ours / raw:.2f}x)"
            how = "updates without thinking beside BEGIN IMMEDIATE, read, write"
            rows.append(Row(f"{number} processes, {kind}", figure, "", how))
    return rows


def _appends(url: str, number: int, count: int, gate: Any) -> None:
    with interlock.open(url, agent=f"bench-{number}") as space:
        gate.wait()
        for n in range(count):
            space.append("findings", {"by": number, "n": n})
        gate.wait()


def _raw_inserts(path: Path, number: int, count: int, gate: Any) -> None:
    db = raw_table(path)
    gate.wait()
    for n in range(count):
        body = json.dumps({"by": number, "n": n})
        db.execute("INSERT INTO findings (body, agent) VALUES (?, ?)", (body, f"bench-{number}"))
    gate.wait()
    db.close()


def appends(folder: Path, scale: int) -> list[Row]:
    """100 processes add 100 items each to one key, beside plain INSERTs; then the fold."""
    context = multiprocessing.get_context("forkserver")
    url, count = f"sqlite:///{folder / 'appends.db'}", scale
    with interlock.open(url, rules={"findings": interlock.merged("append")}):
        pass
    with contextlib.closing(raw_table(folder / "raw.db")) as db:
        db.execute("CREATE TABLE findings (id INTEGER PRIMARY KEY, body TEXT, agent TEXT)")

    def run(target: Any, place: Any) -> float:
        gate = context.Barrier(101)
        running = [context.Process(target=target, args=(place, n, count, gate)) for n in range(100)]
        for process in running:
            process.start()
        gate.wait()
        took = seconds(gate.wait)
        for process in running:
            process.join()
        return took

    raw, ours = run(_raw_inserts, folder / "raw.db"), run(_appends, url)
    with interlock.open(url) as space:
        first = seconds(lambda: space.read("findings"))
        later = [seconds(lambda: space.read("findings")) for _ in range(15)]
        kept = len(space.read("findings").value)
    what = f"100 processes, {count} appends each to one key ({kept:,} kept)"
    figure = f"{ours:.1f} s; raw {raw:.1f} s ({ours / raw:.2f}x the time)"
    fold = f"{_ms(later)} (first read: {_ms([first])})"
    return [
        Row(what, figure, "under 4x", "beside one INSERT a transaction in plain SQLite"),
        Row("reading that fold", fold, "under 10 ms", "median of 15"),
    ]


def fold(folder: Path, scale: int) -> list[Row]:
    """10,000 entries of the log into state, from the store and from memory."""
    with interlock.open(f"sqlite:///{folder / 'fold.db'}", agent="bench") as space:
        with space.transaction() as tx:
            for n in range(10_000):
                tx.create(f"k/{n}", {"n": n})
        stored = [seconds(lambda: {e.key: e.value for e in space.log()}) for _ in range(15)]
        entries = list(space.log())
        memory = [seconds(lambda: {e.key: e.value for e in entries}) for _ in range(15)]
    return [
        Row("fold 10,000 entries, in memory", _ms(memory), "under 10 ms", "median of 15"),
        Row("fold 10,000 entries, read and decoded", _ms(stored), "", "median of 15, from disk"),
    ]


def many_keys(folder: Path, scale: int) -> list[Row]:
    """Commit latency in a store of many keys against an empty one."""
    keys = 10_000 * scale
    full = interlock.open(f"sqlite:///{folder / 'full.db'}", agent="bench")
    empty = interlock.open(f"sqlite:///{folder / 'empty.db'}", agent="bench")
    db = sqlite3.connect(folder / "full.db")
    space = db.execute("SELECT space FROM spaces").fetchone()[0]
    body = json.dumps(VALUE)
    db.executemany(
        "INSERT INTO log VALUES (?, ?, ?, 1, 0, 'put', ?, 'bench', 1, ?, NULL, NULL)",
        (((space << 40) + n, space, f"k/{n:08}", body, f"{n:028}") for n in range(1, keys + 1)),
    )
    db.execute("INSERT INTO heads SELECT space, key, 1, 0, id, 1 FROM log")
    db.commit()
    db.close()

    def touch(opened: interlock.Space, step: int) -> Callable[[], None]:
        def run() -> None:
            for n in range(200):
                key = f"k/{(n * step * 7919) % keys + 1:08}"
                opened.update(key, lambda _: VALUE, touch=True)

        return run

    touch(full, 3)()
    touch(empty, 3)()
    ratios = [1 / r for r in alternating(touch(full, 5), touch(empty, 5), 7)]
    full.close()
    empty.close()
    what = f"commit latency with {keys:,} keys and entries"
    return [Row(what, spread(ratios), "at most 1.3x", "beside an empty store, scattered keys")]


def overhead(folder: Path, scale: int) -> list[Row]:
    """Core and driver alone, with canned answers instead of a database."""

    class Canned:
        uid, name = "u", "n"

        def perform(self, request: Any) -> Any:
            write = request.plan.writes[0]
            return Committed(1, 1, "bench", (Written(write.key, "put", 1, 0, 1, write.body),))

    driver: Any = SyncDriver(Canned())  # type: ignore[arg-type]  # answers only what is asked here
    with interlock.open("sqlite://", agent="bench") as space:
        record = space.read("k")
    me = Writer(record.space, "bench", 1_000_000)

    def run() -> None:
        for _ in range(2000):
            driver.run(write_record(me, record, VALUE, "op"))

    times = [seconds(run) / 2000 * 1e6 for _ in range(9)]
    return [
        Row("core and driver, per commit", f"{statistics.median(times):.0f} us", "", "no database")
    ]


def import_time(folder: Path, scale: int) -> list[Row]:
    """`import interlock` above the bare interpreter."""

    # As on a user's machine, where Python keeps the compiled modules.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def start(code: str) -> float:
        command = [sys.executable, "-c", code]
        return seconds(lambda: subprocess.run(command, check=True, env=environment))

    start("import interlock")
    extra = [start("import interlock") - start("pass") for _ in range(15)]
    return [Row("import interlock", _ms(extra), "under 60 ms", "above a bare interpreter")]


def _ms(times: list[float]) -> str:
    return f"{1000 * statistics.median(times):.1f} ms"


CASES = (one_commit, grouped, processes, appends, fold, many_keys, overhead, import_time)
