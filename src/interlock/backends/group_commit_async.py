"""Group commit for the tasks of one event loop; `group_commit` does the same for threads.

Up to `flights` groups are on their way at once: one is prepared while the server judges another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from interlock import cancellation
from interlock.core.plan import Plan
from interlock.core.refusals import Outcome
from interlock.errors import AnswerLost


class _Waiting:
    """A plan on its way, and what its task awaits."""

    __slots__ = ("answer", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()


class AsyncGroupCommit:
    """Collects plans and hands them to `apply` in groups; `flights` groups of at most
    `most` plans travel at once."""

    def __init__(
        self,
        apply: Callable[[Sequence[Plan]], Awaitable[Sequence[Outcome]]],
        flights: int,
        most: int,
    ) -> None:
        self._apply = apply
        self._flights = flights
        self._most = most
        self._waiting: list[_Waiting] = []
        self._flying = 0  # a task that has ended counts no more, though it is still in the set
        self._tasks: set[asyncio.Task[None]] = set()

    async def commit(self, plan: Plan) -> Outcome:
        """Commit one plan, together with those of other tasks that wait at the same time.

        A task that is cancelled meanwhile does not hear the answer; the plan is not taken back,
        and the task goes on once it is judged.
        """
        waiting = _Waiting(plan)
        self._waiting.append(waiting)
        if self._flying < self._flights:
            self._flying += 1
            task = asyncio.ensure_future(self._fly())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if waiting.answer.cancelled():  # the flight may have landed already
                waiting.answer = asyncio.get_running_loop().create_future()
                await cancellation.outlast(waiting.answer)
            raise

    async def drain(self) -> None:
        """Wait for what is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _fly(self) -> None:
        try:
            await asyncio.sleep(0)  # let every task that is ready add its plan
            while self._waiting:
                group = self._waiting[: self._most]
                del self._waiting[: len(group)]
                await self._send(group)
        finally:
            self._flying -= 1

    async def _send(self, group: Sequence[_Waiting]) -> None:
        try:
            found = await self._apply([waiting.plan for waiting in group])
        except Exception as problem:
            _fail(group, problem)
        except BaseException:
            _fail(group, AnswerLost("the event loop was stopped while it committed"))
            raise
        else:
            for waiting, outcome in zip(group, found, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(outcome)


def _fail(group: Sequence[_Waiting], problem: Exception) -> None:
    for waiting in group:
        if not waiting.answer.done():
            waiting.answer.set_exception(problem)
