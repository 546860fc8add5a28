"""What to simulate: how many agents, how long they think, when they arrive.  All from one seed.

Pure: the same settings give the same times in every process.  Running lives in `runner`.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from typing import NamedTuple

LONGEST = 3600.0  # seconds that one thought may take

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m)", re.ASCII)
_MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x?", re.ASCII)


class Settings(NamedTuple):
    """What to simulate.  `think` is a range in seconds.

    `arrivals` lets agents come one after the other, at that multiple of the rate at which their
    keys can be served; None starts all at once.
    """

    agents: int = 100
    think: tuple[float, float] = (0.02, 0.06)
    keys: int = 1
    writes: int = 1
    seed: int = 1
    arrivals: float | None = None
    threads: bool = False

    def key_of(self, agent: int) -> str:
        """Return the key that an agent writes."""
        return f"document/{agent % self.keys}"

    def used_keys(self) -> list[str]:
        """Return the keys that have an agent, sorted."""
        return sorted({self.key_of(agent) for agent in range(self.agents)})

    def think_time(self, agent: int, write: int) -> float:
        """Return the seconds an agent thinks about one contribution; the same in every pattern."""
        return random.Random(f"{self.seed}/{agent}/{write}").uniform(*self.think)

    def arrival_times(self) -> tuple[float, ...]:
        """Return when each agent begins, in seconds after the start: steadily, in seeded order."""
        if self.arrivals is None:
            return (0.0,) * self.agents
        order = list(range(self.agents))
        random.Random(f"{self.seed}/arrivals").shuffle(order)
        gap = self.writes * sum(self.think) / 2 / self.arrivals / self.keys
        return tuple(place * gap for place in order)

    def lower_bound(self) -> float:
        """Return the seconds that the busiest key needs, with one thought per contribution.

        Its agents think one after the other, each as soon as it is there and the one before is
        done.  Without `arrivals` that is the sum of their think times.
        """
        done: dict[str, float] = defaultdict(float)
        for arrival, agent in sorted(zip(self.arrival_times(), range(self.agents), strict=True)):
            work = sum(self.think_time(agent, write) for write in range(self.writes))
            key = self.key_of(agent)
            done[key] = max(done[key], arrival) + work
        return max(done.values())


def parse_think(text: str) -> tuple[float, float]:
    """Return the range, in seconds, that `50ms`, `0.2s` or `20ms-60ms` names.

    Raises ValueError with what is wrong and what would be right.
    """
    found = [_DURATION.fullmatch(part.strip()) for part in text.split("-")]
    times = [float(match[1]) * _UNITS[match[2]] for match in found if match]
    if len(times) != len(found) or len(times) > 2:
        raise ValueError(
            f"{text!r} is not a duration such as 50ms or 0.2s, or a range such as 20ms-60ms "
            "(units: us, ms, s, m)"
        )
    if times[0] > times[-1]:
        raise ValueError(f"{text!r} begins with the longer duration; write the shorter one first")
    if times[-1] > LONGEST:
        raise ValueError(f"{text!r} is longer than one thought may be, {LONGEST / 60:g}m")
    return times[0], times[-1]


def parse_multiple(text: str) -> float:
    """Return the number that `2x` or `0.5` names.  Raises ValueError."""
    match = _MULTIPLE.fullmatch(text.strip())
    if match is None or not 0.001 <= float(match[1]) <= 1000:
        raise ValueError(f"{text!r} is not a multiple such as 2x or 0.5x (0.001x to 1000x)")
    return float(match[1])
