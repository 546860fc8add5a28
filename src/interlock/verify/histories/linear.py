"""Linearizability, key by key: can the operations be put in an order that respects real time?

That keys may be checked one by one is the locality of linearizability (Herlihy and Wing, 1990).

A key is a register: a version, which only grows, and a value.  Histories may record either or both,
so a state is `(version, exact, value)`: where `exact` is false the version is at least that one;
where `value` is None it is one that nobody has told yet, and the next who tells it settles it.

`search` looks for an order: the search of Wing and Gong ("Testing and Verifying Concurrent
Objects", 1993) with the memory of configurations of Lowe ("Testing for Linearizability", 2017) and
the linked list of events of Horn and Kroening ("Faster Linearizability Checking via
P-compositionality", 2015).

`explain` says why there is none, by just-in-time linearization (Lowe, 2017).  It walks the events
with the set of all configurations that are possible so far, and so finds the first completion that
none of them survives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from interlock.verify.histories.history import (
    ABSENT,
    APPEND,
    FAILED,
    OK,
    Anomaly,
    Operation,
    State,
    Verdict,
)

Value = int | tuple[int, ...]  # which of the values of the history, or the items of a list
Register = tuple[int, bool, Value | None]
Seen = tuple[int | None, Value | None]
Step = Callable[[Register, "Placed"], Register | None]


class Placed(NamedTuple):
    """An operation on one key, as the search sees it.

    It takes effect at one moment between `invoked` and `completed`; that is infinity where it
    may also never take effect.  `last` is the greatest version of the register at which it can.
    """

    invoked: float
    completed: float
    sees: tuple[Seen, ...]
    makes: tuple[Seen, ...]
    appends: bool
    last: float
    operation: Operation


class Key(NamedTuple):
    """The operations on one key, in the order of their invocations, and how to go on from a state.

    `texts` are the values, by their numbers.
    """

    name: str
    start: Register
    placed: list[Placed]
    step: Step
    texts: list[str]

    def told(self, state: Register) -> str:
        """Say a state in words."""
        version, exact, value = state
        text = None
        if isinstance(value, tuple):
            text = "[" + ",".join(self.texts[item] for item in value) + "]"
        elif value is not None:
            text = self.texts[value]
        if not version and (not exact or text != ABSENT):
            return str(State(None, text))
        told = str(State(version, text))
        return told if exact else f"at least {told}"


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """Return the operations on each key: those that happened, or may have."""
    keys: dict[str, list[Operation]] = {}
    for operation in history:
        if operation.outcome == FAILED:
            continue
        touched = dict.fromkeys(operation.reads)
        touched |= dict.fromkeys(operation.writes)
        for there in operation.scans.values():
            touched |= dict.fromkeys(there)
        for key in touched:
            # One that may not have happened and only read says nothing.
            if operation.outcome == OK or key in operation.writes:
                keys.setdefault(key, []).append(operation)
    return keys


class _Values:
    """Numbers the values of a key; lists by their items where the key is appended to."""

    def __init__(self, lists: bool) -> None:
        self.lists = lists
        self.numbers: dict[str, int] = {ABSENT: 0}
        self.known: dict[State, Seen] = {}

    def number(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def item(self, state: State) -> Seen:
        """Return an item that is appended."""
        return state.version, None if state.text is None else self.number(state.text)

    def seen(self, state: State) -> Seen:
        """Return a state of the key."""
        if state not in self.known:
            self.known[state] = state.version, self.value(state.text)
        return self.known[state]

    def value(self, text: str | None) -> Value | None:
        if text is None or not self.lists:
            return None if text is None else self.number(text)
        items = json.loads(text)
        if not isinstance(items, list):
            return self.number(text) if items is not None else ()
        return tuple(self.number(_text(item)) for item in items)


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def register(name: str, operations: list[Operation]) -> Key:
    """Return what the search needs to know of one key."""
    lists = any(operation.kind == APPEND for operation in operations)
    values = _Values(lists)
    versioned = False
    placed = []
    for operation in operations:
        sees = operation.reads.get(name, ())
        if operation.scans:
            sees += tuple(there[name] for there in operation.scans.values() if name in there)
        appends = operation.kind == APPEND
        seen = tuple([values.seen(state) for state in sees])
        writes = operation.writes.get(name, ())
        made = tuple([values.item(state) if appends else values.seen(state) for state in writes])
        last = math.inf
        for version, _ in seen:
            last = last if version is None else min(last, version)
        for version, _ in made:
            last = last if version is None else min(last, version - 1)
        versioned = versioned or last < math.inf
        completed = operation.completed
        if operation.outcome != OK or completed is None:
            completed = math.inf
        placed.append(Placed(operation.invoked, completed, seen, made, appends, last, operation))
    placed.sort(key=lambda each: each.invoked)
    step = _stepping(versioned)
    texts = list(values.numbers)
    return Key(name, (0, True, () if lists else 0), placed, step, texts)


def _stepping(versioned: bool) -> Step:
    """Return the step of a register; without versions it does not count them, either."""
    more = 1 if versioned else 0

    def step(state: Register, placed: Placed) -> Register | None:
        """Return the state after an operation, None where it cannot happen in `state`."""
        version, exact, value = state
        for seen_version, seen_value in placed.sees:
            if seen_version is not None:
                if seen_version != version and (exact or seen_version < version):
                    return None
                version, exact = seen_version, True
            if seen_value is not None:
                if value is None:
                    value = seen_value
                elif value != seen_value:
                    return None
        for made_version, made_value in placed.makes:
            if made_version is None:
                version, exact = version + more, exact and not more
            elif made_version <= version:
                return None
            else:
                version, exact = made_version, True
            if not placed.appends:
                value = made_value
            elif value is not None:
                # A value that is not a list has no items; a store that appends to it is wrong.
                if not isinstance(value, tuple) or not isinstance(made_value, int):
                    return None
                value = (*value, made_value)
        return version, exact, value

    return step


class Found(NamedTuple):
    """What a search found: whether there is an order, None where the budget ended it; its steps."""

    ordered: bool | None
    steps: int


def search(key: Key, budget: int) -> Found:
    """Search for an order of the operations on one key, by at most `budget` steps."""
    return _Search(key).run(budget)


class _Frame(NamedTuple):
    """A choice: what was placed without choosing, what may be placed next, and where we were."""

    state: Register
    done: int
    maybe: int
    lifted: list[int]
    choices: list[tuple[int, Register]]


class _Search:
    """A depth-first search over the events of one key, in a linked list.

    The list holds an entry for each invocation and for each completion, in the order of time; 0 is
    its head.  To place an operation is to lift its entries out.  What stands before the first
    completion left may be placed next.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.steps = 0
        times = [(each.invoked, 0, n) for n, each in enumerate(key.placed)]
        ends = [(p.completed, 1, n) for n, p in enumerate(key.placed) if p.completed < math.inf]
        # At equal times the invocation comes first: then neither precedes the other.
        events = sorted(times + ends)
        self.left = len(ends)
        self.next = list(range(1, len(events) + 2))
        self.before = list(range(-1, len(events) + 1))
        self.operations: list[Placed | None] = [None]
        self.bits = [0]
        counts = [0, 0]  # of those that may have happened, and of those that did
        bits = []
        for each in key.placed:
            happened = each.completed < math.inf
            bits.append(1 << counts[happened])
            counts[happened] += 1
        self.ends: list[int] = [0] * (len(events) + 1)
        called = [0] * len(times)
        for entry, (_, ended, number) in enumerate(events, 1):
            self.operations.append(None if ended else key.placed[number])
            self.bits.append(bits[number])
            if ended:
                self.ends[called[number]] = entry
            else:
                called[number] = entry

    def lift(self, entry: int) -> None:
        following, before = self.next, self.before
        for each in (entry, self.ends[entry]):
            if each:
                following[before[each]] = following[each]
                before[following[each]] = before[each]
        self.left -= self.ends[entry] > 0

    def put_back(self, entry: int) -> None:
        following, before = self.next, self.before
        for each in (self.ends[entry], entry):
            if each:
                following[before[each]] = each
                before[following[each]] = each
        self.left += self.ends[entry] > 0

    def run(self, budget: int) -> Found:
        known: set[tuple[int, int, int, Register]] = set()
        frames: list[_Frame] = []
        state, done, maybe, lifted = self.key.start, 0, 0, list[int]()
        while True:
            frame = self.settle(state, done, maybe, lifted)
            if not self.left:
                return Found(True, self.steps)
            if self.steps > budget:
                return Found(None, self.steps)
            # What all have in common, the operations done up to the first that is not, is cut off.
            whole = (~frame.done & (frame.done + 1)).bit_length() - 1
            met = (whole, frame.done >> whole, frame.maybe, frame.state)
            if met in known:
                frame.choices.clear()
            known.add(met)
            frames.append(frame)
            while not frames[-1].choices:
                for entry in reversed(frames.pop().lifted):
                    self.put_back(entry)
                if not frames:
                    return Found(False, self.steps)
            frame = frames[-1]
            entry, state = frame.choices.pop()
            done, maybe = frame.done, frame.maybe
            if self.ends[entry]:
                done |= self.bits[entry]
            else:
                maybe |= self.bits[entry]
            self.lift(entry)
            lifted = [entry]

    def settle(self, state: Register, done: int, maybe: int, lifted: list[int]) -> _Frame:
        """Place the reads that fit, and return the choices that are left, the best one last.

        To place a read at once is always right: the state stays, and others may only become free
        to be placed.  What may never have happened is not placed where it changes nothing, and is
        taken out for good when the version has passed it.
        """
        step, operations, following = self.key.step, self.operations, self.next
        choices: list[tuple[int, Register]] = []
        entry = following[0]
        last = len(operations)
        while entry < last:
            placed = operations[entry]
            if placed is None:
                break
            after = None
            optional = not self.ends[entry]
            before = self.before[entry]
            if optional and state[0] > placed.last:
                self.lift(entry)
                lifted.append(entry)
            else:
                self.steps += 1
                after = step(state, placed)
            if after == state and not placed.makes:
                self.lift(entry)
                lifted.append(entry)
                done |= self.bits[entry]
            elif after is not None and (after != state or not optional):
                choices.append((entry, after))
            entry = following[entry] if following[before] == entry else following[before]
        if len(choices) > 1:
            choices.sort(key=self.completion, reverse=True)
        return _Frame(state, done, maybe, lifted, choices)

    def completion(self, choice: tuple[int, Register]) -> float:
        """Return when a choice completed: what completes first is tried first."""
        placed = self.operations[choice[0]]
        assert placed is not None, "a choice is an invocation"
        return placed.completed


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


