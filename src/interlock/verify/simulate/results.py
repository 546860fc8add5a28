"""What a simulation measured, and what it means in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Thought(NamedTuple):
    """One thought of an agent: seconds since the start, and how it ended.

    `ended` is `kept`, `lost` (acknowledged, yet gone in the end) or `wasted` (refused).
    """

    agent: int
    began: float
    over: float
    ended: str


class Result(NamedTuple):
    """One pattern's run.  Times in seconds; `thoughts` is the average per agent."""

    pattern: str
    agents: int
    acknowledged: int
    kept: int
    lost: int
    failed: int
    thoughts: float
    seconds: float
    lower_bound: float
    timeline: tuple[Thought, ...]
    errors: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `interlock simulate --json` prints."""
        return {
            "pattern": self.pattern,
            "agents": self.agents,
            "acknowledged": self.acknowledged,
            "kept": self.kept,
            "lost": self.lost,
            "failed": self.failed,
            "thoughts": round(self.thoughts, 3),
            "seconds": round(self.seconds, 3),
        }

    def sentence(self) -> str:
        """Say in one sentence what happened."""
        took = f"{self.seconds:.1f} s, {self.seconds / self.lower_bound:.2f}x the serial time"
        if self.lost:
            return (
                f"{self.lost} of {self.acknowledged} acknowledged writes are gone, "
                "and every one of their agents was told that it had succeeded."
            )
        if self.failed:
            return (
                f"nothing acknowledged was lost, but {self.failed} of {self.agents} agents failed "
                f"after {self.thoughts:.1f} thoughts each on average."
            )
        if self.thoughts <= 1:
            return f"nothing was lost: one thought each, one agent at a time ({took})."
        return f"nothing was lost and nobody failed: {self.thoughts:.2f} thoughts each ({took})."
