"""What a session is in a space, and the steps that read and change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from interlock import Conflict, Fenced, Record
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


class Changed(NamedTuple):
    """A change that was made: the head that it was made to, the new one, the item taken off."""

    before: Record
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


def pop(keys: Keys, hold: Record | None, basis: Record | None) -> Steps:
    """Take the last item off.  Returns Changed, or None where there is none."""

    def writes(head: Record) -> Steps:
        count = count_of(head)
        if not count:
            return None
        last: Record = yield call("read", keys.item(count - 1))
        if not last.exists:  # taken off meanwhile: the head says so, and refuses
            return [], count, None
        return [("delete", last)], count - 1, last.value

    return (yield from _change(keys, hold, basis, writes))


def clear(keys: Keys, hold: Record | None, basis: Record | None) -> Steps:
    """Take all items off.  Returns Changed, or None where there are none."""

    def writes(head: Record) -> Steps:
        if not count_of(head):
            return None
        found = yield call("scan", keys.items)
        return [("delete", record) for record in found.values()], 0, None

    return (yield from _change(keys, hold, basis, writes))


def _change(
    keys: Keys, hold: Record | None, basis: Record | None, writes: Callable[[Record], Steps]
) -> Steps:
    """Commit what `writes(head)` wants, from the head that was read, or from `basis`.

    `hold` is the record of the turn that the caller has; without one, the turn key is written, too,
    which the store refuses as long as somebody has its lease.
    """
    while True:
        found = yield call("read_many", [keys.head, keys.turn])
        head: Record = found[keys.head] if basis is None else basis
        wanted = yield from writes(head)
        if wanted is None:
            return None
        made, count, item = wanted
        guard = ("write", found[keys.turn], None) if hold is None else ("expect", hold)
        value = {"items": count}
        try:
            yield commit([guard, ("write", head, value), *made])
        except (Conflict, Fenced) as refused:
            # Others came first.  That matters only to what was computed from what they changed.
            others_turn = hold is None and refused.outcome.key == keys.turn
            blind = basis is None and isinstance(refused, Conflict)
            if not others_turn and not blind:
                raise
            continue
        version = head.version + 1
        return Changed(head, head._replace(version=version, value=value, exists=True), item)