BUDGET = 1_000_000
MODEL = "linearizable per key"


def check_linearizable(
    history: Iterable[Operation], *, budget: int = BUDGET, limit: int = 10
) -> Verdict:
    """Check that each key behaves like one register that every operation meets at one moment.

    The moment lies between the invocation and the completion of the operation; one whose outcome
    is unknown may take effect at any later time, or never; one that failed never did.  Each key
    begins as never written: version 0, value null.  Of a transaction, what it read and wrote of a
    key is one operation.

    `budget` is how many steps (attempts to place an operation) each key may take.  A key that
    would take more is in `undecided`.  Each key that fails is one anomaly: the first
    operation that fits in no order, and the few others found that leave it no place.  At most
    `limit` are returned.

    Raises ValueError for a budget or a limit below 1.
    """
    if budget < 1 or limit < 1:
        raise ValueError(f"budget is {budget} and limit {limit}; both must be at least 1")
    history = list(history)
    anomalies: list[Anomaly] = []
    undecided = []
    failed = 0
    for name, operations in by_key(history).items():
        key = register(name, operations)
        found = search(key, budget)
        if found.ordered is None:
            undecided.append(f"{name}: not decided within {budget} steps")
        elif not found.ordered:
            failed += 1
            if failed <= limit:
                anomalies.append(explain(key))
    anomalies.sort(key=lambda anomaly: len(anomaly.operations))
    return Verdict(MODEL, len(history), tuple(anomalies), tuple(undecided), failed)
