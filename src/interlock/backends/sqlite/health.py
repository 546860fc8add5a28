"""Whether a store's write-ahead log grows because somebody reads an old snapshot of it.

SQLite writes over the log from its beginning once everything in it is in the file, and nobody reads
an older moment.  A transaction that another program leaves open keeps it from that: the log grows,
and everybody's reads become slower, until the transaction ends.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from interlock.backends.sqlite import locks
from interlock.backends.sqlite.faults import translated

LOG_LIMIT = 64 << 20  # bytes; a log that is not held up stays below


class LogHealth(NamedTuple):
    """How large the write-ahead log is, and who holds it up.

    `waiting`: pages that could not be moved into the file.  `readers`: the other processes that
    have a snapshot open, where the system names them; Interlock has one for milliseconds.
    """

    size: int
    waiting: int
    readers: tuple[locks.Process, ...]

    @property
    def problem(self) -> str:
        """What is wrong and what to do, in a sentence; empty where nothing is."""
        if self.size <= LOG_LIMIT or not self.waiting:
            return ""
        who = " and ".join(map(str, self.readers)) or "a process that cannot be named"
        return (
            f"the write-ahead log has {self.size >> 20} MB because {who} keeps an old snapshot "
            "open; end its transaction"
        )


def log_health(path: Path) -> LogHealth:
    """Look at the write-ahead log of a file, and move into the file what can be moved.

    Raises the faults.
    """
    with translated(str(path)), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return health_of(connection, path)


def health_of(connection: sqlite3.Connection, path: Path) -> LogHealth:
    """Do as `log_health` on a connection that is outside a transaction."""
    _, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    others = [each for each in locks.readers(path) if each.pid != os.getpid()]
    return LogHealth(log_size(path), max(pages - moved, 0), tuple(others))


def log_size(path: Path) -> int:
    """Return the bytes of the write-ahead log."""
    try:
        return os.stat(f"{path.resolve()}-wal").st_size
    except FileNotFoundError:
        return 0
