"""The record of a run: each worker writes, to a file for each window, what it began and was told.

A line is written before the call to the store and one after it, into a file that is mapped into
memory: a process that is killed loses at most an answer, and a line costs no system call.  The last
line that a process wrote may be torn, and room that it did not use is zeros.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

from interlock import Json
from interlock.verify.torture.plan import Op

_SLOT = struct.Struct("<qqqq")  # begun, answered, offset of the clock in microseconds, dies
_BEGUN, _ANSWERED, _OFFSET, _DIES = range(4)
_FIELD = struct.Struct("<q")


class Board:
    """One row of numbers for each worker.

    A number has one writer: the worker what it began and answered, the supervisor the rest.
    """

    def __init__(self, path: Path, workers: int) -> None:
        self.workers = workers
        size = _SLOT.size * workers
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)

    def begun(self, worker: int) -> int:
        """Return how many operations of its plan a worker has begun, or left out."""
        return self._get(worker, _BEGUN)

    def set_begun(self, worker: int, number: int) -> None:
        """Note it."""
        self._set(worker, _BEGUN, number)

    def answered(self) -> int:
        """Return how many operations were answered, by all workers."""
        return sum(self._get(worker, _ANSWERED) for worker in range(self.workers))

    def all_begun(self, workers: int, share: int) -> bool:
        """Say whether the first `workers` have begun their whole share."""
        return all(self.begun(worker) >= share for worker in range(workers))

    def add_answered(self, worker: int) -> None:
        """Count one."""
        self._set(worker, _ANSWERED, self._get(worker, _ANSWERED) + 1)

    def offset(self, worker: int) -> int:
        """Return by how many microseconds a worker's clock is wrong."""
        return self._get(worker, _OFFSET)

    def set_offset(self, worker: int, offset_us: int) -> None:
        """Let a worker's clock be wrong."""
        self._set(worker, _OFFSET, offset_us)

    def dies(self, worker: int) -> bool:
        """Say whether a worker is to die when its next commit is answered."""
        return bool(self._get(worker, _DIES))

    def set_dies(self, worker: int, dies: bool) -> None:
        """Order it, or take the order back."""
        self._set(worker, _DIES, dies)

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()

    def _get(self, worker: int, field: int) -> int:
        found: int = _FIELD.unpack_from(self._map, worker * _SLOT.size + field * _FIELD.size)[0]
        return found

    def _set(self, worker: int, field: int, value: int) -> None:
        _FIELD.pack_into(self._map, worker * _SLOT.size + field * _FIELD.size, value)


# A version (None: not told), and the operation id of who wrote it (None: absent).
Seen = tuple[int | None, str | None]

ACKNOWLEDGED, REFUSED, UNAVAILABLE, UNKNOWN = "ok", "refused", "unavailable", "unknown"
_ROOM = 1 << 20  # bytes that a file grows by, at least


class Piece(NamedTuple):
    """A part of an operation that has a moment of its own: reads, or one commit.

    `commit` is its operation id, "" for reads.  `reads` and `writes` are by key, `scans` by prefix
    and key.
    """

    invoked: float
    completed: float
    commit: str
    reads: dict[str, Seen]
    writes: dict[str, Seen]
    scans: dict[str, dict[str, Seen]]


class Facts(TypedDict, total=False):
    """What only one kind of operation has.  From a file, tuples come as lists."""

    same: bool  # whether it was answered alike when it was sent again
    items: tuple[str, int, int]  # key, version, length
    total: tuple[str, int, int]  # key, version, value
    funds: int
    grant: tuple[str, int, float, float]  # key, epoch, invoked, completed
    gap: tuple[int, int]  # positions
    log: tuple[int, int, int]  # after, up to, entries
    taken: tuple[float, list[int]]  # invoked, positions
    acked: tuple[float, float, int]  # invoked, completed, entries
    sent: tuple[str, str | None, str]  # a write: key, what it was computed from, and its own name
    deletes: bool


class Done(NamedTuple):
    """An operation as it was recorded.  One that got no answer has no `completed`.

    `reason` is the name of the refusal or fault; `facts` are what only one kind of operation has.
    """

    worker: int
    number: int
    kind: str
    invoked: float
    completed: float | None
    outcome: str
    reason: str
    pieces: tuple[Piece, ...]
    facts: Facts


