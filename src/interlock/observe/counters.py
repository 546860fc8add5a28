"""What is counted of one space in this process, while it goes on; `metrics` shows it."""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

T = TypeVar("T")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
THOUGHTS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0)
LENGTHS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
AGENTS = 100  # counted by name; what others do is counted together
OTHERS = "(others)"
SPACES = 100  # counted by name
_GATHERED = 500  # commits that are counted together: faster, and with one lock
_LEASES = 10_000  # whose age is known
_SUMS = ("reclaims", "reconnects", "thought_commits", "thoughts", "busy_seconds", "lost_seconds")
_HISTOGRAMS = (
    "commit_seconds",
    "thoughts_per_commit",
    "turn_seconds",
    "queue_lengths",
    "lease_seconds",
)


class Histogram:
    """Counts numbers by the first of `bounds` that they do not exceed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, number: float) -> None:
        """Count one number."""
        self.counts[bisect_left(self.bounds, number)] += 1
        self.sum += number

    def merge(self, other: Histogram) -> None:
        """Count what another one of the same bounds has counted, too."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Counters:
    """The counts of one space.  `lock` is for whoever changes them, `counted` for who reads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a protocol that the garbage collector ends counts, too
        self.commits: dict[str, int] = {}  # by agent, as all that follow
        self.refusals: Counter[tuple[str, str]] = Counter()  # and by the name of the refusal
        self.faults: Counter[str] = Counter()  # by the name of the fault
        self.reclaims = 0
        self.reconnects = 0
        self.thought_commits = 0
        self.thoughts = 0  # all of them, whatever came of them
        self.busy_seconds = 0.0  # in updates and transactions
        self.lost_seconds = 0.0  # of these, in thoughts that were refused, and waiting for turns
        self.commit_seconds = Histogram(SECONDS)
        self.thoughts_per_commit = Histogram(THOUGHTS)
        self.turn_seconds = Histogram(SECONDS)
        self.queue_lengths = Histogram(LENGTHS)
        self.lease_seconds = Histogram(SECONDS)  # of leases that ended
        self.waiting: set[object] = set()  # who waits for a turn or a lease now
        self.leases: dict[tuple[str, int], float] = {}  # since when they are held
        self._commits: deque[tuple[str, float]] = deque()  # not counted yet
        self._thoughts: deque[tuple[int, bool, float, float]] = deque()  # the same

    def agent(self, name: str) -> str:
        """Return the name that an agent is counted under: there are never more than `AGENTS`."""
        if name in self.commits:
            return name
        name = name if len(self.commits) < AGENTS else OTHERS
        self.commits.setdefault(name, 0)
        return name

    def merge(self, other: Counters) -> None:
        """Count what another one has counted, too, but for what only holds now."""
        with other.counted():
            for agent, commits in other.commits.items():
                self.commits[self.agent(agent)] += commits
            for (agent, reason), count in other.refusals.items():
                self.refusals[self.agent(agent), reason] += count
            self.faults.update(other.faults)
            for name in _SUMS:
                setattr(self, name, getattr(self, name) + getattr(other, name))
            for name in _HISTOGRAMS:
                getattr(self, name).merge(getattr(other, name))

    def committed(self, agent: str, seconds: float) -> None:
        """Count a commit, soon: this is on the path of every write."""
        self._commits.append((agent, seconds))
        if len(self._commits) >= _GATHERED:
            with self.lock:
                self._count()

    def refused(self, agent: str, reason: str) -> None:
        """Count a refusal."""
        with self.lock:
            self.refusals[self.agent(agent), reason] += 1

    def thought(self, thoughts: int, committed: bool, busy: float, lost: float) -> None:
        """Count an update or a transaction that has ended, soon."""
        self._thoughts.append((thoughts, committed, busy, lost))
        if len(self._thoughts) >= _GATHERED:
            with self.lock:
                self._count()

    def _count(self) -> None:
        """Count what was gathered; `lock` is held."""
        for agent, seconds in _taken(self._commits):
            self.commits[self.agent(agent)] += 1
            self.commit_seconds.add(seconds)
        for thoughts, committed, busy, lost in _taken(self._thoughts):
            self.thoughts += thoughts
            self.busy_seconds += busy
            self.lost_seconds += lost
            if committed:
                self.thought_commits += 1
                self.thoughts_per_commit.add(thoughts)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A block in which everything is counted, and nothing changes."""
        with self.lock:
            self._count()
            yield

    def took_turn(self, ahead: int, seconds: float) -> None:
        """Count a turn that somebody waited for, who found so many `ahead`."""
        with self.lock:
            self.queue_lengths.add(ahead)
            self.turn_seconds.add(seconds)

    def reclaimed(self) -> None:
        """Count a lease that was taken away, or a name that was taken over."""
        with self.lock:
            self.reclaims += 1

    def reconnected(self) -> None:
        """Count a request that was answered when it was sent again."""
        with self.lock:
            self.reconnects += 1

    def failed(self, reason: str) -> None:
        """Count a fault."""
        with self.lock:
            self.faults[reason] += 1

    def took_lease(self, key: str, epoch: int, now: float) -> None:
        """Go by a lease from now on."""
        with self.lock:
            if len(self.leases) < _LEASES:
                self.leases[key, epoch] = now

    def lost_lease(self, key: str, epoch: int, now: float) -> None:
        """A lease was given up, or is lost."""
        with self.lock:
            since = self.leases.pop((key, epoch), None)
            if since is not None:
                self.lease_seconds.add(now - since)


def _taken(items: deque[T]) -> Iterator[T]:
    """Take out what is there, whoever else does."""
    with suppress(IndexError):
        for _ in range(len(items)):
            yield items.popleft()


class Totals:
    """The counts of all spaces of the process, by name, those that are closed included."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, tuple[str, Counters]] = {}
        self._closed: dict[str, Counters] = {}
        self._gone: deque[int] = deque()  # those that are to be moved from `_open` to `_closed`

    def add(self, owner: object, space: str, counters: Counters) -> Callable[[], object]:
        """Count a space that was opened; return what to call when it is closed.

        Where nobody does, it counts as closed once `owner` is gone.
        """
        with self._lock:
            self._sweep()
            self._open[id(counters)] = space, counters
        # It may be called at any moment, in whatever thread: so it only takes note.
        closing = weakref.finalize(owner, self._gone.append, id(counters))
        closing.atexit = False
        return closing

    def by_space(self) -> dict[str, Counters]:
        """Return the counts as they are now, by the names of the spaces: a copy."""
        with self._lock:
            self._sweep()
            found: dict[str, Counters] = {}
            # Those that are open first: only so many have their names.
            for space, counters in (*self._open.values(), *self._closed.items()):
                total = self._total(found, space)
                total.merge(counters)
                total.waiting |= counters.waiting
                total.leases.update(counters.leases)
            return found

    def _sweep(self) -> None:
        while self._gone:
            space, counters = self._open.pop(self._gone.popleft())
            self._total(self._closed, space).merge(counters)

    @staticmethod
    def _total(totals: dict[str, Counters], space: str) -> Counters:
        name = space if space in totals or len(totals) < SPACES else OTHERS
        return totals.setdefault(name, Counters())


TOTALS = Totals()
