"""Which version a caller has read, for frameworks whose `put(key, value)` names no version.

A write over a key that exists needs evidence that its caller has read what is there now:

- the value itself, where it was read and is passed back, changed or not: an `ObservedDict`, or
  whatever else has an attribute `observed`;
- an item that was read, named beside the value (`base=item`);
- a read by the same task, where the framework says which task is at work: `TaskReads`.

Anything else is no evidence.  Contexts (`contextvars`) are not: a read in `asyncio.gather`,
`to_thread` or `wait_for` is made in a context of its own, and a thread of a pool keeps the context
of an earlier job.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Self

from interlock import Record

MOST_READS = 10_000  # task and key together that are remembered; the oldest are forgotten first


class Observed(NamedTuple):
    """The version and epoch of a record that was read; version 0: it never existed."""

    space: str  # the identity of the space: what was read elsewhere is no evidence
    key: str
    version: int
    epoch: int

    @classmethod
    def of(cls, record: Record) -> Observed:
        """Return what was observed by reading `record`."""
        return cls(record.space, record.key, record.version, record.epoch)

    @classmethod
    def after_write(cls, record: Record) -> Observed:
        """Return what whoever has just written over `record` knows."""
        return cls(record.space, record.key, record.version + 1, record.epoch)

    def is_of(self, record: Record) -> bool:
        """Whether `record` is the record of the same key, in whatever version."""
        return (self.space, self.key) == (record.space, record.key)

    def is_current(self, record: Record) -> bool:
        """Whether `record` is at the version that was observed."""
        return self == Observed.of(record)

    def record(self, fresh: Record) -> Record:
        """Return `fresh` as it was observed: a write over that conflicts where the key moved."""
        return fresh._replace(version=self.version, epoch=self.epoch)


class ObservedDict(dict[str, Any]):
    """A JSON object that carries the version it was read at, through copies and changes in place.

    `{**value}` and `dict(value)` make plain dicts, which carry none.
    """

    observed: Observed

    def __init__(self, value: Mapping[str, Any], observed: Observed) -> None:
        super().__init__(value)
        self.observed = observed

    def copy(self) -> Self:
        """Return a shallow copy, read at the same version."""
        return type(self)(self, self.observed)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        merged = super().__or__(other)
        return merged if merged is NotImplemented else type(self)(merged, self.observed)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self), self.observed)


def observed(value: object, record: Record) -> Observed | None:
    """Return what `value` shows to have been observed of the key of `record`; None: nothing."""
    found = getattr(value, "observed", None)
    return found if isinstance(found, Observed) and found.is_of(record) else None


class TaskReads:
    """What the tasks of a framework have read, in a table of a bounded size.  Safe for threads.

    A task may work in several coroutines and threads at once, its *workers*.  A worker's own read
    is its evidence.  One that has read nothing has been given what other workers read, such as a
    `wait_for` does: the oldest read that nobody has written from decides.  So a write that was
    computed from an old read is never taken for one from a newer read of its neighbour.
    """

    def __init__(self, most: int = MOST_READS) -> None:
        self._most = most
        self._reads: OrderedDict[tuple[str, str, str], dict[object, _Read]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, task: str, record: Observed) -> None:
        """Remember that the task has read a record."""
        with self._lock:
            self._workers(task, record)[_worker()] = _Read(record, written=False)

    def evidence(self, task: str, record: Record) -> Observed | None:
        """Return what the task has observed of the key of `record`; None: nothing."""
        with self._lock:
            workers = self._reads.get((task, record.space, record.key), {})
            chosen = _chosen(workers)
            return None if chosen is None else workers[chosen].observed

    def wrote(self, task: str, written: Observed) -> None:
        """Remember that the task has written, from what `evidence` gave."""
        with self._lock:
            workers = self._workers(task, written)
            workers.pop(_chosen(workers), None)
            workers[_worker()] = _Read(written, written=True)

    def refused(self, task: str, record: Record) -> None:
        """Forget what the refused write came from: whoever tries again reads again."""
        with self._lock:
            workers = self._reads.get((task, record.space, record.key), {})
            workers.pop(_chosen(workers), None)

    def _workers(self, task: str, record: Observed) -> dict[object, _Read]:
        place = (task, record.space, record.key)
        workers = self._reads.setdefault(place, {})
        self._reads.move_to_end(place)
        while len(self._reads) > self._most:
            self._reads.popitem(last=False)
        return workers


class _Read(NamedTuple):
    """What a worker of a task knows of a key; `written`: because it wrote it itself."""

    observed: Observed
    written: bool


def _chosen(workers: Mapping[object, _Read]) -> object | None:
    """Return the worker whose read the write of the worker that calls was computed from."""
    own = _worker()
    if own in workers and not workers[own].written:
        return own
    unwritten = [name for name, read in workers.items() if not read.written]
    if unwritten:
        return min(unwritten, key=lambda name: workers[name].observed.version)
    return own if own in workers else None


class _Worker(NamedTuple):
    """Which coroutine or thread a context belongs to; a context that was copied has another one."""

    name: object
    task: weakref.ref[asyncio.Task[Any]] | None
    thread: int


_current: ContextVar[_Worker | None] = ContextVar("interlock_adapters_worker", default=None)


def _worker() -> object:
    """Return a name of the coroutine or thread that calls; equal names are the same one."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    thread = threading.get_ident()
    known = _current.get()
    if known is not None and known.thread == thread:
        of = None if known.task is None else known.task()
        if of is task and (known.task is None) == (task is None):
            return known.name
    made = _Worker(object(), None if task is None else weakref.ref(task), thread)
    _current.set(made)
    return made.name
