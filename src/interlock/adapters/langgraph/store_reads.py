"""Which version of an item each task has read: what makes a late `put` refusable.

A task is a task of a LangGraph run, or else the context that Python code runs in: a thread, an
asyncio task.  What a context has read is never changed in place: contexts are copied, and a copy
goes its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple

from interlock import Record
from interlock.adapters.extras import needs

with needs("LangGraph", "langgraph"):
    from langchain_core.runnables.config import var_child_runnable_config

REMEMBERED = 10_000  # reads of one context; the oldest are forgotten first
_TASK_ID = "__pregel_task_id"  # where LangGraph tells a node which task it is


class Seen(NamedTuple):
    """What moves when a record does."""

    version: int
    epoch: int


Place = tuple[str, str]  # of a record: its space, its key
Reads = Mapping[Place, Seen]

_reads: ContextVar[tuple[str | None, Reads]] = ContextVar("interlock_reads", default=(None, {}))


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
    task, reads = _reads.get()
    return reads if task == _task() else {}


def remember(found: Reads) -> None:
    """Add to what this task has read."""
    if not found:
        return
    reads = dict(current())
    for where in found:
        reads.pop(where, None)  # the newest come last
    reads.update(found)
    for where in list(reads)[: len(reads) - REMEMBERED]:
        del reads[where]
    _reads.set((_task(), reads))


def _task() -> str | None:
    config = var_child_runnable_config.get()
    task: str | None = ((config or {}).get("configurable") or {}).get(_TASK_ID)
    return task
