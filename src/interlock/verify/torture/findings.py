"""What a check found, counted by name, with examples."""

from __future__ import annotations

from collections import Counter

_EXAMPLES = 3  # of each name

LOST_WRITE = "acknowledged and lost"
TWICE = "applied twice"
REFUSED_WRITE = "refused and applied"


class Findings:
    """Anomalies by name, each with a few examples; and what could not be decided."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}
        self.undecided: list[str] = []

    def add(self, name: str, example: str, count: int = 1) -> None:
        """Count an anomaly."""
        self.counts[name] += count
        shown = self.examples.setdefault(name, [])
        if len(shown) < _EXAMPLES:
            shown.append(example)
