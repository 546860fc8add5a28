"""Records what a process asks a store and what it is told: one file of JSON lines for each space
that is opened.  `docs/explanation/traces.md` says what the lines hold.

A line is on its way to the disk before its request is sent: a process that is killed leaves behind
what it had asked.
"""

from __future__ import annotations

import itertools
import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from interlock.backends.contract import Backend
from interlock.backends.joined import JoinedBackend, join
from interlock.core.records import Committed, Record, Snapshot
from interlock.core.refusals import Conflict, Fenced, Refusal
from interlock.core.requests import (
    Commit,
    DropLease,
    Enter,
    Entered,
    Grant,
    LeaveTurn,
    Load,
    LoadAt,
    LogPage,
    Place,
    ReadLog,
    Request,
    T,
    TakeLease,
    TakeTurn,
)
from interlock.errors import AnswerLost, Invalid

FORMAT = 1
# Requests of which each field is written down; of others, only the kind.
_WHOLE = (Load, LoadAt, ReadLog, TakeTurn, LeaveTurn, Enter, TakeLease, DropLease)
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_files = itertools.count()


class RecordingBackend:
    """A backend that answers as another one does, and writes down what was asked and answered.

    `folder` is made where there is none.  Raises Invalid where nothing can be written there.
    """

    def __init__(self, backend: Backend, folder: str) -> None:
        self.backend = backend
        self.uid, self.name = backend.uid, backend.name
        self._folder = Path(folder)
        self._numbers = itertools.count(1)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._begin()
        except OSError as problem:
            raise Invalid(f"INTERLOCK_RECORD={folder!r}: {problem}") from problem

    def perform(self, request: Request[T]) -> T:
        """Answer one request, and record it."""
        with self._recorded(request) as answered:
            answer = self.backend.perform(request)
            answered.append(answer)
        return answer

    async def perform_async(self, request: Request[T]) -> T:
        """Answer one request without blocking the event loop, and record it."""
        with self._recorded(request) as answered:
            answer = await self.backend.perform_async(request)
            answered.append(answer)
        return answer

    def join(self, connection: object) -> JoinedBackend:
        """Return the space inside a transaction of the caller's.  What is asked there is not
        recorded: it may be rolled back."""
        return join(self.backend, connection)

    def close(self) -> None:
        """Close the backend and the file."""
        self.backend.close()
        self._end()

    async def close_async(self) -> None:
        """The same without blocking the event loop."""
        await self.backend.close_async()
        self._end()

    @contextmanager
    def _recorded(self, request: Request[T]) -> Iterator[list[T]]:
        if self._pid != os.getpid():
            self._begin()  # a forked child writes to a file of its own
        number = next(self._numbers)
        self._write({"n": number, "at": time.monotonic_ns(), **_asked(request)})
        answers: list[T] = []
        told: dict[str, object] = {}
        try:
            yield answers
            told = _told(answers[0])
        except AnswerLost as lost:
            told = {"lost": str(lost)}
            raise
        except BaseException as problem:  # a cancelled task leaves in doubt what it asked
            told = {"fault": type(problem).__name__}
            raise
        finally:
            self._write({"n": number, "at": time.monotonic_ns(), **told})

    def _begin(self) -> None:
        self._pid = os.getpid()
        name = f"{self.uid}-{self._pid}-{time.time_ns()}-{next(_files)}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file: int | None = os.open(self._folder / name, flags, 0o644)
        head = {"trace": FORMAT, "space": self.uid, "name": self.name, "pid": self._pid}
        self._write({**head, "clock": _clock()})

    def _write(self, line: Mapping[str, object]) -> None:
        if self._file is None:
            return
        text = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        try:
            os.write(self._file, text)  # one call for the whole line: threads need no lock
        except OSError as problem:  # the store's answer is worth more than the record of it
            self._end()
            warnings.warn(f"{self._folder}: recording ends: {problem}", RuntimeWarning, 2)

    def _end(self) -> None:
        if self._file is not None and self._pid == os.getpid():
            os.close(self._file)
        self._file = None


def _clock() -> str:
    """Return what tells apart the clocks that the times are from: one for each start of a host."""
    try:
        return _BOOT.read_text().strip()
    except OSError:  # not Linux: only the times of one process are compared
        return f"process {os.getpid()}"


def _asked(request: Request[object]) -> dict[str, object]:
    asked: dict[str, object] = {"ask": type(request).__name__}
    if isinstance(request, Commit):
        plan = request.plan
        asked |= plan._asdict()
        asked["expects"] = [expected[:3] for expected in plan.expects]
        asked["writes"] = [[write.kind, write.key] for write in plan.writes]
    elif isinstance(request, _WHOLE):
        asked |= vars(request)
    return asked


def _told(answer: object) -> dict[str, object]:
    """Return an answer as a line says it: no values, but every version, epoch and position."""
    told: dict[str, object] = {"told": type(answer).__name__}
    if isinstance(answer, Committed):
        told |= {"position": answer.position, "replayed": answer.replayed}
        told["writes"] = [[w.key, w.version, w.epoch, w.position] for w in answer.writes]
    elif isinstance(answer, Refusal):
        told |= _refused(answer)
    elif isinstance(answer, Grant):
        refusal = None if answer.refusal is None else _told(answer.refusal)
        told |= {"granted": answer.granted, "refusal": refusal, "records": _seen(answer.records)}
    elif isinstance(answer, Entered):
        told["incarnation"] = answer.incarnation
    elif isinstance(answer, LogPage):
        told |= {"upto": answer.upto, "head": answer.head}
        told["entries"] = [
            [e.position, e.key, e.version, e.epoch, e.kind, e.agent, e.op_id]
            for e in answer.entries
        ]
    elif isinstance(answer, Place):
        told |= {"ticket": answer.ticket, "ahead": answer.ahead, "cycle": answer.cycle}
        told |= _snapshot(answer.snapshot)
    elif isinstance(answer, Snapshot):
        told |= _snapshot(answer)
    return told


def _refused(refusal: Refusal) -> dict[str, object]:
    if isinstance(refusal, Conflict):
        found = {"key": refusal.key, "expected": refusal.expected, "actual": refusal.actual}
        return {**found, "prefix": refusal.prefix, "records": _seen([refusal.record])}
    if isinstance(refusal, Fenced):
        return {"key": refusal.key, "held": refusal.held, "current": refusal.current}
    return {"why": refusal.message}


def _snapshot(snapshot: Snapshot) -> dict[str, object]:
    found: dict[str, object] = {
        "position": snapshot.position,
        "records": _seen(snapshot.records.values()),
        "scans": {prefix: _seen(records) for prefix, records in snapshot.scans.items()},
    }
    if snapshot.applied is not None:
        found["applied"] = _told(snapshot.applied)
    return found


def _seen(records: Iterable[Record]) -> list[list[object]]:
    """Return what was told of records; of a deleted one that it does not exist."""
    return [[r.key, r.version, r.epoch, r.exists] for r in records]
