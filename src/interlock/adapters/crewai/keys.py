"""The keys of the adapter, and the one way in which it writes them."""

from __future__ import annotations

from collections.abc import Callable

from interlock import Json, Record, Space, Tx
from interlock.adapters.names import quoted

MEMORIES = "crewai/memory/record/"
DIMENSIONS = "crewai/memory/dimensions"


def flow_key(flow_id: object) -> str:
    """Return the key of a flow."""
    return f"crewai/flow/{quoted(str(flow_id))}"


def memory_key(record_id: object) -> str:
    """Return the key of a memory."""
    return f"{MEMORIES}{quoted(str(record_id))}"


def put(
    space: Space,
    key: str,
    base: Record | None,
    value: Json,
    check: Callable[[Tx], None] = lambda tx: None,
) -> Record:
    """Write `value` over `base`, or to a key that must not exist; return the new record.

    `check` may read and write other keys in the same commit.

    Never merged, whatever the key's rule says: who writes goes on from `value`, and would undo at
    its next save what had been merged in.  Raises Conflict, Held.
    """
    if base is None:
        base = space.read(key)
        if base.exists:
            space.create(key, value)  # raises the Conflict
    with space.transaction() as tx:
        check(tx)
        tx.write(base, value)
    assert tx.committed is not None  # a block that did not raise was committed
    written = next(each for each in tx.committed.writes if each.key == key)
    return base._replace(
        value=value,
        version=written.version,
        epoch=written.epoch,
        writer=tx.committed.agent,
        time_us=tx.committed.time_us,
        position=written.position,
        exists=True,
        body=written.body,
    )
