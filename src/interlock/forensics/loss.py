"""What is found in a history: lost updates, with how sure that is, and overlapping writes."""

from __future__ import annotations

from dataclasses import dataclass

from interlock import Json
from interlock.core.records import as_datetime
from interlock.forensics.changes import Fact

CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"
STALE, FRESH, UNKNOWN = "stale", "fresh", "unknown"


@dataclass(slots=True, eq=False)
class Loss:
    """A lost update: what `lost_agent` wrote at `lost_position` is gone since `agent` wrote.

    `facts` are the lost part, `certainty` is `certain`, `likely` or `possible`, and `why` says so.
    `base`: the position of the write that the overwriting one was computed from (0: none that the
    source shows; None: not known).  `restored`: the position of the write that brought it back,
    where the loss is more than possible.
    `raised`: both raised a number to the same value, so that one step is lost.
    """

    key: str
    position: int
    time_us: int
    agent: str
    lost_position: int
    lost_us: int
    lost_agent: str
    facts: tuple[Fact, ...]
    certainty: str
    why: str
    base: int | None = None
    restored: int | None = None
    raised: bool = False

    def to_json(self) -> dict[str, Json]:
        """Return the loss as an object."""
        return {
            "key": self.key,
            "certainty": self.certainty,
            "why": self.why,
            "agent": self.agent or None,
            "position": self.position,
            "time": as_datetime(self.time_us).isoformat(),
            "lost_agent": self.lost_agent or None,
            "lost_position": self.lost_position,
            "lost_time": as_datetime(self.lost_us).isoformat(),
            "lost": [fact.to_json() for fact in self.facts],
            "base": self.base,
            "restored": self.restored,
        }

    def __str__(self) -> str:
        lost = "; ".join(str(fact) for fact in self.facts) or self.why
        back = f" (back since {self.restored})" if self.restored else ""
        return (
            f"{self.key}: {self.agent or 'a writer'} at {self.position} overwrote what "
            f"{self.lost_agent or 'a writer'} wrote at {self.lost_position}: {lost}{back}"
        )


@dataclass(slots=True, eq=False)
class Overlap:
    """Two writes of one key by different agents: within the window, or the second without having
    read the first.

    `read`: what the second had read of the first: `stale` (not), `fresh`, `unknown`.
    `gap_us`: microseconds between the writes.
    """

    key: str
    position: int
    time_us: int
    agent: str
    other: str
    other_position: int
    gap_us: int
    read: str

    def to_json(self) -> dict[str, Json]:
        """Return the overlap as an object."""
        return {
            "key": self.key,
            "agent": self.agent or None,
            "other": self.other or None,
            "position": self.position,
            "other_position": self.other_position,
            "time": as_datetime(self.time_us).isoformat(),
            "gap_ms": self.gap_us / 1000,
            "read": self.read,
        }

    def __str__(self) -> str:
        had = {STALE: ", without having read it", FRESH: ", having read it", UNKNOWN: ""}[self.read]
        return (
            f"{self.key}: {self.agent or 'a writer'} wrote {self.gap_us / 1000:.1f} ms after "
            f"{self.other or 'a writer'}{had}"
        )
