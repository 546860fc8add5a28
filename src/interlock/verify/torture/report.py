"""What a run of torture says at the end."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Any, NamedTuple

from interlock.verify.torture.findings import LOST_WRITE, TWICE

LONG = 0.5  # seconds without an acknowledgement that count as unavailable


class Report(NamedTuple):
    """The figures and findings of one run.

    `anomalies` are counts by name, `examples` a few of each; `away` is the longest time without
    any acknowledgement, `away_in_all` the sum of those above half a second, in seconds.
    `missing` says which faults were not possible, and why.
    """

    seed: int
    space: str
    store: str
    operations: int
    workers: int
    kinds: dict[str, int]
    outcomes: dict[str, int]
    reasons: dict[str, int]
    commits: int
    doubtful: int
    doubtful_applied: int
    entries: int
    faults: dict[str, int]
    missing: dict[str, str]
    crashes: int
    away: float
    away_in_all: float
    seconds: float
    checked_in: float
    anomalies: dict[str, int]
    examples: dict[str, list[str]]
    undecided: list[str]

    @property
    def verdict(self) -> str:
        """`ok`, `anomalies` or `undecided`, as of the checkers of histories."""
        return "anomalies" if self.anomalies else "undecided" if self.undecided else "ok"

    @property
    def rate(self) -> float:
        """Operations in a second."""
        return sum(self.outcomes.values()) / self.seconds

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {**self._asdict(), "verdict": self.verdict, "rate": round(self.rate, 1)}

    def headline(self) -> str:
        """Return the verdict in a line."""
        count = sum(self.outcomes.values())
        faults = sum(self.faults.values())
        if self.verdict == "undecided":
            return f"UNDECIDED {count:,} operations, {faults:,} faults: {self.undecided[0]}"
        if self.verdict == "anomalies":
            found = sum(self.anomalies.values())
            return f"FAIL {count:,} operations, {faults:,} faults: {found:,} anomalies"
        lost, twice = self.anomalies.get(LOST_WRITE, 0), self.anomalies.get(TWICE, 0)
        return (
            f"PASS {count:,} operations, {faults:,} faults: 0 anomalies, "
            f"{lost} acknowledged lost, {twice} applied twice"
        )


def gaps(times: array[float]) -> tuple[float, float]:
    """Return the longest time without an acknowledgement, and the sum of those that are long."""
    ordered = sorted(times)
    between = [later - earlier for earlier, later in pairwise(ordered)]
    return max(between, default=0.0), sum(gap for gap in between if gap >= LONG)
