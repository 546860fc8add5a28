"""The synchronous driver: it runs a protocol's generator and performs its requests.

It sends requests to a backend, calls the caller's function of a `Think`, and sends a request again
whose answer was lost.  `drive_async` does the same for tasks.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from interlock.backends import holder
from interlock.backends.contract import Backend
from interlock.backends.seal import Seal
from interlock.backends.waiters import WAITERS, of_a_queue, pause, stand
from interlock.core.fold import Unfoldable
from interlock.core.refusals import Refusal
from interlock.core.requests import (
    RENEWALS_PER_TTL,
    Commit,
    LeaveTurn,
    Load,
    LoadAt,
    Pause,
    Place,
    ReadLog,
    ReadValues,
    Request,
    Steps,
    T,
    TakeTurn,
    Think,
)
from interlock.errors import (
    AnswerLost,
    Closed,
    Corrupt,
    Dropped,
    InterlockError,
    Unavailable,
    Unconfirmed,
    Unknown,
)
from interlock.observe.observer import Observer

RESUBMIT_FOR = 10.0  # seconds
RESUBMIT_PAUSE = 0.05
_READS = (Load, LoadAt, ReadLog, ReadValues)
HOPELESS = (Closed, Corrupt, Dropped, Unknown)  # asking again cannot help


class _OpIds:
    """Draws operation ids.  A random number for each process, then a count: asking the system for
    randomness at each commit costs more than the rest of the driver."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Take another random number, as a forked child must."""
        self._process = os.urandom(9).hex()
        self._count = itertools.count()

    def draw(self) -> str:
        return f"{time.time_ns() // 1_000_000:011x}{self._process}{next(self._count):x}"


_op_ids = _OpIds()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_op_ids.start_anew)


def new_op_id() -> str:
    """Return a fresh operation id: milliseconds first, so that ids of one time lie together."""
    return _op_ids.draw()


class SyncDriver:
    """Runs protocols in the calling thread."""

    keeps_alive = True  # whether leases and consumers are renewed in the background

    def __init__(
        self, backend: Backend, observer: Observer | None = None, seal: Seal | None = None
    ) -> None:
        self.backend = backend
        self.seal = seal  # None: values pass as the store has them
        self.observer = Observer(backend.name) if observer is None else observer

    def run(self, steps: Steps[T]) -> T | Refusal:
        """Run a protocol to its end and return its outcome."""
        try:
            request = next(steps)
            while True:
                try:
                    if isinstance(request, TakeTurn):
                        request = holder.with_held(self.backend.uid, request)
                    answer = self.answer(request)
                except BaseException as problem:
                    request = steps.throw(problem)
                else:
                    request = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value
        except Unfoldable as problem:
            return problem.refusal

    def answer(self, request: Request[object]) -> Any:
        """Perform one request."""
        if isinstance(request, Think):
            return self.think(request)
        if not of_a_queue(request):
            return self._perform(request)
        uid = self.backend.uid
        if isinstance(request, Pause) and request.ticket and pause(uid, request):
            return None
        if isinstance(request, TakeTurn) and not request.ticket:
            return self._join(uid, request)
        if isinstance(request, LeaveTurn):
            WAITERS.answered(uid, request, None)  # whatever becomes of it
            if WAITERS.was_only_here(uid, request):
                return None
        answer = self._perform(request)
        WAITERS.answered(uid, request, answer)
        return answer

    def think(self, request: Think) -> object:
        """Run the caller's function, in its turn where it has one."""
        if request.renew is None:
            return request.fn(*request.args)
        with (
            self._kept_alive(request.renew if self.keeps_alive else None),
            holder.in_turn(self.backend.uid, request.renew),
        ):
            return request.fn(*request.args)

    def _join(self, uid: str, request: TakeTurn) -> Place:
        """Join the queue of the store, when there is room for one more of this process."""
        waited = stand(uid, request)
        try:
            answer = self._perform(request)
        except BaseException:
            WAITERS.failed(uid, request)
            raise
        WAITERS.answered(uid, request, answer)
        return answer._replace(waited=waited)

    def _perform(self, request: Request[T]) -> T:
        seal = self.seal
        if seal is None:
            return self._send(request)
        answer: T = seal.opened(request, self._send(seal.closed(request)))
        return answer

    def _send(self, request: Request[T]) -> T:
        try:
            return self.backend.perform(request)
        except AnswerLost as lost:
            return self._resubmit(request, lost)

    def _resubmit(self, request: Request[T], lost: AnswerLost) -> T:
        began, attempts = time.monotonic(), 1
        while time.monotonic() < began + RESUBMIT_FOR:
            time.sleep(RESUBMIT_PAUSE)
            attempts += 1
            try:
                answer = self.backend.perform(request)
                self.observer.reconnected(request, attempts, time.monotonic() - began)
                return answer
            except HOPELESS:
                raise
            except Unconfirmed as problem:
                lost = problem
            except (AnswerLost, InterlockError):
                continue
        raise unknown(request, lost) from lost

    @contextmanager
    def _kept_alive(self, renew: TakeTurn | None) -> Iterator[None]:
        """Renew a turn from a thread while the caller's function runs."""
        if renew is None:
            yield
            return
        over = threading.Event()

        def renew_until_over() -> None:
            while not over.wait(renew.ttl / RENEWALS_PER_TTL):
                try:
                    if not self.backend.perform(renew).ticket:
                        return
                except (AnswerLost, InterlockError):
                    continue  # the next renewal may get through; the store judges in the end

        thread = threading.Thread(target=renew_until_over, name="interlock-renew", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def unknown(request: Request[object], lost: AnswerLost) -> Unknown | Unavailable:
    """Return the fault of a request whose answer stayed away."""
    op_id = request.plan.op_id if isinstance(request, Commit) else getattr(request, "op_id", "")
    if isinstance(lost, Unconfirmed):
        again = f" with op_id={op_id!r}" if op_id else ""
        return Unknown(f"{lost}: it may still be lost. Sending it again{again} is safe.", op_id)
    if isinstance(request, _READS):
        return Unavailable(
            f"No answer from the store for {RESUBMIT_FOR:.0f} s ({lost}). Try again."
        )
    return Unknown(
        f"No answer from the store for {RESUBMIT_FOR:.0f} s ({lost}): the "
        f"{type(request).__name__} may be applied or not. Sending it again with "
        f"op_id={op_id!r} is safe.",
        op_id,
    )
