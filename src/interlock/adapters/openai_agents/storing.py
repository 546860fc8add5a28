"""What a session is in a space, and the steps that read and change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from interlock import Committed, Conflict, Fenced, Invalid, Record
from interlock.adapters.calls import Steps, call, commit
from interlock.adapters.naming import quoted


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
# has read gets the head that was read: then the store refuses it where others came first.
Basis = Callable[[Record], Record]


class Changed(NamedTuple):
    """A change that was made: the head that it was made to, and the item that it took off."""

    head: Record
    item: Any = None


def count_of(head: Record) -> int:
    """Return how many items a session has."""
    return int(head.value["items"]) if head.exists else 0


def read(keys: Keys, limit: int | None) -> Steps:
    """Return the head and the last `limit` items (None, negative: all), as of one moment."""
    head: Record = yield call("read", keys.head)
    while True:
        count = count_of(head)
        first = 0 if limit is None or limit < 0 else max(count - limit, 0)
        names = [keys.item(index) for index in range(first, count)]
        found = yield call("read_many", [keys.head, *names])
        if found[keys.head].version == head.version:
            return head, [found[name].value for name in names]
        head = found[keys.head]


def add(keys: Keys, items: Sequence[Any], hold: Record | None) -> Steps:
    """Put items at the end, whatever else was put there meanwhile.  Returns Changed."""

    def writes(head: Record) -> Steps:
        yield from ()  # nothing is read for it
        count = count_of(head)
        made = [("create", keys.item(count + n), item) for n, item in enumerate(items)]
        return made, count + len(items), None

    return (yield from _change(keys, hold, None, writes))


def pop(keys: Keys, hold: Record | None, basis: Basis | None, op_id: str | None) -> Steps:
    """Take the last item off.  Returns Changed, or None where there is none.

    What was popped under the same `op_id` before is returned again, and nothing else popped.
    """

    def writes(head: Record) -> Steps:
        count = count_of(head)
        if not count:
            return None
        last: Record = yield call("read", keys.item(count - 1))
        if not last.exists:  # taken off meanwhile: the head says so, and refuses
            return [], count, None
        return [("delete", last)], count - 1, last.value

    if op_id is not None:
        done: Committed | None = yield call("outcome", op_id)
        if done is not None:
            return (yield from _popped(keys, done))
    return (yield from _change(keys, hold, basis, writes, op_id))


def clear(keys: Keys, hold: Record | None, basis: Basis | None) -> Steps:
    """Take all items off.  Returns Changed, or None where there are none."""

    def writes(head: Record) -> Steps:
        if not count_of(head):
            return None
        found = yield call("scan", keys.items)
        return [("delete", record) for record in found.values()], 0, None

    return (yield from _change(keys, hold, basis, writes))


def _change(
    keys: Keys,
    hold: Record | None,
    basis: Basis | None,
    writes: Callable[[Record], Steps],
    op_id: str | None = None,
) -> Steps:
    """Commit what `writes(head)` wants.  Without a `basis` it is made to whatever head there is.

    `hold` is the record of the turn that the caller has; without one, the turn key is written, too,
    which the store refuses as long as somebody has its lease.
    """
    while True:
        found = yield call("read_many", [keys.head, keys.turn])
        head: Record = found[keys.head]
        wanted = yield from writes(head)
        if wanted is None:
            return None
        made, count, item = wanted
        if basis is not None:
            head = basis(head)
        guard = ("write", found[keys.turn], None) if hold is None else ("expect", hold)
        try:
            done = yield commit([guard, ("write", head, {"items": count}), *made], op_id)
        except (Conflict, Fenced) as refused:
            # Others came first.  That matters only to what was computed from what they changed.
            others_turn = hold is None and refused.outcome.key == keys.turn
            blind = basis is None and isinstance(refused, Conflict)
            if not others_turn and not blind:
                raise
            continue
        return (yield from _popped(keys, done)) if done.replayed else Changed(head, item)


def _popped(keys: Keys, done: Committed) -> Steps:
    """Return what an earlier commit has popped."""
    gone = next(write for write in done.writes if write.key.startswith(keys.items))
    history = yield call("history", gone.key)
    before = [entry.value for entry in history if entry.version == gone.version - 1]
    if not before:
        raise Invalid("the log no longer keeps the item that this op_id popped")
    head = next(write for write in done.writes if write.key == keys.head)
    record: Record = yield call("read", keys.head)
    return Changed(record._replace(version=head.version - 1), before[0])
