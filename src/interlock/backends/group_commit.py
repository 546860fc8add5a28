"""Group commit for the threads of one process: plans that come while a group is being committed go
into the next one.

The store is given a list of plans and answers each on its own.  With one caller at a time there
is no queue, no thread and no waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from interlock.core.plan import Plan
from interlock.core.refusals import Outcome
from interlock.errors import AnswerLost, Unavailable

if TYPE_CHECKING:
    import asyncio  # at run time only where it is used: it doubles the import time

MAX_GROUP = 512


class _Slot:
    """A plan on its way.  `future` is what a task awaits; a thread waits for `done`."""

    __slots__ = ("answer", "done", "fault", "future", "plan")

    def __init__(self, plan: Plan, future: asyncio.Future[None] | None = None) -> None:
        self.plan = plan
        self.future = future
        self.answer: Outcome | None = None
        self.fault: BaseException | None = None
        self.done = False


class GroupCommit:
    """Collects plans and hands them to `apply`, one group at a time, in the order they came."""

    def __init__(
        self, apply: Callable[[Sequence[Plan]], Sequence[Outcome]], most: int = MAX_GROUP
    ) -> None:
        self._apply = apply
        self._most = most
        self.reset()

    def reset(self) -> None:
        """Forget waiting plans and locks, as a forked child must."""
        self._leader = threading.Lock()
        self._waiting: list[_Slot] = []
        self._flushing: set[asyncio.AbstractEventLoop] = set()

    def commit(self, plan: Plan) -> Outcome:
        """Commit one plan, together with those of other threads that wait at the same time."""
        if not self._waiting and self._leader.acquire(blocking=False):
            try:
                return self._apply((plan,))[0]
            finally:
                self._leader.release()
        slot = _Slot(plan)
        self._waiting.append(slot)
        while not slot.done:
            with self._leader:
                if not slot.done:
                    self._flush()
        return _result(slot)

    async def commit_async(
        self, plan: Plan, run: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> Outcome:
        """The same for asyncio.

        `run(fn)` runs `fn` in the thread that may block and is awaited.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        slot = _Slot(plan, loop.create_future())
        self._waiting.append(slot)
        if loop not in self._flushing:
            self._flushing.add(loop)
            task = asyncio.ensure_future(self._flush_all(loop, run))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        assert slot.future is not None
        try:
            await slot.future
        except asyncio.CancelledError:
            from interlock import cancellation

            slot.future = loop.create_future()  # the other one is cancelled
            if not slot.done:
                await cancellation.outlast(slot.future)
            raise
        return _result(slot)

    async def _flush_all(
        self, loop: asyncio.AbstractEventLoop, run: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> None:
        import asyncio

        try:
            await asyncio.sleep(0)  # let every task that is ready add its plan
            while self._waiting:
                await run(self._flush_once)
        except BaseException as problem:
            for slot in self._waiting:
                slot.fault = Unavailable(f"The commit could not be sent: {problem!r}")
            _tell(self._waiting)
            self._waiting.clear()
            raise
        finally:
            self._flushing.discard(loop)

    def _flush_once(self) -> None:
        with self._leader:
            self._flush()

    def _flush(self) -> None:
        group = self._waiting[: self._most]
        del self._waiting[: len(group)]  # not `most`: others may have joined meanwhile
        if not group:
            return
        try:
            answers = self._apply([slot.plan for slot in group])
            for slot, answer in zip(group, answers, strict=True):
                slot.answer = answer
        except Exception as problem:
            for slot in group:
                slot.fault = problem
        except BaseException:  # Ctrl-C here: the others' drivers ask again, which is safe
            for slot in group:
                slot.fault = AnswerLost("the process was interrupted while it committed")
            raise
        finally:
            _tell(group)


def _tell(slots: Sequence[_Slot]) -> None:
    """Mark slots as done and wake the tasks that wait, each event loop once."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for slot in slots:
        slot.done = True
        if slot.future is not None:
            loops.setdefault(slot.future.get_loop(), []).append(slot.future)
    for loop, futures in loops.items():
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, futures)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def _result(slot: _Slot) -> Outcome:
    if slot.fault is not None:
        raise slot.fault
    assert slot.answer is not None
    return slot.answer
