"""The functions that `space.on` was given, called beside the path of a write.

Notices wait in a bounded queue, and one thread hands them out: a hook that is slow, or that
raises, can neither slow nor break a write.  What finds the queue full is counted and left out.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interlock.errors import Invalid

if TYPE_CHECKING:
    from interlock.observe.notices import Notice

WAITING = 10_000  # notices that no hook has had yet
_CLOSING = 2.0  # seconds that closing a space waits for its hooks
_IDLE = 5.0  # seconds without a notice, after which the thread ends

Hook = Callable[[Any], object]


class Hooks:
    """The hooks of one space.

    `failed(event, problem)` is called once for each hook that raises.
    """

    def __init__(self, failed: Callable[[str, BaseException], None]) -> None:
        self._failed = failed
        self.events: dict[str, tuple[Hook, ...]] = {}  # of events that somebody listens to
        self.left_out = 0
        self.start_anew()
        _HOOKS.add(self)

    def start_anew(self) -> None:
        """Forget what waits, and the thread, as a forked child must."""
        self._waiting: deque[tuple[Notice, tuple[Hook, ...]]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._broken: set[Hook] = set()

    def add(self, event: str, hook: Hook) -> Callable[[], None]:
        """Have `hook` called for each event of a name; return what ends that.  Raises Invalid."""
        from interlock.observe.notices import EVENTS, REFUSALS

        if event not in EVENTS:
            raise Invalid(f"{event!r:.60} is no event. Events: {', '.join(sorted(EVENTS))}.")
        if not callable(hook):
            raise Invalid(f"{hook!r:.60} is not a function of one argument.")

        def called(notice: Any) -> object:  # an object of its own: the same function may come twice
            return hook(notice)

        events = tuple(REFUSALS.values()) if event == "refusal" else (event,)
        with self._changed:
            for each in events:
                self.events[each] = (*self.events.get(each, ()), called)

        def remove() -> None:
            with self._changed:
                for each in events:
                    left = tuple(h for h in self.events.pop(each, ()) if h is not called)
                    if left:
                        self.events[each] = left

        return remove

    @property
    def idle(self) -> bool:
        """Whether no hook runs, or is to."""
        return not self._busy and not self._waiting

    def tell(self, notice: Notice) -> None:
        """Hand a notice soon to those who listen now, also if they end that meanwhile."""
        with self._changed:
            if len(self._waiting) >= WAITING:
                self.left_out += 1
                return
            self._waiting.append((notice, self.events.get(notice.event, ())))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="interlock-hooks")
                self._thread.daemon = True
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Wait for what was handed out, not longer than two seconds."""
        until = time.monotonic() + _CLOSING
        if self._thread is threading.current_thread():
            return  # a hook closes its space
        with self._changed:
            while (self._waiting or self._busy) and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            self.left_out += len(self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        while (waiting := self._next()) is not None:
            notice, hooks = waiting
            for hook in hooks:
                try:
                    hook(notice)
                except BaseException as problem:
                    if hook not in self._broken:
                        self._broken.add(hook)
                        self._failed(notice.event, problem)

    def _next(self) -> tuple[Notice, tuple[Hook, ...]] | None:
        """Wait for a notice; None where none came for a while."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            if not self._waiting:
                self._changed.wait_for(lambda: self._waiting, _IDLE)
            if not self._waiting:
                self._thread = None
                return None
            self._busy = True
            return self._waiting.popleft()


_HOOKS: weakref.WeakSet[Hooks] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for hooks in list(_HOOKS):
        hooks.start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
