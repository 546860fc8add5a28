"""Searches for an order of the operations on one key that respects real time.

The search is that of Wing and Gong ("Testing and Verifying Concurrent Objects", 1993) with the
memory of configurations of Lowe ("Testing for Linearizability", 2017) and the linked list of
events of Horn and Kroening ("Faster Linearizability Checking via P-compositionality", 2015).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from interlock.verify.histories.registers import Key, Placed, Register


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
