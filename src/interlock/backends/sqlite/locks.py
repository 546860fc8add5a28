"""Which processes hold locks on a store, as Linux tells it; elsewhere nobody is named.

SQLite's locks in write-ahead mode are bytes of the `-shm` file.  They are read off `/proc/locks`:
whoever opens that file and closes it again drops all locks of his process on it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

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


def writer(path: Path, locks: str = "/proc/locks") -> Process | None:
    """Return the process that is writing, None where there is none or it cannot be told."""
    found = _holders(path, range(_WRITER, _WRITER + 1), locks)
    return found[0] if found else None


def readers(path: Path, locks: str = "/proc/locks") -> list[Process]:
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
