"""Refuses calls to the space from inside the function that decides a write, on the same key.

Such a call could only see, or make, a state that the surrounding commit then refuses; where that
has its turn, the call would wait for a turn that only its own return gives up.
"""

from __future__ import annotations

from collections.abc import Iterable

from interlock.backends import holding
from interlock.core.transaction import Transaction
from interlock.session import Thought, refuse, thoughts

__all__ = ["Thought", "check", "check_write", "holds"]


def check(space: str, keys: Iterable[object]) -> None:
    """Raise Invalid where one of `keys` is being updated in this context."""
    for thought in thoughts(space):
        if thought.state is None:
            refuse(thought, keys, "updated", "use the value it was given and return the new one")


def check_write(space: str, keys: Iterable[object], own: Transaction | None = None) -> None:
    """The same for calls that write or wait, and for keys that a transaction around them (other
    than `own`) has touched."""
    keys = tuple(keys)
    check(space, keys)
    for thought in thoughts(space):
        around = thought.state
        if around is None or around is own:
            continue
        if own is None or not own.recorded or not around.recorded or around.turns & {*keys}:
            refuse(thought, keys, "decided in a transaction", "write it through that transaction")


def holds(space: str) -> bool:
    """Whether this context holds a lease or a turn, so that others may wait for it."""
    return holding.holds(space)
