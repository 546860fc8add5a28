"""What agents report, what a simulation measured, and what it means in one sentence.  Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

from interlock.verify.simulate.settings import Settings


class Ready(NamedTuple):
    """An agent is connected and waits for the start."""

    agent: int


class Thought(NamedTuple):
    """One thought of an agent; seconds."""

    agent: int
    began: float
    over: float


class Acknowledged(NamedTuple):
    """The store, or the pattern, told the agent that its item is written."""

    agent: int
    item: str
    at: float


class Ended(NamedTuple):
    """An agent stopped; `error` says why it failed, None where it did everything."""

    agent: int
    error: str | None
    at: float


class Mark(NamedTuple):
    """A moment in an agent's life.  `what` is `kept`, `lost` or `failed`."""

    agent: int
    at: float
    what: str


Event = Ready | Thought | Acknowledged | Ended


class Result(NamedTuple):
    """One pattern's run.  Times in seconds since the start; `thoughts` is the average per agent.

    `errors` counts the failed agents by what stopped them; `arrivals`, `timeline` and `marks` are
    each agent's life.
    """

    pattern: str
    agents: int
    acknowledged: int
    kept: int
    lost: int
    failed: int
    thoughts: float
    seconds: float
    lower_bound: float
    errors: Mapping[str, int]
    arrivals: tuple[float, ...]
    timeline: tuple[Thought, ...]
    marks: tuple[Mark, ...]

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

    def wall_time(self) -> str:
        """Say how long it took, and how that compares with one agent after the other."""
        digits = 2 if self.seconds < 1 else 1 if self.seconds < 100 else 0
        took = f"{self.seconds:.{digits}f} s"
        return f"{took} ({self.seconds / self.lower_bound:.2f}x)" if self.lower_bound else took

    def most_at_once(self) -> int:
        """Return how many agents were thinking at the same time, at most."""
        changes = [(thought.began, 1) for thought in self.timeline]
        changes += [(thought.over, -1) for thought in self.timeline]
        now = most = 0
        for _, change in sorted(changes):
            now += change
            most = max(most, now)
        return most

    def sentence(self) -> str:
        """Say in one sentence what happened."""
        failed = f"{self.failed} of {self.agents} agents failed"
        if self.lost:
            told = f"{self.lost} of {self.acknowledged} acknowledged writes are gone, and the "
            told += "agents that made them were told that they had succeeded"
            return f"{told}; {failed}." if self.failed else f"{told}."
        if self.failed:
            return (
                f"nothing acknowledged was lost, but {failed}; "
                f"each agent thought {self.thoughts:.2f} times on average."
            )
        took = f"in {self.wall_time().partition(' (')[0]}"
        if self.lower_bound:
            took += f", {self.seconds / self.lower_bound:.2f} times the serial time"
        if self.most_at_once() == 1 < self.agents:
            how = "never more than one agent thought at a time"
        else:
            how = f"each agent thought {self.thoughts:.2f} times on average"
        return f"nothing was lost and nobody failed; {how}, {took}."


def score(
    pattern: str, settings: Settings, events: Iterable[Event], released: float, kept: Set[str]
) -> Result:
    """Return the result of one run.

    `events`: what the agents reported, with the clock's times; `released`: that clock's time at
    the start; `kept`: the items that the store holds in the end.
    """
    events = list(events)
    acknowledged = [event for event in events if isinstance(event, Acknowledged)]
    ended = [event for event in events if isinstance(event, Ended)]
    items = {event.item for event in acknowledged}
    marks = [
        Mark(event.agent, event.at - released, "kept" if event.item in kept else "lost")
        for event in acknowledged
    ]
    marks += [
        Mark(event.agent, max(event.at - released, 0.0), "failed")  # it may fail before the start
        for event in ended
        if event.error is not None
    ]
    timeline = tuple(
        Thought(event.agent, event.began - released, event.over - released)
        for event in events
        if isinstance(event, Thought)
    )
    return Result(
        pattern=pattern,
        agents=settings.agents,
        acknowledged=len(items),
        kept=len(items & kept),
        lost=len(items - kept),
        failed=sum(event.error is not None for event in ended),
        thoughts=len(timeline) / settings.agents,
        seconds=max((mark.at for mark in marks), default=0.0),
        lower_bound=settings.lower_bound(),
        errors=Counter(event.error for event in ended if event.error is not None),
        arrivals=settings.arrival_times(),
        timeline=timeline,
        marks=tuple(marks),
    )
