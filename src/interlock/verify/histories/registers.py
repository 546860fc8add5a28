"""One key as a register: what each operation asks of the state it meets, and what it makes of it.

A register is a version, which only grows, and a value.  Histories may record either or both, so a
state is `(version, exact, value)`: where `exact` is false the version is at least that one; where
`value` is None it is one that nobody has told yet, and the next who tells it settles it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from interlock.verify.histories.operations import (
    ABSENT,
    APPEND,
    FAILED,
    OK,
    Operation,
    State,
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
