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

_AGENT = "durable"  # of both: an operation id belongs to an agent


def _create(tx: interlock.Tx, key: str) -> None:
    tx.create(key, 1)


# How the second process is told: what it asks, with the key and the operation id.
_WAYS: tuple[Callable[[interlock.Space, str, str], Any], ...] = (
    lambda space, key, op: space.outcome(op),
    lambda space, key, op: space.create(key, 1, op_id=op),
    lambda space, key, op: space.update(key, lambda _: 1, op_id=op),
    lambda space, key, op: space.transact(lambda tx: _create(tx, key), op_id=op),
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
        key = op = f"durable-{number}"
        with (
            interlock.open(self._url, self._space, _AGENT, durability="normal") as normal,
            interlock.open(self._url, self._space, _AGENT) as full,
        ):
            full.read(key)  # whatever opening it writes is flushed before, not after
            normal.create(key, 1, op_id=op)
            _WAYS[number % len(_WAYS)](full, key, op)
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
