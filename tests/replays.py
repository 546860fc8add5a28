"""The same operation asked for again, by each call that may do so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _add(tx: Any) -> None:
    tx.create("k", 1)


def commit(asked: str, space: Any) -> None:
    """Commit what `ASKED[asked]` asks again."""
    if asked == "transact":
        space.transact(_add, op_id="op")
    else:
        space.create("k", 1, op_id="op")


ASKED: dict[str, Callable[[Any], Any]] = {
    "create": lambda space: space.create("k", 1, op_id="op"),
    "update": lambda space: space.update("k", lambda _: 1, op_id="op"),
    "transact": lambda space: space.transact(_add, op_id="op"),
    "outcome": lambda space: space.outcome("op"),
}
