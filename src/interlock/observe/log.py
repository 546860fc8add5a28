"""The lines of `logging.getLogger("interlock")`: who was refused by whom at which key.

Never a value: a refusal is worded here from names alone, because its message may quote what was
written.  At most a few lines a second of each sort; the next line says how many were left out.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from interlock.core.refusals import text_of

if TYPE_CHECKING:
    import logging

    from interlock.observe.notices import CommitNotice, LeaseNotice, RefusalNotice, StoreNotice

BURST = 20  # lines at once
RATE = 5.0  # lines a second after that
_WARNING, _ERROR, _INFO = 30, 40, 20  # as in `logging`, which is imported with the first line


class Bucket:
    """Lets so many lines through, and counts the others."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._filled = time.monotonic()
        self.left_out = 0

    def take(self, now: float) -> int | None:
        """Return how many were left out before this line; None where it is left out itself."""
        self._tokens = min(BURST, self._tokens + (now - self._filled) * RATE)
        self._filled = now
        if self._tokens < 1:
            self.left_out += 1
            return None
        self._tokens -= 1
        left_out, self.left_out = self.left_out, 0
        return left_out


class Log:
    """The lines of one space.  `quiet`: there are none."""

    def __init__(self, space: str, quiet: bool = False) -> None:
        self._space = space
        self._quiet = quiet
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def refusal(self, notice: RefusalNotice) -> None:
        """A write was refused."""
        text, args = "%s: key=%r agent=%r", list[Any]([notice.reason, notice.key, notice.agent])
        if notice.other is not None:
            text, args = text + " other=%r", [*args, notice.other]
        if notice.attempts:
            text, args = text + " attempt=%d", [*args, notice.attempts]
        self._write("refusal", _WARNING, text, args, notice)

    def slow_commit(self, notice: CommitNotice) -> None:
        """A commit took longer than it should."""
        args: list[Any] = [notice.seconds, notice.key, notice.agent, notice.attempts]
        text = "Slow commit: %.3f s key=%r agent=%r attempt=%d"
        self._write("slow_commit", _WARNING, text, args, notice)

    def reclaim(self, notice: LeaseNotice) -> None:
        """Somebody was replaced."""
        if notice.key:
            text = "Reclaimed: key=%r agent=%r epoch=%d"
            args: list[Any] = [notice.key, notice.agent, notice.epoch]
        else:
            text = "Agent name taken over: agent=%r incarnation=%d"
            args = [notice.agent, notice.epoch]
        self._write("reclaim", _WARNING, text, args, notice)

    def reconnect(self, notice: StoreNotice) -> None:
        """The store answered again."""
        text = "Reconnected: answered at attempt %d, after %.3f s"
        args = [notice.attempts, notice.seconds]
        self._write("reconnect", _WARNING, text, args, notice)

    def fault(self, notice: StoreNotice, problem: BaseException) -> None:
        """The store failed; its faults never quote a password."""
        text, args = "%s: agent=%r: %s", [notice.reason, notice.agent, text_of(problem)]
        self._write("fault", _ERROR, text, args, notice)

    def hook_failed(self, event: str, problem: BaseException) -> None:
        """A hook raised: it is called again, but this is said once."""
        text = "A hook of %r raised %s; further errors of it are not logged"
        self._write("hook", _ERROR, text, [event, type(problem).__name__], None, problem)

    def close(self) -> None:
        """Say what was left out and is not said yet."""
        with self._lock:
            left_out = {name: bucket.left_out for name, bucket in self._buckets.items()}
            self._buckets.clear()
        for name, count in left_out.items():
            if count:
                self._emit(_WARNING, "%d more lines of sort %r left out", [count, name], None, None)

    def _write(
        self,
        sort: str,
        level: int,
        text: str,
        args: list[Any],
        notice: object,
        problem: BaseException | None = None,
    ) -> None:
        if self._quiet or not logger().isEnabledFor(level):
            return
        with self._lock:
            left_out = self._buckets.setdefault(sort, Bucket()).take(time.monotonic())
        if left_out is None:
            return
        if left_out:
            text, args = text + " (%d more left out)", [*args, left_out]
        self._emit(level, text, args, notice, problem)

    def _emit(
        self,
        level: int,
        text: str,
        args: list[Any],
        notice: object,
        problem: BaseException | None,
    ) -> None:
        extra = {"interlock": notice}
        text = "space=%r " + text
        logger().log(level, text, self._space, *args, extra=extra, exc_info=problem)


_logger: logging.Logger | None = None


def logger() -> logging.Logger:
    """Return the library's logger, which is silent until somebody sets up logging."""
    global _logger
    if _logger is None:
        import logging

        _logger = logging.getLogger("interlock")
        _logger.addHandler(logging.NullHandler())
    return _logger
