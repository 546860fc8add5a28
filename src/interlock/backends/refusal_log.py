"""Keeps refusals for `interlock conflicts`, beside the path of a write: in a thread, now and then.

What cannot be kept is dropped and counted: a record of refusals must never slow or fail a write.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from interlock.core.conflict_report import RefusalNote, dropped_note
from interlock.errors import InterlockError

KEPT = 10_000  # refusals in a store
_WAITING = 1000  # refusals of this process that are not in the store yet
_EVERY = 0.5  # seconds
_IDLE = 20  # rounds without a refusal, after which the thread ends


class RefusalLog:
    """Gathers refusals and hands them to `save`, which says whether it could keep them."""

    def __init__(self, save: Callable[[Sequence[RefusalNote]], bool]) -> None:
        self._save = save
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what waits, and the thread, as a forked child must."""
        self._waiting: deque[RefusalNote] = deque()
        self._dropped = 0
        self._last: RefusalNote | None = None  # of those that were dropped
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._changing = threading.Lock()
        self._flushing = threading.Lock()

    def add(self, note: RefusalNote) -> None:
        """Keep one refusal soon."""
        with self._changing:
            self._waiting.append(note)
            self._drop_beyond(_WAITING)
        if self._thread is None and not self._over.is_set():
            self._thread = threading.Thread(target=self._run, name="interlock-notes", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Try to keep what waits, now."""
        with self._flushing:
            with self._changing:
                notes, self._waiting = self._waiting, deque()
                dropped, last, self._dropped = self._dropped, self._last, 0
            counted = [dropped_note(last, dropped)] if last is not None and dropped else []
            if not notes and not counted:
                return
            limit = _WAITING
            try:
                kept = self._save([*counted, *notes])
            except InterlockError:
                kept, limit = False, 0  # the store is away or read-only
            if not kept:
                with self._changing:
                    later, self._waiting = self._waiting, notes
                    self._dropped += dropped
                    self._drop_beyond(limit)
                    self._waiting += later
                    self._drop_beyond(_WAITING)

    def _drop_beyond(self, limit: int) -> None:
        while len(self._waiting) > limit:
            self._last = self._waiting.popleft()
            self._dropped += 1

    def close(self) -> None:
        """Keep what waits and end the thread."""
        self._over.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self.flush()

    def _run(self) -> None:
        idle = 0
        while idle < _IDLE and not self._over.wait(_EVERY):
            idle = 0 if self._waiting else idle + 1
            self.flush()
        self._thread = None
