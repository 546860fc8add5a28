"""A small file in memory that the supervisor and its workers share; it survives `kill -9`."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

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
