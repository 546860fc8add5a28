"""Which version of an item each task has read: what makes a late `put` refusable.

A task is a task of a LangGraph run, or else the context that Python code runs in: a thread, an
asyncio task.  What a context has read is never changed in place: contexts are copied, and a copy
goes its own way.  A LangGraph task may also read in contexts below its own, as `asyncio.gather`
makes them; what they have read counts where its own context has read nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple

from interlock import Record
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langchain_core.runnables.config import var_child_runnable_config

REMEMBERED = 10_000  # reads of one context; the oldest are forgotten first
TASKS = 1_000  # LangGraph tasks whose reads in contexts below are remembered
_TASK_ID = "__pregel_task_id"  # where LangGraph tells a node which task it is


class Seen(NamedTuple):
    """What moves when a record does."""

    version: int
    epoch: int


Place = tuple[str, str]  # of a record: its space, its key
Reads = Mapping[Place, Seen]

_reads: ContextVar[tuple[str | None, Reads]] = ContextVar("interlock_reads", default=(None, {}))
_of_tasks: OrderedDict[str, Reads] = OrderedDict()
_lock = threading.Lock()


def place(record: Record) -> Place:
    """Return where a record is."""
    return record.space, record.key


def seen(record: Record) -> Seen:
    """Return what is remembered of a record."""
    return Seen(record.version, record.epoch)


def after_write(record: Record) -> Seen:
    """Return what is remembered of a record that was just written over."""
    return Seen(record.version + 1, record.epoch)


def current() -> Reads:
    """Return what this task has read."""
    task = _task()
    own = _own(task)
    if task is None:
        return own
    with _lock:
        return {**_of_tasks.get(task, {}), **own}


def remember(found: Reads) -> None:
    """Add to what this task has read."""
    if not found:
        return
    task = _task()
    _reads.set((task, _newest(_own(task), found)))
    if task is not None:
        with _lock:
            _of_tasks[task] = _newest(_of_tasks.pop(task, {}), found)
            while len(_of_tasks) > TASKS:
                _of_tasks.popitem(last=False)


def _own(task: str | None) -> Reads:
    of, reads = _reads.get()
    return reads if of == task else {}


def _newest(before: Reads, found: Reads) -> Reads:
    reads = {where: each for where, each in before.items() if where not in found}
    reads.update(found)
    for where in list(reads)[: max(0, len(reads) - REMEMBERED)]:
        del reads[where]
    return reads


def _task() -> str | None:
    config = var_child_runnable_config.get()
    task: str | None = ((config or {}).get("configurable") or {}).get(_TASK_ID)
    return task
