"""Run by a test with a small disk: fills it up under a PostgreSQL, and makes room again.

`python -m tests.processes.fill_disk FOLDER WHAT`, as root in a mount namespace of its own.  WHAT:
`data` fills the disk of the tables; `log` that of the whole server, which then crashes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psycopg

import interlock
from tests.processes.faults import Ledger, Work, check, writing
from tests.servers.clients import run
from tests.servers.postgres import Postgres
from tests.servers.process import account, wait_until


def small_disk(folder: Path, megabytes: int) -> Path:
    """Mount a disk that the servers' user owns."""
    uid, gid = account() or (0, 0)
    folder.mkdir()
    options = f"size={megabytes}m,uid={uid},gid={gid},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    return folder


def fill(url: str, space: str, megabytes: int) -> int:
    """Commit large values until the disk is full; return how many were acknowledged."""
    chance = random.Random(7)
    with interlock.open(url, space, "filler") as filling:
        for number in range(megabytes * 4):
            value = chance.randbytes(130_000).hex()
            try:
                filling.create(f"fill:{number}", value)
            except (interlock.Unavailable, interlock.Unknown):
                return number
    raise AssertionError("the disk was never full")


def data(folder: Path) -> None:
    """The disk of the tables is full, and has room again."""
    disk = small_disk(folder / "disk", 18)
    with Postgres.start(folder / "server") as server, ExitStack() as stack:
        run(server.url(), f"CREATE TABLESPACE small LOCATION '{disk}'")
        run(server.url(), "CREATE DATABASE small TABLESPACE small")
        url = server.url("small")
        run(
            url,
            "CREATE TABLE ballast AS SELECT repeat(n::text, 99) FROM generate_series(1, 5000) n",
        )
        ledgers = [
            stack.enter_context(writing(facade, url, facade, Work(15)))
            for facade in ("sync", "async")
        ]
        for ledger in ledgers:
            ledger.wait_for(10)
        fill(url, "filler", 18)
        for ledger in ledgers:
            wait_until(partial(_is_refused, ledger), "writes are refused")
        run(url, "DROP TABLE ballast")
        for ledger in ledgers:
            ledger.wait_for(20)
        stack.close()
        for ledger, space in zip(ledgers, ("sync", "async"), strict=True):
            assert not ledger.doubtful
            check(url, space, ledger)


def log(folder: Path) -> None:
    """The disk of the whole server is full: it crashes, and comes back when there is room."""
    disk = small_disk(folder / "disk", 64)
    options = {"restart_after_crash": "off", "max_wal_size": "1GB", "checkpoint_timeout": "1h"}
    with Postgres.start(disk / "server", options) as server, ExitStack() as stack:
        assert server.folder == disk / "server"
        ballast = disk / "ballast"
        used = shutil.disk_usage(disk)
        ballast.write_bytes(bytes(used.free - 6_000_000))
        ledgers = [
            stack.enter_context(writing(facade, server.url(), facade, Work(16)))
            for facade in ("sync", "async")
        ]
        for ledger in ledgers:
            ledger.wait_for(10)
        with suppress(psycopg.OperationalError):  # the next file of its log finds no room
            run(server.url(), "SELECT pg_switch_wal()")
        wait_until(lambda: not server.running, "the server crashes")
        assert "No space left on device" in server.log_since_start()
        ballast.unlink()
        server.start_again()
        for ledger in ledgers:
            ledger.wait_for(20)
        stack.close()
        for ledger, space in zip(ledgers, ("sync", "async"), strict=True):
            check(server.url(), space, ledger)


def _is_refused(ledger: Ledger) -> bool:
    return len(ledger.refused) > 5


def main(folder: str, what: str) -> None:
    """Run one of them."""
    os.chmod(folder, 0o711)
    {"data": data, "log": log}[what](Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
