"""The items of a session in a space, by branch: how they are read, added and taken off."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import NamedTuple

from interlock import AsyncSpace, Committed, Conflict, Fenced, Invalid, Json, Record
from interlock.adapters.space import Write, quoted

MAIN = "main"  # the branch that every session has


class Keys(NamedTuple):
    """The keys of a branch of a session: all below `base`, the turn is the session's."""

    base: str
    branch: str = MAIN

    @classmethod
    def of(cls, session_id: str, branch: str = MAIN) -> Keys:
        """Return the keys of a branch of the session `session_id`."""
        return cls(f"openai-agents/{quoted(session_id)}", branch)

    @property
    def root(self) -> str:
        """What the keys of the branch begin with."""
        return f"{self.base}/" + ("" if self.branch == MAIN else f"branches/{quoted(self.branch)}/")

    @property
    def head(self) -> str:
        """The key that counts the items; every change writes it."""
        return f"{self.root}head"

    @property
    def turn(self) -> str:
        """The key whose lease is the turn of a run."""
        return f"{self.base}/turn"

    @property
    def items(self) -> str:
        """What the keys of the items begin with."""
        return f"{self.root}items/"

    def item(self, index: int) -> str:
        """The key of one item; keys sort as the items do."""
        return f"{self.items}{index:08d}"

    def usage(self, index: int) -> str:
        """The key of what the turn used that the user's item `index` began."""
        return f"{self.root}usage/{index:08d}"


# From the head as it is, the head that a change is made to.  What is computed from what somebody
# has read gets the head that was read: then the store refuses it if others came first.
Basis = Callable[[Record], Record]


class Changed(NamedTuple):
    """A change that was made: the head that it was made to, and the item that it took off."""

    head: Record
    item: Json = None


class Wanted(NamedTuple):
    """What a change writes, how many items there are then (None: the branch ends), and the item
    that it takes off."""

    writes: list[Write]
    length: int | None
    item: Json = None


class Change(NamedTuple):
    """What every change needs: `hold` is the record of the turn that the caller has; without one,
    the turn key is written, too, which the store refuses as long as somebody has its lease.
    `basis` is None for a change to whatever there is.  `ttl`: seconds that the session lives then.
    """

    space: AsyncSpace
    keys: Keys
    hold: Record | None = None
    basis: Basis | None = None
    ttl: float | None = None


def count_of(head: Record) -> int:
    """Return how many items a branch has."""
    return int(head.value["items"]) if head.exists else 0


async def read(space: AsyncSpace, keys: Keys, limit: int | None) -> tuple[Record, list[Record]]:
    """Return the head and the last `limit` items (None, negative: all), as of one moment."""
    head = await space.read(keys.head)
    while True:
        count = count_of(head)
        first = 0 if limit is None or limit < 0 else max(count - limit, 0)
        names = [keys.item(index) for index in range(first, count)]
        found = await space.read_many([keys.head, *names])
        if found[keys.head].version == head.version:
            return head, [found[name] for name in names]
        head = found[keys.head]


async def add(change: Change, items: Sequence[Json]) -> Changed | None:
    """Put items at the end, whatever else was put there meanwhile."""

    async def wanted(head: Record) -> Wanted:
        count = count_of(head)
        made = [("create", change.keys.item(count + n), item) for n, item in enumerate(items)]
        return Wanted([*made], count + len(items))

    return await _made(change, wanted)


async def pop(change: Change, expected: Json = None, op_id: str | None = None) -> Changed | None:
    """Take the last item off, and what its turn used if it began the turn; None if there is none.

    Refused if that is not `expected` (None: whatever it is).  What was popped under the same
    `op_id` before is returned again, and nothing else popped.
    """
    space, keys = change.space, change.keys

    async def wanted(head: Record) -> Wanted | None:
        count = count_of(head)
        if not count:
            return None
        found = await space.read_many([keys.item(count - 1), keys.usage(count - 1)])
        last = found[keys.item(count - 1)]
        if not last.exists:  # taken off meanwhile: the head says so, and refuses
            return Wanted([], count)
        if expected is not None and last.value != expected:
            return Wanted([("expect", last._replace(version=0))], count)
        doomed: list[Write] = [("delete", each) for each in found.values() if each.exists]
        return Wanted(doomed, count - 1, last.value)

    if op_id is not None:
        done = await space.outcome(op_id)
        if done is not None:
            return await _popped(change, done)
    return await _made(change, wanted, op_id)


async def clear(change: Change) -> Changed | None:
    """Take all items of all branches off; None if there are none."""
    keys = change.keys

    async def wanted(head: Record) -> Wanted | None:
        found = await change.space.scan(f"{keys.base}/")
        doomed = [each for key, each in found.items() if key not in (keys.turn, keys.head)]
        if not count_of(head) and not doomed:
            return None
        return Wanted([("delete", each) for each in doomed], 0 if keys.branch == MAIN else None)

    return await _made(change, wanted)


async def _made(
    change: Change,
    decide: Callable[[Record], Coroutine[object, None, Wanted | None]],
    op_id: str | None = None,
) -> Changed | None:
    """Commit what `decide(head)` wants, made to the head that the change names."""
    space, keys, hold, basis, ttl = change
    while True:
        found = await space.read_many([keys.head, keys.turn])
        head = found[keys.head]
        wanted = await decide(head)
        if wanted is None:
            return None
        writes = await _over_expired(space, keys, wanted.writes) if head.expired else wanted.writes
        if basis is not None:
            head = basis(head)
        try:
            async with space.transaction(op_id=op_id) as tx:
                if hold is None:
                    await tx.write(found[keys.turn], None)
                else:
                    await tx.expect(hold)
                if wanted.length is None:
                    await tx.delete(head)
                else:
                    named = {} if keys.branch == MAIN else {"branch": keys.branch}
                    await tx.write(head, {"items": wanted.length, **named}, expires=ttl)
                for name, *args in writes:
                    await getattr(tx, name)(*args)
        except (Conflict, Fenced) as refused:
            # Others came first.  That matters only to what was computed from what they changed.
            others_turn = hold is None and refused.outcome.key == keys.turn
            blind = basis is None and isinstance(refused, Conflict)
            if not others_turn and not blind:
                raise
            continue
        if tx.committed is not None and tx.committed.replayed:
            return await _popped(change, tx.committed)
        return Changed(head, wanted.item)


async def _over_expired(space: AsyncSpace, keys: Keys, writes: list[Write]) -> list[Write]:
    """Return writes that take the place of what an expired session has left."""
    left = {
        each.key: each
        for prefix in (keys.items, f"{keys.root}usage/")
        for each in (await space.scan(prefix)).values()
    }
    over: list[Write] = [
        ("write", left.pop(key), *rest) if name == "create" and key in left else (name, key, *rest)
        for name, key, *rest in writes
    ]
    return [*over, *(("delete", each) for each in left.values())]


async def _popped(change: Change, done: Committed) -> Changed:
    """Return what an earlier commit has popped."""
    space, keys = change.space, change.keys
    gone = next(write for write in done.writes if write.key.startswith(keys.items))
    history = space.history(gone.key)
    before = [entry.value async for entry in history if entry.version == gone.version - 1]
    if not before:
        raise Invalid("The item popped under this op_id was trimmed from the log.")
    head = next(write for write in done.writes if write.key == keys.head)
    record = await space.read(keys.head)
    return Changed(record._replace(version=head.version - 1), before[0])
