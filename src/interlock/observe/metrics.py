"""The metrics of a space as they were at one moment: what `space.metrics()` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from interlock.observe.counters import Counters, Histogram


@dataclass(frozen=True)
class Distribution:
    """How often a number was at most each of `bounds`, and above the one before.

    The last of the `counts` is of the numbers above all bounds.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many numbers there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their average; 0.0 where there was none."""
        return self.sum / self.count if self.count else 0.0


@dataclass(frozen=True)
class Metrics:
    """What one space of this process did since it was opened.  Times are in seconds.

    `commits` and `refusals` are by agent, the latter by the name of the refusal within; after the
    first 100 agents the others are counted as one.  A refusal counts each time that the store or a
    rule refuses a commit, even where `update` thinks again and succeeds.  `thoughts` are the calls
    of functions of updates, transactions and steps of runs; `thought_commits` those that ended in a
    commit.  `turn_seconds` and `queue_lengths`: how long agents waited for their turns, and how
    many were ahead of them when they joined.  `lease_seconds`: how long leases were held that have
    ended; `lease_age`: for how long the oldest of the `leases` that are held now is.  `waiting`:
    how many wait for a turn or a lease now.  `busy_seconds` were spent in updates, transactions and
    steps, of these `lost_seconds` for nothing (see `throughput_impact`).  `hooks_left_out`: notices
    that no hook was given, because they came too fast.
    """

    space: str
    commits: dict[str, int]
    refusals: dict[str, dict[str, int]]
    faults: dict[str, int]
    reclaims: int
    reconnects: int
    thoughts: int
    thought_commits: int
    busy_seconds: float
    lost_seconds: float
    waiting: int
    leases: int
    lease_age: float
    commit_seconds: Distribution
    thoughts_per_commit: Distribution
    turn_seconds: Distribution
    queue_lengths: Distribution
    lease_seconds: Distribution
    hooks_left_out: int = 0

    @property
    def conflicts(self) -> int:
        """How many commits were refused because something had changed meanwhile."""
        return sum(of_agent.get("Conflict", 0) for of_agent in self.refusals.values())

    @property
    def conflict_rate(self) -> float:
        """The share of commits, tried or done, that met a conflict: `conflicts / (commits +
        conflicts)`; 0.0 where nothing was tried."""
        tried = sum(self.commits.values()) + self.conflicts
        return self.conflicts / tried if tried else 0.0

    @property
    def average_attempts(self) -> float:
        """How often a function was called for each commit of an update or a transaction, failed
        ones included: `thoughts / thought_commits`; 1.0 is the least, 0.0 where there was none."""
        return self.thoughts / self.thought_commits if self.thought_commits else 0.0

    @property
    def throughput_impact(self) -> float:
        """The share of the time in updates and transactions that conflicts cost: thoughts and
        commits that were refused, and waiting for turns (`lost_seconds / busy_seconds`).

        At 0.25 the same agents would do a third more without conflicts; 0.0 is the least.
        """
        return self.lost_seconds / self.busy_seconds if self.busy_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data, the three rates included."""
        rates = ("conflicts", "conflict_rate", "average_attempts", "throughput_impact")
        return asdict(self) | {name: getattr(self, name) for name in rates}


def metrics_of(space: str, counters: Counters, hooks_left_out: int = 0) -> Metrics:
    """Return what was counted so far."""
    with counters.counted():
        refusals: dict[str, dict[str, int]] = {}
        for (agent, reason), count in sorted(counters.refusals.items()):
            refusals.setdefault(agent, {})[reason] = count
        oldest = min(counters.leases.values(), default=None)
        return Metrics(
            space=space,
            commits=dict(counters.commits),
            refusals=refusals,
            faults=dict(counters.faults),
            reclaims=counters.reclaims,
            reconnects=counters.reconnects,
            thoughts=counters.thoughts,
            thought_commits=counters.thought_commits,
            busy_seconds=counters.busy_seconds,
            lost_seconds=counters.lost_seconds,
            waiting=len(counters.waiting),
            leases=len(counters.leases),
            lease_age=0.0 if oldest is None else perf_counter() - oldest,
            commit_seconds=_distribution(counters.commit_seconds),
            thoughts_per_commit=_distribution(counters.thoughts_per_commit),
            turn_seconds=_distribution(counters.turn_seconds),
            queue_lengths=_distribution(counters.queue_lengths),
            lease_seconds=_distribution(counters.lease_seconds),
            hooks_left_out=hooks_left_out,
        )


def _distribution(histogram: Histogram) -> Distribution:
    return Distribution(histogram.bounds, tuple(histogram.counts), histogram.sum)
