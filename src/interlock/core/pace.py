"""How long functions think: who thinks quickly tries again, who thinks long waits in turn."""

from __future__ import annotations

from math import inf
from types import CodeType
from weakref import WeakKeyDictionary
from zlib import crc32

QUICK = 0.005  # seconds: a thought that is lost costs less than handing over a turn
_STEP, _MOST_STEPS = 0.001, 10  # of the pause before another try; seconds


class Pace:
    """How many seconds a function takes; infinitely many if it was not called yet.

    `known`: what is known of all functions of its code.
    """

    __slots__ = ("__weakref__", "_known", "seconds")

    def __init__(self, seconds: float = inf, known: Pace | None = None) -> None:
        self.seconds = seconds
        self._known = known

    @property
    def is_quick(self) -> bool:
        """Whether it is cheaper to call it again than to wait for a turn."""
        return self.seconds < QUICK

    def took(self, seconds: float) -> None:
        """It was called once more.  A long call is learned at once, and forgotten slowly."""
        self.seconds = seconds
        known = self._known
        if known is not None:
            is_longer = seconds > known.seconds or known.seconds == inf
            known.seconds = seconds if is_longer else (known.seconds + seconds) / 2


_PACES: WeakKeyDictionary[CodeType, Pace] = WeakKeyDictionary()


def pace_of(fn: object) -> Pace:
    """Return the pace of a function in one update, which begins with what is known of its code."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return Pace()
    known = _PACES.setdefault(code, Pace())
    return Pace(known.seconds, known)


def pause_before(op_id: str, attempts: int) -> float:
    """Return seconds to wait before another try: any number, but the same for the same operation;
    at most one millisecond for each try before."""
    return crc32(f"{op_id}/{attempts}".encode()) / 2**32 * min(attempts, _MOST_STEPS) * _STEP
