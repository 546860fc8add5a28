"""The fault `durable`: a server dies right after it acknowledged what somebody else committed.

A process that does not wait for the disk commits; one that does sends the same operation again, or
asks what became of it, and is told that it was applied.  Then the server is killed.  That happens
in a space of its own, so that the log of the workers is theirs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import interlock
from interlock.verify.torture.findings import LOST_WRITE, Findings
from interlock.verify.torture.settings import Settings

_Way = Callable[[interlock.Space, str], Any]
_AGENT = "durable"  # of both: an operation id belongs to an agent


def _create(space: interlock.Space, key: str) -> None:
    space.create(key, 1, op_id=key)


def _transact(space: interlock.Space, key: str) -> None:
    space.transact(lambda tx: tx.create(key, 1), op_id=key)


# How the first commits, and what the second asks, with the key, which is the operation id.
_WAYS: tuple[tuple[_Way, _Way], ...] = (
    (_create, lambda space, key: space.outcome(key)),
    (_create, _create),
    (_create, lambda space, key: space.update(key, lambda _: 1, op_id=key)),
    (_transact, _transact),
)


class Durable:
    """What was acknowledged before a crash, so that it must be there afterwards."""

    def __init__(self, settings: Settings) -> None:
        self._url, self._space = settings.url, f"{settings.space}-durable"
        self._promised: list[str] = []

    def promise(self) -> None:
        """Have one more commit acknowledged, by somebody else than its writer.

        Raises the faults of a store that is away.
        """
        number = len(self._promised)
        key = f"durable-{number}"
        commit, ask = _WAYS[number % len(_WAYS)]
        with (
            interlock.open(self._url, self._space, _AGENT, durability="normal") as normal,
            interlock.open(self._url, self._space, _AGENT) as full,
        ):
            full.read(key)  # whatever opening it writes is flushed before, not after
            commit(normal, key)
            ask(full, key)
        self._promised.append(key)

    def check(self, findings: Findings) -> None:
        """Find what was promised and is gone."""
        if not self._promised:
            return
        with interlock.open(self._url, self._space, "checker") as space:
            there = space.scan("durable-")
        for key in self._promised:
            if key not in there:
                findings.add(LOST_WRITE, f"{key}: acknowledged again, before a crash")
