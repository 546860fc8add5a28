"""Stale reads of one key: its writes indexed by time, and the reads that a write made stale."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from json.encoder import encode_basestring
from typing import NamedTuple

from interlock import Json

_FEW = 8  # writes, that are looked at one by one
_encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


class Texts:
    """JSON texts of values, one object for each: two values are the same if their texts are.

    1, 1.0 and true are three values; the order of an object's keys says nothing.
    """

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def same(self, text: str) -> str:
        """Return the one object that stands for a text."""
        return self._known.setdefault(text, text)

    def of(self, value: Json) -> str:
        """Return the text of a value."""
        kind = type(value)
        if kind is str:
            return self.same(encode_basestring(value))
        return self.same(str(value) if kind is int else _encoder.encode(value))


class Stale(NamedTuple):
    """A stale read: the first write in its window that made it so, and how many did."""

    reader: int
    read_time: float
    writer: int
    value_read: str
    value_written: str
    writes: int


class Uses:
    """Who read and wrote one key, by the place of the operation in its session."""

    __slots__ = ("_moments", "_readers", "_values_read", "_values_written", "_writers")

    def __init__(self) -> None:
        self._readers = array("q")
        self._values_read: list[str] = []
        self._moments: dict[int, float] = {}
        self._writers = array("q")
        self._values_written: list[str] = []

    def read(self, at: int, value: str, moment: float | None) -> None:
        """Note that an operation read `value`, at another moment than the rest where it says so."""
        if moment is not None:
            self._moments[at] = moment
        self._readers.append(at)
        self._values_read.append(value)

    def wrote(self, at: int, value: str) -> None:
        """Note that an operation wrote `value`."""
        self._writers.append(at)
        self._values_written.append(value)

    def stale(self, times: list[tuple[float, float]], agents: list[str]) -> Iterator[Stale]:
        """Yield the stale reads, given each operation's times (read, write) and agent."""
        if not self._readers or not self._writers:
            return
        order = sorted(range(len(self._writers)), key=lambda n: (times[self._writers[n]][1], n))
        writes = _Writes(
            [self._writers[n] for n in order], [self._values_written[n] for n in order], agents
        )
        written = [times[at][1] for at in writes.at]
        for reader, value in zip(self._readers, self._values_read, strict=True):
            read_time, write_time = times[reader]
            read_time = self._moments.get(reader, read_time)
            start, end = bisect_right(written, read_time), bisect_left(written, write_time)
            count = writes.guilty(start, end, agents[reader], value) if start < end else 0
            if count:
                first = writes.first(start, end, agents[reader], value)
                yield Stale(reader, read_time, writes.at[first], value, writes.values[first], count)


class _Writes:
    """The writes of a key in the order of time.

    Those by another agent and of another value are counted without looking at each: all, less
    those of the agent, less those of the value, and those of both added again.
    """

    def __init__(self, at: list[int], values: list[str], agents: list[str]) -> None:
        self.at = at
        self.values = values
        self._agents = [agents[writer] for writer in at]
        self._places: dict[tuple[int | str, ...], list[int]] | None = None

    def guilty(self, start: int, end: int, agent: str, value: str) -> int:
        """Return how many writes from `start` to before `end` are of another agent and value."""
        if end - start <= _FEW:
            return sum(
                self._agents[place] != agent and self.values[place] != value
                for place in range(start, end)
            )
        if self._places is None:
            self._places = self._placed()
        total = end - start
        for kind, sign in (((0, agent), -1), ((1, value), -1), ((2, agent, value), 1)):
            places = self._places.get(kind)
            if places is not None:
                total += sign * (bisect_left(places, end) - bisect_left(places, start))
        return total

    def first(self, start: int, end: int, agent: str, value: str) -> int:
        """Return the place of the first of them; there is one."""
        beyond = end
        while start + 1 < beyond:
            if self._agents[start] != agent and self.values[start] != value:
                break
            middle = (start + beyond) // 2
            if self.guilty(start, middle, agent, value):
                beyond = middle
            else:
                start = middle
        return start

    def _placed(self) -> dict[tuple[int | str, ...], list[int]]:
        places: dict[tuple[int | str, ...], list[int]] = {}
        for place, (agent, value) in enumerate(zip(self._agents, self.values, strict=True)):
            for kind in ((0, agent), (1, value), (2, agent, value)):
                places.setdefault(kind, []).append(place)
        return places
