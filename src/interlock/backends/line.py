"""The lines of a process: who waits here, without a request, until it may join a store's queue.

There is a line for each key, first come first served.  Whoever waits for several keys stands in
several lines, and goes on when it is the first in all of them.  Nothing here is locked or waits.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable

HELD_UP = 10.0  # seconds without a word of those in the store until the first goes on all the same
_EACH = 0.01  # seconds that each one in line looks later after that

Key = tuple[str, str]  # uid of the space, key


class InLine:
    """Somebody in line.  `ahead`: how many came before; `going`: it may join the store's queue."""

    def __init__(self, keys: list[Key], wake: Callable[[], None], ahead: int) -> None:
        self.keys = keys
        self.wake = wake
        self.ahead = ahead
        self.going = False
        self.look_after = HELD_UP + ahead * _EACH  # seconds


class Lines:
    """All lines; `is_full` says of a key whether enough stand in its queue in the store."""

    def __init__(self, is_full: Callable[[Key], bool]) -> None:
        self._is_full = is_full
        self._lines: dict[Key, OrderedDict[int, InLine]] = {}
        self._heard: dict[Key, float] = {}
        self._numbers: dict[InLine, int] = {}
        self._count = itertools.count()

    def stand(self, keys: list[Key], wake: Callable[[], None]) -> InLine | None:
        """Join the lines of `keys`; None where nobody need wait."""
        if not any(key in self._lines or self._is_full(key) for key in keys):
            return None
        place = InLine(keys, wake, max(len(self._lines.get(key, ())) for key in keys))
        number = self._numbers[place] = next(self._count)
        for key in keys:
            self._lines.setdefault(key, OrderedDict())[number] = place
            self._heard.setdefault(key, time.monotonic())
        return place

    def leave(self, place: InLine) -> None:
        """Leave all lines."""
        number = self._numbers.pop(place)
        for key in place.keys:
            line = self._lines[key]
            del line[number]
            if not line:
                del self._lines[key], self._heard[key]

    def next(self, key: Key) -> InLine | None:
        """Return the first in line for a key if it may go on, in all its lines."""
        place = self._first(key)
        if place is None or any(
            self._is_full(each) or self._first(each) is not place for each in place.keys
        ):
            return None
        return place

    def heard(self, key: Key) -> None:
        """Somebody of this process has had an answer from the store's queue of a key."""
        if key in self._heard:
            self._heard[key] = time.monotonic()

    def held_up(self, keys: list[Key]) -> InLine | None:
        """Return the first in a line whose predecessors seem to be dead: their programs were
        dropped as they were."""
        now = time.monotonic()
        for key in keys:
            if now - self._heard.get(key, now) > HELD_UP:
                self._heard[key] = now
                return self._first(key)
        return None

    def _first(self, key: Key) -> InLine | None:
        line = self._lines.get(key)
        return next(iter(line.values())) if line else None
