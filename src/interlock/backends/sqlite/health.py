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

from interlock.backends.sqlite.faults import translated

_WRITER = 120  # byte of the -shm file that the writer locks
_OPEN = 128  # byte that each connection locks as long as it is open
_READERS = range(123, 128)  # and of the snapshots that are read; 123 is that of no log at all


class Process(NamedTuple):
    """A process that holds a lock.  `stopped`: by SIGSTOP, a debugger or a frozen container."""

    pid: int
    name: str
    stopped: bool

    def __str__(self) -> str:
        if self.pid == os.getpid():
            return "another connection of this very process"
        state = f", which is stopped (kill -CONT {self.pid})" if self.stopped else ""
        return f"process {self.pid} ({self.name}{state})"


def writer_of(path: Path, locks: str = "/proc/locks") -> Process | None:
    """Return the process that is writing, None where there is none or it cannot be told."""
    found = _holders(path, range(_WRITER, _WRITER + 1), locks)
    return found[0] if found else None


def readers_of(path: Path, locks: str = "/proc/locks") -> list[Process]:
    """Return the processes that have a snapshot open."""
    return _holders(path, _READERS, locks)


def connected(path: Path, locks: str = "/proc/locks") -> list[Process]:
    """Return the processes that have the store open."""
    return _holders(path, range(_OPEN, _OPEN + 1), locks)


def _holders(path: Path, wanted: range, locks: str) -> list[Process]:
    try:
        inode = str(os.stat(f"{path.resolve()}-shm").st_ino)
        lines = Path(locks).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    pids = set()
    for line in lines:
        # 7: POSIX  ADVISORY  WRITE 4711 fe:00:262146 120 120
        fields = line.split()
        if len(fields) == 8 and fields[1] == "POSIX" and fields[5].rpartition(":")[2] == inode:
            first, last = int(fields[6]), fields[7]
            if last.isdigit() and any(first <= each <= int(last) for each in wanted):
                pids.add(int(fields[4]))
    return [_process(pid) for pid in sorted(pids) if pid > 0]  # others are in another container


def _process(pid: int) -> Process:
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")
    except OSError:
        return Process(pid, "ended", False)
    return Process(pid, head.partition("(")[2], tail[:1] in ("T", "t"))


LOG_LIMIT = 64 << 20  # bytes; a log that is not held up stays below


class LogHealth(NamedTuple):
    """How large the write-ahead log is, and who holds it up.

    `waiting`: pages that could not be moved into the file.  `readers`: the other processes that
    have a snapshot open, where the system names them; Interlock has one for milliseconds.
    """

    size: int
    waiting: int
    readers: tuple[Process, ...]

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
    others = [each for each in readers_of(path) if each.pid != os.getpid()]
    return LogHealth(log_size(path), max(pages - moved, 0), tuple(others))


def log_size(path: Path) -> int:
    """Return the bytes of the write-ahead log."""
    try:
        return os.stat(f"{path.resolve()}-wal").st_size
    except FileNotFoundError:
        return 0
