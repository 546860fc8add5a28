"""Measures what docs/how-to/lost-writes.md says of forensics.

python -m tools.forensics sources --runs 50   # recall and precision of each source
python -m tools.forensics million             # time and memory of 1,000,000 entries
python -m tools.forensics cost                # what watching costs a Redis
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg

from examples.losing import app
from examples.losing.ledger import tokens
from interlock.forensics import (
    Event,
    Findings,
    Keyspace,
    Watcher,
    find_losses,
    history_sql,
    monitor_lines,
    open_feed,
    open_source,
)
from interlock.forensics.history_table import install
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

SOURCES = ("MONITOR", "write_log", "append-only file", "keyspace events", "PostgreSQL trigger")


def named(findings: Findings) -> dict[tuple[str, str], str]:
    """Return the contributions that losses name, by key and token, with the certainty."""
    found = {}
    for loss in findings.losses:
        for fact in loss.facts:
            told = fact.to_json()
            for token in tokens(told.get("added", told.get("became"))):
                found[loss.key.removeprefix("shared/"), token] = loss.certainty
    return found


def found_in(source: str, **options: Any) -> dict[tuple[str, str], str]:
    """Return what is found in a source."""
    found = open_source(source, **options)
    return named(
        find_losses(found.read(), from_start=found.from_start, shows_reads=found.kind == "monitor")
    )


@contextmanager
def meanwhile(work: Callable[[threading.Event, threading.Event], None]) -> Iterator[None]:
    """Run `work(ready, stop)` in a thread."""
    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=work, args=(ready, stop))
    thread.start()
    ready.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def sources(runs: int, folder: Path) -> None:
    """Print recall and precision over runs of the losing application."""
    counts: Counter[tuple[str, str]] = Counter()
    with Postgres.start(folder / "postgres") as postgres:
        for seed in range(runs):
            with Redis.start(folder / f"redis-{seed}") as redis:
                one_run(seed, redis, postgres.url(), folder / f"capture-{seed}", counts)
            print(f"{seed + 1} of {runs}", end="\r", flush=True)
    print("| source | lost writes | named | of these certain | invented | recall | precision |")
    print("|---|---|---|---|---|---|---|")
    for name in SOURCES:
        truth, good, bad = (counts[name, what] for what in ("truth", "named", "invented"))
        sure = f"{counts[name, 'certain']} ({counts[name, 'certain, invented']} invented)"
        share = f"{good / truth:.0%} | {good / (good + bad):.1%}"
        print(f"| {name} | {truth} | {good} | {sure} | {bad} | {share} |")


def one_run(
    seed: int, redis: Redis, postgres: str, capture: Path, counts: Counter[tuple[str, str]]
) -> None:
    """Run the application once, watched in every way, and count what each shows."""
    events: list[Event] = []

    def commands(ready: threading.Event, stop: threading.Event) -> None:
        with capture.open("wb") as file:
            for line in monitor_lines(redis.url()):
                file.write(line + b"\n" if line else b"")
                if line:
                    ready.set()
                elif stop.is_set():
                    return

    def keyspace(ready: threading.Event, stop: threading.Event) -> None:
        recorder = Keyspace(redis.url(), enable=True)
        ready.set()
        while (found := recorder.poll(0.2)) or not stop.is_set():
            events.extend(found)
        recorder.close()

    with meanwhile(commands), meanwhile(keyspace):
        ledger = app.run(redis.url(), seed)
    truth = {(lost.key, lost.token) for lost in ledger.lost}
    into_table(redis.url(), postgres)
    results = (
        found_in(str(capture)),
        found_in(redis.url()),
        found_in(str(redis.folder / "appendonly.aof")),
        named(find_losses(events)),
        found_in(postgres, table="shared"),
    )
    for name, found in zip(SOURCES, results, strict=True):
        counts[name, "truth"] += len(truth)
        counts[name, "named"] += len(truth & set(found))
        counts[name, "invented"] += len(set(found) - truth)
        sure = {each for each, certainty in found.items() if certainty == "certain"}
        counts[name, "certain"] += len(sure & truth)
        counts[name, "certain, invented"] += len(sure - truth)


def into_table(url: str, postgres: str) -> None:
    """Make the writes of a run again, in a table whose history is recorded."""
    writes = sorted(open_source(url).read(), key=lambda event: event.time_us)
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS shared, shared_interlock_history")
        connection.execute("CREATE TABLE shared (id text PRIMARY KEY, value jsonb)")
        install(postgres, history_sql("shared"))
        for event in writes:
            connection.execute("SELECT set_config('application_name', %s, false)", (event.agent,))
            connection.execute(
                "INSERT INTO shared VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET value = "
                "excluded.value",
                (event.key, json.dumps(event.value)),
            )


def million(folder: Path) -> None:
    """Print the time and the memory that 1,000,000 entries take, of 1,000 and of 100,000 keys."""
    for keys in (1_000, 100_000):
        rng, file = random.Random(1), folder / f"{keys}.jsonl"
        state: dict[str, Any] = {}
        with file.open("w") as out:
            for number in range(1_000_000):
                key = f"plan:{rng.randrange(keys)}"
                old = state.get(key) or {"items": [], "status": "new", "n": 0}
                new = {
                    "items": [*old["items"], f"item-{number}"][-15:],
                    "status": rng.choice(("new", "paid", "done")),
                    "n": old["n"] + 1,
                }
                state[key] = new
                line = {
                    "key": key,
                    "agent": f"agent-{rng.randrange(8)}",
                    "time": 1.7e9 + number / 50,
                }
                out.write(json.dumps(line | {"kind": "put", "value": new}) + "\n")
        del state
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            events, took, cpu, peak = other.submit(analyzed, str(file)).result()
        size = file.stat().st_size / 1e6
        print(
            f"{events:,} entries of {keys:,} keys ({size:.0f} MB): {took:.0f} s, "
            f"{cpu:.0f} s of CPU, {peak:.0f} MB at most"
        )


def analyzed(source: str) -> tuple[int, float, float, float]:
    """Return the events of a source, seconds, seconds of CPU and the megabytes of this process."""
    start, used = time.monotonic(), time.process_time()
    found = find_losses(open_source(source).read())
    took, cpu = time.monotonic() - start, time.process_time() - used
    return found.events, took, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cost(folder: Path) -> None:
    """Print what watching costs a Redis: server CPU for the same commands, with and without."""
    with Redis.start(folder / "redis", {"appendonly": "no"}) as redis:
        kinds: dict[str, Callable[[], Any]] = {
            "write logs, watched": lambda: Watcher(lambda p: open_feed(redis.url(), position=p)),
            "keyspace events, watched": lambda: Watcher(
                lambda p: open_feed(redis.url(), keyspace=True, enable=True, position=p)
            ),
        }
        for rate in (200, 2000):
            for name, make in kinds.items():
                ratios = [measured(redis, make, rate) for _ in range(3)]
                middle = statistics.median(ratios)
                print(
                    f"{name}, {rate} writes/s: {middle:+.2%} of one core "
                    f"({min(ratios):+.2%} to {max(ratios):+.2%})"
                )


def measured(redis: Redis, make: Callable[[], Any], rate: int) -> float:
    """Return the server CPU that watching adds, as a share of one core, at a rate of writes."""
    plain = load(redis, rate)
    watcher = make()

    def watch(ready: threading.Event, stop: threading.Event) -> None:
        ready.set()
        while not stop.is_set():
            watcher.poll(0.1)

    with meanwhile(watch):
        watched = load(redis, rate)
    watcher.close()
    return watched - plain


def load(redis: Redis, rate: int, seconds: float = 3.0) -> float:
    """Write at a rate, each write logged; return the share of a core that the server has used."""
    import redis as redis_py

    client = redis_py.Redis.from_url(redis.url())
    before, start = cpu_of(client), time.monotonic()
    number = 0
    while (now := time.monotonic() - start) < seconds:
        while number < now * rate:
            key = f"plan:{number % 20}"
            value = {"items": [f"item-{number}"] * 10, "n": number}
            client.set(key, json.dumps(value))
            line = {"agent": f"agent-{number % 3}", "ts": time.time(), "value": value}
            client.rpush(f"write_log:{key}", json.dumps(line))
            number += 1
        time.sleep(0.001)
    used = cpu_of(client) - before
    client.flushall()
    client.close()
    return used / seconds


def cpu_of(client: Any) -> float:
    """Return the seconds of CPU that a server has used."""
    info = client.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("sources", "million", "cost"))
    parser.add_argument("--runs", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interlock-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if arguments.what == "sources":
            sources(arguments.runs, folder)
        else:
            {"million": million, "cost": cost}[arguments.what](folder)


if __name__ == "__main__":
    main()
