"""What those who use one session object have read: what `pop_item` and `clear_session` may destroy.

Each task has its own reads: one that shares the object with others destroys nothing that only they
have read.  What a task knew when it ended (`wait_for` and `gather` make such tasks) goes to the
first that knows nothing of its own; of two that ended and knew different things, the older counts.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from interlock.adapters.observed import Observed


class _Known(NamedTuple):
    """The heads that a task has known, the first and the last of them."""

    first: Observed
    last: Observed
    used: bool = False  # the last one was made from the first


class Reads:
    """The head of a session as each task knows it."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any] | None, _Known] = {}
        self._ended: _Known | None = None

    def known(self) -> Observed | None:
        """Return the head that whoever calls has read, or made; None: none."""
        found = self._tasks.get(_task()) or self._ended
        return None if found is None else found.last

    def read(self, head: Observed, task: asyncio.Task[Any] | None = None) -> None:
        """Remember that whoever calls, or another task, has read a head."""
        self._learn(task or _task(), _Known(head, head))

    def made(self, head: Observed, before: Observed) -> None:
        """Remember that whoever calls has made a head of the one before, which it knew."""
        own = self._tasks.get(_task())
        if own is None:
            self._ended = None  # it was given that, and nobody else goes on from there
        self._learn(_task(), _Known(before if own is None else own.first, head, used=True))

    def refused(self) -> None:
        """Forget what the refused change came from: whoever tries again reads again."""
        if self._tasks.pop(_task(), None) is None:
            self._ended = None

    def _learn(self, task: asyncio.Task[Any] | None, known: _Known) -> None:
        if task is not None and task not in self._tasks:
            task.add_done_callback(self._task_done)
        self._tasks[task] = known

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        own, before = self._tasks.pop(task, None), self._ended
        if own is None:
            return
        if before is None or before.used or own.first.version <= before.last.version:
            self._ended = own
        # Else somebody may have been given the older one, and not have used it yet.


def _task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a coroutine that something else than asyncio runs
        return None
