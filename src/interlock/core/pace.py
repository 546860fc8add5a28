"""How long functions think: who thinks quickly tries again, who thinks long waits in turn."""

from __future__ import annotations

from types import CodeType
from weakref import WeakKeyDictionary
from zlib import crc32

QUICK = 0.005  # seconds: a thought that is lost costs less than handing over a turn
_STEP, _MOST_STEPS = 0.001, 10  # of the pause before another try; seconds


class Pace:
    """How many seconds a function took when it was last called; infinitely many if it was not."""

    __slots__ = ("__weakref__", "seconds")

    def __init__(self, seconds: float = float("inf")) -> None:
        self.seconds = seconds

    @property
    def is_quick(self) -> bool:
        """Whether it is cheaper to call it again than to wait for a turn."""
        return self.seconds < QUICK


_PACES: WeakKeyDictionary[CodeType, Pace] = WeakKeyDictionary()


def pace_of(fn: object) -> Pace:
    """Return the pace of a function, which all functions of the same code share."""
    code = getattr(fn, "__code__", None)
    return Pace() if code is None else _PACES.setdefault(code, Pace())


def pause_before(op_id: str, attempts: int) -> float:
    """Return seconds to wait before another try: any number, but the same for the same operation;
    at most one millisecond for each try before."""
    return crc32(f"{op_id}/{attempts}".encode()) / 2**32 * min(attempts, _MOST_STEPS) * _STEP
