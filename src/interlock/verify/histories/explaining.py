"""Says why the operations on one key cannot be ordered: just-in-time linearization.

It walks the events with the set of all configurations that are possible so far, and so finds the
first completion that none of them survives: Lowe, "Testing for Linearizability" (2017).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from interlock.verify.histories.registers import Key, Placed, Register
from interlock.verify.histories.searching import search
from interlock.verify.histories.verdicts import Anomaly

NAME = "not linearizable"
_WORK = 500_000  # attempts to place an operation, for finding the completion that fails
_TRIAL = 10_000  # steps for asking whether an operation is needed
_TRIALS = 200_000  # steps for all such questions about one key
_SHOWN = 12  # operations in an explanation
_STATES = 4  # shown in an explanation
_NAMED = 3  # operations named in its first sentence

Configuration = tuple[Register, frozenset[int]]


class Blocked(NamedTuple):
    """The first operation that fails: `at` its place among the key's.

    `certain` is the last state that was certain before it began, `since` the operations that had
    not completed then or came later, `states` those that the operation could meet.
    """

    at: int
    certain: Register
    since: list[int]
    states: list[Register]


def explain(key: Key) -> Anomaly:
    """Return the anomaly of a key whose operations cannot be ordered."""
    blocked = _blocked(key)
    if blocked is None:
        text = f"its {len(key.placed)} operations cannot be ordered; too many orders to say why"
        return Anomaly(NAME, (key.name,), (), (), text)
    failing = key.placed[blocked.at]
    needed = _needed(key, blocked)[-_SHOWN:]
    shown = {id(p): p for p in (*needed, *_origins(key, blocked, failing), failing)}
    operations = sorted((p.operation for p in shown.values()), key=lambda each: each.invoked)
    states = sorted({key.told(state) for state in blocked.states})
    could = " or ".join(states[:_STATES]) + (" or ..." if len(states) > _STATES else "")
    text = f"{_name(failing)} fits nowhere between its beginning and its end"
    if needed:
        few = len(needed) <= _NAMED
        others = " and ".join(map(_name, needed)) if few else f"{len(needed)} others"
        text += f" if {others} fit{'s' * (len(needed) == 1)}, too"
    text += f"; {key.name} was {could} then"
    return Anomaly(NAME, (key.name,), tuple(operations), (), text)


def _name(placed: Placed) -> str:
    return placed.operation.id or f"line {placed.operation.line}"


def _blocked(key: Key) -> Blocked | None:
    """Return the first completion that no configuration survives, None where that is too much."""
    placed = key.placed
    events = [(each.invoked, 0, n) for n, each in enumerate(placed)]
    events += [(each.completed, 1, n) for n, each in enumerate(placed) if each.completed < math.inf]
    walk = _Walk(key)
    begun = 0
    certain = [(key.start, list[int](), 0)]  # states; who was open then; how many had begun
    met: list[tuple[float, set[Configuration]]] = []
    for time, ended, number in sorted(events):
        if not ended:
            walk.open[number] = placed[number]
            begun += 1
            continue
        reached = walk.complete(number)
        if reached is None:
            return None
        met.append((time, reached))
        if not walk.configurations:
            began = placed[number].invoked
            could = [each for at, these in met if at >= began for each in these]
            states = {state for state, linearized in could if number not in linearized}
            # The last before it began: what overlaps with it may be the reason.
            start, still, later = next(each for each in reversed(certain) if each[2] <= number)
            return Blocked(number, start, [*still, *range(later, len(placed))], list(states))
        if len(walk.configurations) == 1:
            (state, linearized) = next(iter(walk.configurations))
            if all(placed[each].completed == math.inf for each in linearized):
                still = [each for each in walk.open if each not in linearized]
                certain.append((state, still, begun))
        running = (each.invoked for each in walk.open.values() if each.completed < math.inf)
        first = min(running, default=time)
        met = [each for each in met if each[0] >= first]
    raise AssertionError(f"the operations on {key.name} can be ordered after all")


class _Walk:
    """The configurations that are possible so far: a state, and who took effect and is open."""

    def __init__(self, key: Key) -> None:
        self.step = key.step
        self.open: dict[int, Placed] = {}
        self.configurations: set[Configuration] = {(key.start, frozenset())}
        self.work = 0

    def complete(self, number: int) -> set[Configuration] | None:
        """Go past the completion of an operation; return what was reached before it.

        Returns None where that is too much work.
        """
        reached: set[Configuration] = set()
        kept: set[Configuration] = set()
        todo = list(self.configurations)
        while todo:
            configuration = self._settled(todo.pop())
            if configuration in reached:
                continue
            reached.add(configuration)
            state, linearized = configuration
            if number in linearized:
                kept.add((state, linearized - {number}))
                continue
            for other, placed in self.open.items():
                if other not in linearized and state[0] <= placed.last:
                    self.work += 1
                    after = self.step(state, placed)
                    if after is not None and (after != state or placed.completed < math.inf):
                        todo.append((after, linearized | {other}))
            if self.work > _WORK:
                return None
        del self.open[number]
        self.configurations = kept
        return reached

    def _settled(self, configuration: Configuration) -> Configuration:
        """Let all reads take effect that can: it changes nothing for the others."""
        state, linearized = configuration
        idle = [
            number
            for number, placed in self.open.items()
            if not placed.makes and number not in linearized and self.step(state, placed) == state
        ]
        self.work += len(self.open)
        return state, linearized.union(idle) if idle else linearized


def _needed(key: Key, blocked: Blocked) -> list[Placed]:
    """Return few operations without whose answers the failing one could be placed.

    An operation is not needed where the rest cannot be ordered even if it took effect at any
    time after its invocation, or never.
    """
    failing = key.placed[blocked.at]
    after: dict[int, Placed] = {}
    for number in blocked.since:
        each = key.placed[number]
        if each.invoked <= failing.completed:
            late = each.completed > failing.completed
            after[number] = each._replace(completed=math.inf) if late else each
    relaxed = _Relaxing(key._replace(start=blocked.certain), after)
    relaxed.relax([n for n, p in after.items() if n != blocked.at and p.completed < math.inf])
    return [key.placed[number] for number in relaxed.needed]


class _Relaxing:
    """Finds which of some operations are needed for their not being ordered, by halving."""

    def __init__(self, key: Key, placed: dict[int, Placed]) -> None:
        self.key = key
        self.placed = placed
        self.needed: list[int] = []
        self.steps = 0

    def relax(self, numbers: list[int]) -> None:
        """Let operations take effect late or never, as many of these as may be."""
        trial = dict(self.placed)
        for number in numbers:
            if trial[number].makes:
                trial[number] = trial[number]._replace(completed=math.inf)
            else:
                del trial[number]
        if self.steps > _TRIALS:
            self.needed += numbers
            return
        rest = self.key._replace(placed=sorted(trial.values(), key=lambda each: each.invoked))
        found = search(rest, _TRIAL)
        self.steps += found.steps
        if found.ordered is False:
            self.placed = trial
        elif len(numbers) == 1:
            self.needed += numbers
        else:
            half = len(numbers) // 2
            self.relax(numbers[:half])
            self.relax(numbers[half:])


def _origins(key: Key, blocked: Blocked, failing: Placed) -> list[Placed]:
    """Return who made what the failing operation saw, and who made the last certain state."""
    version, exact, value = blocked.certain
    wanted = [*failing.sees, (version if exact else None, value)]
    found = []
    for seen in wanted:
        seen_version, seen_value = seen[0] or None, seen[1]  # nobody makes version 0
        for each in key.placed:
            if each is not failing and any(
                (seen_version is not None and made_version == seen_version)
                or (seen_version is None and seen_value is not None and made_value == seen_value)
                for made_version, made_value in each.makes
            ):
                found.append(each)
                break
    return found
