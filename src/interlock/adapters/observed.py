"""Which version a caller has read, for frameworks whose `put(key, value)` names no version.

A write over a key that exists needs evidence that its caller has read what is there now:

- the value itself, if it was read and is passed back, changed or not: an `ObservedDict`, or
  whatever else has an attribute `observed`;
- an item that was read, named beside the value (`base=item`);
- a read by the same task, if the framework says which task is at work: `TaskReads`.

Anything else is no evidence.  Contexts (`contextvars`) are not: a read in `asyncio.gather`,
`to_thread` or `wait_for` is made in a context of its own, and a thread of a pool keeps the context
of an earlier job.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, Self, TypeVar

from interlock import Conflict, Json, Record

T = TypeVar("T")
MOST_READS = 10_000  # task and key together that are remembered; the oldest are forgotten first
MOST_WORKERS = 64  # of a task, whose reads of one key are remembered


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

    def record(self, fresh: Record) -> Record:
        """Return `fresh` as it was observed: a write over that conflicts if the key moved."""
        return fresh._replace(version=self.version, epoch=self.epoch)


class ObservedDict(dict[str, Json]):
    """A JSON object that carries the version it was read at, through copies and changes in place.

    `{**value}` and `dict(value)` make plain dicts, which carry none.
    """

    observed: Observed

    def __init__(self, value: Mapping[str, Json], observed: Observed) -> None:
        super().__init__(value)
        self.observed = observed

    def copy(self) -> Self:
        """Return a shallow copy, read at the same version."""
        return type(self)(self, self.observed)

    __copy__ = copy

    def __or__(self, other: Any) -> Any:
        merged = super().__or__(other)
        return merged if merged is NotImplemented else type(self)(merged, self.observed)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (dict(self), self.observed)


def observed(value: object, record: Record) -> Observed | None:
    """Return what `value` shows to have been observed of the key of `record`; None: nothing."""
    found = getattr(value, "observed", None)
    return found if isinstance(found, Observed) and found.is_of(record) else None


def with_advice(conflict: Conflict, advice: str) -> Conflict:
    """Return the same refusal, which also says what to do about it here."""
    return Conflict(conflict.outcome.replace(message=f"{conflict.outcome.message}. {advice}"))


class Caller(NamedTuple):
    """A task of a framework, and the coroutine or thread of it that calls, its worker."""

    task: str
    worker: object

    @classmethod
    def of(cls, task: str | None) -> Caller | None:
        """Return who calls now, in a task of this id; None outside of any task."""
        if task is None:
            return None
        known = _caller.get()
        return known if known is not None and known.task == task else cls(task, _worker())


_caller: ContextVar[Caller | None] = ContextVar("interlock_adapters_caller", default=None)


async def called_by(caller: Caller | None, work: Coroutine[Any, Any, T]) -> T:
    """Await what `caller` has called, such as in a task that it has made for it."""
    token = _caller.set(caller)
    try:
        return await work
    finally:
        _caller.reset(token)


class TaskReads:
    """What the tasks of a framework have read, in a table of a bounded size.  Safe for threads.

    A task may have several workers at once.  A worker's own read is its evidence.  One that has
    read nothing since it has written has been given what other workers read, as by `to_thread`: the
    oldest such read that nobody has written from decides.  So a write that was computed from an old
    read is never taken for one from a newer read of its neighbour.
    """

    def __init__(self, most: int = MOST_READS) -> None:
        self._most = most
        self._reads: OrderedDict[tuple[str, str, str], dict[object, _Read]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, caller: Caller | None, record: Observed) -> None:
        """Remember that the caller was given a record."""
        if caller is not None:
            with self._lock:
                workers = self._workers(caller, record)
                if len(workers) >= MOST_WORKERS and caller.worker not in workers:
                    # Never the oldest: a newer one is no evidence in its place.
                    del workers[max(workers, key=lambda name: workers[name].observed.version)]
                workers[caller.worker] = _Read(record, written=False)

    def evidence(self, caller: Caller | None, record: Record) -> Observed | None:
        """Return what the caller has observed of the key of `record`; None: nothing."""
        if caller is None:
            return None
        with self._lock:
            workers = self._reads.get((caller.task, record.space, record.key), {})
            chosen = _chosen(workers, caller.worker)
            return None if chosen is None else workers[chosen].observed

    def wrote(self, caller: Caller | None, written: Observed) -> None:
        """Remember that the caller has written, from what `evidence` gave."""
        if caller is not None:
            with self._lock:
                workers = self._workers(caller, written)
                workers.pop(_chosen(workers, caller.worker), None)
                workers[caller.worker] = _Read(written, written=True)

    def refused(self, caller: Caller | None, record: Record) -> None:
        """Forget a read for the refused write: whoever tries again reads again.

        Of what others read that is the newest.  The write may have come from it, and another one,
        from the oldest, may still be on its way.
        """
        if caller is not None:
            with self._lock:
                workers = self._reads.get((caller.task, record.space, record.key), {})
                workers.pop(_chosen(workers, caller.worker, newest=True), None)

    def _workers(self, caller: Caller, record: Observed) -> dict[object, _Read]:
        place = (caller.task, record.space, record.key)
        workers = self._reads.setdefault(place, {})
        self._reads.move_to_end(place)
        while len(self._reads) > self._most:
            self._reads.popitem(last=False)
        return workers


class _Read(NamedTuple):
    """What a worker of a task knows of a key; `written`: because it wrote it itself."""

    observed: Observed
    written: bool


def _chosen(workers: Mapping[object, _Read], own: object, newest: bool = False) -> object | None:
    """Return the worker whose read a write of the worker `own` was computed from: its own, or the
    oldest (`newest`) that it may have been given since it has written."""
    mine = workers.get(own)
    if mine is not None and not mine.written:
        return own
    least = -1 if mine is None else mine.observed.version
    others = [
        name for name, read in workers.items() if not read.written and read.observed.version > least
    ]
    if not others:
        return own if mine else None
    return (max if newest else min)(others, key=lambda name: workers[name].observed.version)


class _Context(NamedTuple):
    """The coroutine or thread that a context was made for; one that was copied has another."""

    worker: object
    task: weakref.ref[asyncio.Task[object]] | None
    thread: int


_context: ContextVar[_Context | None] = ContextVar("interlock_adapters_worker", default=None)


def _worker() -> object:
    """Return what stands for the coroutine or thread that calls: always the same object."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    thread = threading.get_ident()
    known = _context.get()
    if known is not None and known.thread == thread:
        of = None if known.task is None else known.task()
        if of is task and (known.task is None) == (task is None):
            return known.worker
    made = _Context(object(), None if task is None else weakref.ref(task), thread)
    _context.set(made)
    return made.worker
