"""Linearizability, key by key: can the operations be put in an order that respects real time?

That keys may be checked one by one is the locality of linearizability (Herlihy and Wing, 1990).
"""

from __future__ import annotations

from collections.abc import Iterable

from interlock.verify.histories.explaining import explain
from interlock.verify.histories.operations import Operation
from interlock.verify.histories.registers import by_key, register
from interlock.verify.histories.searching import search
from interlock.verify.histories.verdicts import Anomaly, Verdict

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
