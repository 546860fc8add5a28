"""Watches the calls of a breaker, so that one that never ends is counted, too.

A call that goes on for a while is noted in the store with the time at which it is overdue.  From
then on every host counts it that looks at the breaker: this one does, from a thread, however the
call hangs; and where this process is frozen or dead, the others do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from interlock.errors import AnswerLost, Closed, InterlockError
from interlock.runs import breaking
from interlock.runs.breaking import Limits, Passage, Seen
from interlock.session import Session

NOTED_AFTER = 1.0  # seconds, or half of a shorter timeout: short calls cost nothing
_AGAIN, _LONGEST = 1.0, 60.0  # seconds until the store is asked again, twice as long each time


@dataclass(eq=False)
class Call:
    """A call that was let through, by this process's clock: `started`, and when to look at it.

    `noted`: the store knows of it.
    """

    passage: Passage
    started: float
    id: str = ""
    look_at: float = 0.0
    pause: float = _AGAIN
    noted: bool = False
    over: bool = False


@dataclass
class CallWatch:
    """The calls of one handle that are under way; a thread watches them while there are any."""

    session: Session
    limits: Limits
    learn: Callable[[Seen, float], None]
    _calls: dict[Call, None] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _sleeps_until: float = 0.0
    _pid: int = 0  # of the process whose thread watches

    def add(self, call: Call) -> None:
        """Watch a call."""
        timeout = self.limits.timeout_us / 1e6
        call.look_at = call.started + min(NOTED_AFTER, timeout / 2)
        with self._changed:
            self._calls[call] = None
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._watch, name="interlock-breaker", daemon=True).start()
            elif call.look_at < self._sleeps_until:
                self._changed.notify()

    def remove(self, call: Call) -> None:
        """Watch a call no longer; it is over."""
        with self._changed:
            self._calls.pop(call, None)
            call.over = True

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    self._pid = 0
                    return
                self._sleeps_until = min(call.look_at for call in self._calls)
                left = self._sleeps_until - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                due = [call for call in self._calls if call.look_at <= time.monotonic()]
            for call in due:
                call.look_at = time.monotonic() + call.pause
                try:
                    self._look(call)
                except Closed:
                    self.remove(call)
                except (AnswerLost, InterlockError):
                    continue  # the store is away: later

    def _look(self, call: Call) -> None:
        now, limits = time.monotonic(), self.limits
        writer, op_id = self.session.writer, self.session.op_id
        if call.noted:
            seen = self.session.run(breaking.count_overdue(writer, limits, op_id()))
            if isinstance(seen, Seen):
                self.learn(seen, now)
            call.pause = min(call.pause * 2, _LONGEST)
            return
        call.id = call.id or op_id()
        took = now - call.started
        self.session.run(breaking.began(writer, limits, call.passage, call.id, int(took * 1e6)))
        with self._changed:
            call.noted = not call.over
        if call.noted:  # overdue by the store's clock first, which was read before now
            call.look_at = time.monotonic() - took + limits.timeout_us / 1e6
        else:  # it ended meanwhile
            self.session.run(breaking.ended(writer, limits, call.id, op_id()))