class Recorder:
    """Writes what one worker does."""

    def __init__(self, folder: Path, worker: int) -> None:
        self._folder = folder
        self._worker = worker
        self._files: dict[int, _Lines] = {}
        self._lock = threading.Lock()  # guards work in threads

    def begin(self, op: Op, now: float) -> None:
        """Note that an operation begins."""
        self._write(op, ["b", op.number, op.kind, now])

    def note(self, op: Op, facts: Facts) -> None:
        """Note what an operation knows before it goes on: another call may be its last."""
        self._write(op, ["n", op.number, facts])

    def end(
        self, op: Op, now: float, outcome: str, reason: str, pieces: list[Piece], facts: Facts
    ) -> None:
        """Note what became of an operation."""
        self._write(op, ["e", op.number, now, outcome, reason, pieces, facts])

    def _write(self, op: Op, line: list[Json]) -> None:
        with self._lock:
            self._write_alone(op, line)

    def _write_alone(self, op: Op, line: list[Json]) -> None:
        file = self._files.get(op.window)
        if file is None:
            # The operations of two windows overlap only a little; older files are not used again.
            for old in [window for window in self._files if window < op.window - 1]:
                self._files.pop(old).close()
            path = self._folder / file_name(op.window, self._worker)
            file = self._files[op.window] = _Lines(path)
        # A line break first: the file may end with a torn line of a process that was killed.
        file.add(b"\n" + json.dumps(line, separators=(",", ":")).encode())


class _Lines:
    """A file that is written through memory, behind what is there."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._at = self._size = os.fstat(self._file).st_size
        self._map: mmap.mmap | None = None

    def add(self, line: bytes) -> None:
        """Write a line."""
        end = self._at + len(line)
        if self._map is None or end > self._size:
            self.close(with_file=False)
            self._size = end + _ROOM
            os.ftruncate(self._file, self._size)
            self._map = mmap.mmap(self._file, self._size)
        self._map[self._at : end] = line
        self._at = end

    def close(self, with_file: bool = True) -> None:
        """Give the memory back, and the file."""
        if self._map is not None:
            self._map.close()
        if with_file:
            os.close(self._file)


def file_name(window: int, worker: int) -> str:
    """Return the name of a file of the record."""
    return f"window-{window}-worker-{worker}.jsonl"


def read_window(folder: Path, window: int, workers: int) -> Iterator[Done]:
    """Yield what was recorded of a window."""
    for worker in range(workers):
        path = folder / file_name(window, worker)
        if path.exists():
            with path.open("rb") as lines:
                yield from _read(worker, lines)


def _read(worker: int, lines: Iterable[bytes]) -> Iterator[Done]:
    begun: dict[int, tuple[str, float]] = {}
    noted: dict[int, Facts] = {}
    for line in lines:
        try:
            kind, number, *rest = json.loads(line.strip(b"\0\n"))
        except ValueError:  # empty, or torn
            continue
        if kind == "b":
            begun[number] = rest[0], rest[1]
            continue
        if kind == "n":
            noted.setdefault(number, {}).update(rest[0])
            continue
        completed, outcome, reason, pieces, facts = rest
        name, invoked = begun.pop(number)
        found = tuple([_piece(piece) for piece in pieces])
        facts = noted.pop(number, {}) | facts
        yield Done(worker, number, name, invoked, completed, outcome, reason, found, facts)
    for number, (name, invoked) in begun.items():
        facts = noted.get(number, {})
        yield Done(worker, number, name, invoked, None, UNKNOWN, "no answer", (), facts)


def _piece(raw: list[Json]) -> Piece:
    invoked, completed, commit, reads, writes, scans = raw
    return Piece(
        invoked,
        completed,
        commit,
        {key: (seen[0], seen[1]) for key, seen in reads.items()},
        {key: (seen[0], seen[1]) for key, seen in writes.items()},
        {prefix: {k: (s[0], s[1]) for k, s in there.items()} for prefix, there in scans.items()},
    )
