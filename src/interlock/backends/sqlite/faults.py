"""Turns what the sqlite3 module raises into the library's faults, by SQLite's own error codes."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from interlock.errors import AnswerLost, Corrupt, IncompatibleStore, InterlockError, Unavailable

BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SHARED_MEMORY = 32768  # bytes that the index of the write-ahead log grows by


def primary_code(problem: Exception) -> int:
    """Return SQLite's primary result code of an error, 0 where it has none."""
    return int(getattr(problem, "sqlite_errorcode", 0) or 0) & 0xFF


def is_busy(problem: sqlite3.Error) -> bool:
    """Whether another connection holds the lock that was asked for."""
    return primary_code(problem) in BUSY_CODES


def fault_of(problem: Exception, place: str, committing: bool = False) -> Exception:
    """Return the fault that `problem` is.

    `committing`: the COMMIT itself may have been applied.
    """
    if isinstance(problem, json.JSONDecodeError):
        return Corrupt(f"{place} is damaged: a value does not decode ({problem})")
    code = primary_code(problem)
    name = getattr(problem, "sqlite_errorname", type(problem).__name__)
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(place)):
        return Unavailable(f"The disk of {place} is full. Nothing was written. ({name})")
    if code == sqlite3.SQLITE_READONLY or (
        code == sqlite3.SQLITE_CANTOPEN and not committing and _is_read_only(place)
    ):
        return Unavailable(
            f"Can't use {place}: its folder is read-only, and SQLite writes there even to read "
            f"({name}). Open it with ?mode=ro, or make the folder writable."
        )
    if code in BUSY_CODES:
        return Unavailable(f"{place} is locked by another process ({name}). Try again.")
    if code == sqlite3.SQLITE_NOTADB:
        return IncompatibleStore(f"{place} is not an Interlock store: {problem}")
    if code == sqlite3.SQLITE_CORRUPT or isinstance(problem, sqlite3.DataError):
        return Corrupt(f"{place} is damaged: {problem} ({name}). Restore it from a backup.")
    if committing:
        return AnswerLost(f"{problem} ({name})")
    if code == sqlite3.SQLITE_CANTOPEN:
        return Unavailable(
            f"Can't open {place}: {problem}. Does its folder exist, and may you use it?"
        )
    return Unavailable(f"Can't use {place}: {problem} ({name})")


def _is_full(place: str) -> bool:
    """Whether the disk has no room for another page of the write-ahead log's index."""
    try:
        disk = os.statvfs(os.path.dirname(place))
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _SHARED_MEMORY


def _is_read_only(place: str) -> bool:
    folder = os.path.dirname(place)
    return os.path.isdir(folder) and not os.access(folder, os.W_OK)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise the library's faults in place of sqlite3's errors."""
    try:
        yield
    except InterlockError:
        raise
    except sqlite3.Error as problem:
        raise fault_of(problem, place) from problem
