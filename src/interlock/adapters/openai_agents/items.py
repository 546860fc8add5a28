"""The items of a session in a space: how they are read, added and taken off."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

from interlock import AsyncSpace, Committed, Conflict, Fenced, Invalid, Json, Record
from interlock.adapters.names import quoted
from interlock.adapters.space import Write, commit


class Keys(NamedTuple):
    """The keys of a session: all below `base`."""

    base: str

    @classmethod
    def of(cls, session_id: str) -> Keys:
        """Return the keys of the session `session_id`."""
        return cls(f"openai-agents/{quoted(session_id)}")

    @property
    def head(self) -> str:
        """The key that counts the items; every change writes it."""
        return f"{self.base}/head"

    @property
    def turn(self) -> str:
        """The key whose lease is the turn of a run."""
        return f"{self.base}/turn"

    @property
    def items(self) -> str:
        """What the keys of the items begin with."""
        return f"{self.base}/items/"

    def item(self, index: int) -> str:
        """The key of one item; keys sort as the items do."""
        return f"{self.items}{index:08d}"


# From the head as it is, the head that a change is made to.  What is computed from what somebody
# has read gets the head that was read: then the store refuses it if others came first.
Basis = Callable[[Record], Record]


class Changed(NamedTuple):
    """A change that was made: the head that it was made to, and the item that it took off."""

    head: Record
    item: Json = None


class Wanted(NamedTuple):
    """What a change writes, how many items there are then, and the item that it takes off."""

    writes: list[Write]
    length: int
    item: Json = None


def count_of(head: Record) -> int:
    """Return how many items a session has."""
    return int(head.value["items"]) if head.exists else 0


async def read(space: AsyncSpace, keys: Keys, limit: int | None) -> tuple[Record, list[Json]]:
    """Return the head and the last `limit` items (None, negative: all), as of one moment."""
    head = await space.read(keys.head)
    while True:
        count = count_of(head)
        first = 0 if limit is None or limit < 0 else max(count - limit, 0)
        names = [keys.item(index) for index in range(first, count)]
        found = await space.read_many([keys.head, *names])
        if found[keys.head].version == head.version:
            return head, [found[name].value for name in names]
        head = found[keys.head]


async def add(
    space: AsyncSpace, keys: Keys, items: Sequence[Json], hold: Record | None
) -> Changed | None:
    """Put items at the end, whatever else was put there meanwhile."""

    async def wanted(head: Record) -> Wanted:
        count = count_of(head)
        made = [("create", keys.item(count + n), item) for n, item in enumerate(items)]
        return Wanted([*made], count + len(items))

    return await _change(space, keys, hold, None, wanted)


async def pop(
    space: AsyncSpace, keys: Keys, hold: Record | None, basis: Basis | None, op_id: str | None
) -> Changed | None:
    """Take the last item off; None if there is none.

    What was popped under the same `op_id` before is returned again, and nothing else popped.
    """

    async def wanted(head: Record) -> Wanted | None:
        count = count_of(head)
        if not count:
            return None
        last = await space.read(keys.item(count - 1))
        if not last.exists:  # taken off meanwhile: the head says so, and refuses
            return Wanted([], count)
        return Wanted([("delete", last)], count - 1, last.value)

    if op_id is not None:
        done = await space.outcome(op_id)
        if done is not None:
            return await _popped(space, keys, done)
    return await _change(space, keys, hold, basis, wanted, op_id)


async def clear(
    space: AsyncSpace, keys: Keys, hold: Record | None, basis: Basis | None
) -> Changed | None:
    """Take all items off; None if there are none."""

    async def wanted(head: Record) -> Wanted | None:
        if not count_of(head):
            return None
        found = await space.scan(keys.items)
        return Wanted([("delete", record) for record in found.values()], 0)

    return await _change(space, keys, hold, basis, wanted)


async def _change(
    space: AsyncSpace,
    keys: Keys,
    hold: Record | None,
    basis: Basis | None,
    decide: Callable[[Record], Coroutine[object, None, Wanted | None]],
    op_id: str | None = None,
) -> Changed | None:
    """Commit what `decide(head)` wants.  Without a `basis` it is made to whatever head there is.

    `hold` is the record of the turn that the caller has; without one, the turn key is written, too,
    which the store refuses as long as somebody has its lease.
    """
    while True:
        found = await space.read_many([keys.head, keys.turn])
        head = found[keys.head]
        wanted = await decide(head)
        if wanted is None:
            return None
        if basis is not None:
            head = basis(head)
        guard = ("write", found[keys.turn], None) if hold is None else ("expect", hold)
        try:
            counted = ("write", head, {"items": wanted.length})
            done = await commit(space, [guard, counted, *wanted.writes], op_id)
        except (Conflict, Fenced) as refused:
            # Others came first.  That matters only to what was computed from what they changed.
            others_turn = hold is None and refused.outcome.key == keys.turn
            blind = basis is None and isinstance(refused, Conflict)
            if not others_turn and not blind:
                raise
            continue
        if done is not None and done.replayed:
            return await _popped(space, keys, done)
        return Changed(head, wanted.item)


async def _popped(space: AsyncSpace, keys: Keys, done: Committed) -> Changed:
    """Return what an earlier commit has popped."""
    gone = next(write for write in done.writes if write.key.startswith(keys.items))
    history = space.history(gone.key)
    before = [entry.value async for entry in history if entry.version == gone.version - 1]
    if not before:
        raise Invalid("The item popped under this op_id was trimmed from the log.")
    head = next(write for write in done.writes if write.key == keys.head)
    record = await space.read(keys.head)
    return Changed(record._replace(version=head.version - 1), before[0])
