"""Tortures the three stores, servers that it starts and kills included: `python -m tests.torture`.

`make torture` runs it.  Without arguments all three; `--store sqlite` and so on for one.  `--guard`
tortures guards of data there, and of files.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from interlock.verify.torture import Report, Settings, new_space, run
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis

STORES = ("sqlite", "postgres", "redis")
PLACES = (*STORES, "file")
# Fewer processes, each with more agents, than by default: cheaper on two processors.
WORKERS, TASKS = 4, 24
Restart = Callable[[], None]


@contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str, Restart | None]]:
    """Yield the URL of a new store, and what kills its server and starts it again."""
    if kind == "file":
        yield f"file://{folder}", None
        return
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'torture.db'}", None
        return
    server: Postgres | Redis
    if kind == "postgres":
        server = Postgres.start(folder / kind, {"wal_writer_delay": "10s"})
    else:
        server = Redis.start(folder / kind, {"appendfsync": "always"})

    def restart() -> None:
        server.kill()
        server.start_again()

    with server:
        yield server.url(), restart


def tortured(
    kind: str,
    operations: int,
    seed: int,
    workers: int = WORKERS,
    tasks: int = TASKS,
    **options: Any,
) -> Report:
    """Torture a new store of one kind; `options` are other `Settings`."""
    shown = [0.0]

    def progress(stage: str, done: int, of: int) -> None:
        if time.monotonic() - shown[0] > 5:
            shown[0] = time.monotonic()
            print(f"{kind}: {stage} {done:,} of {of:,}", file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="interlock-torture-") as name,
        store(kind, Path(name)) as (url, restart),
    ):
        settings = Settings(url, new_space(seed), operations, seed, workers, tasks, **options)
        return run(settings, restart=restart, progress=progress)


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=PLACES, action="append")
    parser.add_argument("--guard", action="store_true")
    parser.add_argument("--seeds", type=int, default=1, help="so many runs, from --seed on")
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    failed = False
    kinds = asked.store or (PLACES if asked.guard else STORES)
    for kind, seed in product(kinds, range(asked.seed, asked.seed + asked.seeds)):
        options = (asked.operations, seed, asked.workers, asked.tasks)
        report = tortured(kind, *options, guarded=asked.guard)
        failed = failed or report.verdict != "ok"
        if asked.json:
            print(json.dumps(report.as_json()))
        print(f"{kind}, seed {seed}: {report.headline()}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
