"""What is true at one point of a path: what names hold, which locks are held, what was decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from interlock.audit.value import Flow, Read, Value, merged


class Condition(NamedTuple):
    """A test that decided that this point is reached, and what the other branch does."""

    flows: frozenset[Flow]
    names: frozenset[str]  # the variables in the test
    line: int
    answers: frozenset[Read]  # whose data the other branch returns
    refuses: bool  # the other branch ends: raise, return, continue, break
    compares: bool = False  # with something other than None


@dataclass(slots=True)
class State:
    """One point of a path."""

    env: dict[str, Value]
    heap: dict[str, Value]
    held: frozenset[str] = frozenset()
    conditions: tuple[Condition, ...] = ()
    watched: frozenset[str] = frozenset()
    tick: int = 0  # waits so far
    slow: int = 0  # sleeps and calls of models so far
    dead: bool = False

    def fork(self) -> State:
        """Return a copy for a branch."""
        return State(
            dict(self.env),
            dict(self.heap),
            self.held,
            self.conditions,
            self.watched,
            self.tick,
            self.slow,
            self.dead,
        )

    def become(self, states: list[State], where: int) -> None:
        """Be the point where branches meet again."""
        alive = [each for each in states if not each.dead]
        self.tick = max((each.tick for each in states), default=self.tick)
        self.slow = max((each.slow for each in states), default=self.slow)
        if not alive:
            self.dead = True
            return
        self.dead = False
        if len(alive) == 1:
            only = alive[0]
            self.env, self.heap = only.env, only.heap
            self.held, self.watched = only.held, only.watched
            return
        self.env = _join([each.env for each in alive], where)
        self.heap = _join([each.heap for each in alive], where)
        self.held = frozenset.intersection(*(each.held for each in alive))
        self.watched = frozenset().union(*(each.watched for each in alive))


def _join(maps: list[dict[str, Value]], where: int) -> dict[str, Value]:
    first = maps[0]
    result = dict(first)
    for other in maps[1:]:
        for name, value in other.items():
            if name not in result:
                result[name] = value
            elif result[name] is not value and result[name] != value:
                result[name] = merged([result[name], value], f"{name}~{where}")
    return result
