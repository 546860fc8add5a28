"""The asyncio driver: as `drive`, in a task, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from interlock import cancellation
from interlock.backends import holder
from interlock.backends.contract import Backend
from interlock.backends.drive import HOPELESS, RESUBMIT_FOR, RESUBMIT_PAUSE, unknown
from interlock.backends.seal import Seal
from interlock.backends.waiters import WAITERS, of_a_queue, pause_async, stand_async
from interlock.core.fold import Unfoldable
from interlock.core.refusals import Refusal
from interlock.core.requests import (
    RENEWALS_PER_TTL,
    LeaveTurn,
    Pause,
    Place,
    Request,
    Steps,
    T,
    TakeTurn,
    Think,
)
from interlock.errors import AnswerLost, InterlockError, Unconfirmed
from interlock.observe.observer import Observer


class AsyncDriver:
    """Runs protocols in an asyncio task; a plain function that thinks runs in a worker thread."""

    def __init__(
        self, backend: Backend, observer: Observer | None = None, seal: Seal | None = None
    ) -> None:
        self.backend = backend
        self.seal = seal  # None: values pass as the store has them
        self.observer = Observer(backend.name) if observer is None else observer
        self._thinkers: ThreadPoolExecutor | None = None
        self._pid = os.getpid()

    async def run(self, steps: Steps[T]) -> T | Refusal:
        """Run a protocol to its end and return its outcome."""
        try:
            request = next(steps)
            while True:
                try:
                    if isinstance(request, TakeTurn):
                        request = holder.with_held(self.backend.uid, request)
                    answer = await self.answer(request)
                except asyncio.CancelledError as problem:
                    request = steps.throw(problem)
                    break
                except BaseException as problem:
                    request = steps.throw(problem)
                else:
                    request = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        except Unfoldable as problem:
            return problem.refusal
        # What a cancelled protocol still asks for gives up what it holds.
        return await cancellation.finish(self.run(_resumed(request, steps)))

    async def answer(self, request: Request[object]) -> Any:
        """Perform one request."""
        if isinstance(request, Think):
            if request.renew is None:
                return await self._think(request)
            async with self._kept_alive(request.renew):
                with holder.in_turn(self.backend.uid, request.renew):
                    return await self._think(request)
        if not of_a_queue(request):
            return await self._perform(request)
        uid = self.backend.uid
        if isinstance(request, Pause) and request.ticket and await pause_async(uid, request):
            return None
        if isinstance(request, TakeTurn) and not request.ticket:
            return await self._join(uid, request)
        if isinstance(request, LeaveTurn):
            WAITERS.answered(uid, request, None)  # whatever becomes of it
            if WAITERS.was_only_here(uid, request):
                return None
        answer = await self._perform(request)
        WAITERS.answered(uid, request, answer)
        return answer

    def close(self) -> None:
        """Give back the worker threads."""
        if self._thinkers is not None:
            self._thinkers.shutdown(wait=False)
            self._thinkers = None

    async def _think(self, request: Think) -> object:
        fn = request.fn
        if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004  # an object whose call is async
        ):
            return await fn(*request.args)
        if self._thinkers is None or self._pid != os.getpid():
            self._thinkers = ThreadPoolExecutor(256, thread_name_prefix="interlock-think")
            self._pid = os.getpid()
        call = functools.partial(contextvars.copy_context().run, fn, *request.args)
        answer = await asyncio.get_running_loop().run_in_executor(self._thinkers, call)
        return await answer if inspect.isawaitable(answer) else answer

    async def _join(self, uid: str, request: TakeTurn) -> Place:
        """Join the queue of the store, when there is room for one more of this process."""
        waited = await stand_async(uid, request)
        try:
            answer = await self._perform(request)
        except BaseException:
            WAITERS.failed(uid, request)
            raise
        WAITERS.answered(uid, request, answer)
        return answer._replace(waited=waited)

    async def _perform(self, request: Request[T]) -> T:
        seal = self.seal
        if seal is None:
            return await self._send(request)
        answer: T = seal.opened(request, await self._send(seal.closed(request)))
        return answer

    async def _send(self, request: Request[T]) -> T:
        try:
            return await self.backend.perform_async(request)
        except AnswerLost as lost:
            return await self._resubmit(request, lost)

    async def _resubmit(self, request: Request[T], lost: AnswerLost) -> T:
        began, attempts = time.monotonic(), 1
        while time.monotonic() < began + RESUBMIT_FOR:
            await asyncio.sleep(RESUBMIT_PAUSE)
            attempts += 1
            try:
                answer = await self.backend.perform_async(request)
                self.observer.reconnected(request, attempts, time.monotonic() - began)
                return answer
            except HOPELESS:
                raise
            except Unconfirmed as problem:
                lost = problem
            except (AnswerLost, InterlockError):
                continue
        raise unknown(request, lost) from lost

    @asynccontextmanager
    async def _kept_alive(self, renew: TakeTurn | None) -> AsyncIterator[None]:
        """Renew a turn from a task while the caller's function runs."""
        if renew is None:
            yield
            return

        async def renew_until_cancelled() -> None:
            while True:
                await asyncio.sleep(renew.ttl / RENEWALS_PER_TTL)
                try:
                    if not (await self.backend.perform_async(renew)).ticket:
                        return
                except (AnswerLost, InterlockError):
                    continue  # the next renewal may get through; the store judges in the end

        task = asyncio.create_task(renew_until_cancelled())
        try:
            yield
        finally:
            await cancellation.stop(task)


def _resumed(request: Request[object], steps: Steps[T]) -> Steps[T]:
    """Go on with a protocol that has made `request`."""
    while True:
        try:
            try:
                answer = yield request
            except BaseException as problem:
                request = steps.throw(problem)
            else:
                request = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
