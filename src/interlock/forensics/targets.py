"""Writes lost parts, or an earlier value, into the store in use: guarded, as a new write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import interlock
from interlock import Json, Record, Space, guards
from interlock.core.merge import REMOVED
from interlock.errors import Invalid
from interlock.forensics.changes import Fact, applied, at, changes, reapplied
from interlock.forensics.history import CHANGE, DELETE, NOTHING, PUT, READ, Event
from interlock.forensics.history_table import connected
from interlock.forensics.loss import POSSIBLE, Loss
from interlock.forensics.sources import REDIS, redis_client

AGENT = "interlock-restore"


class Proposal(NamedTuple):
    """The three-way merge of what a key holds now (`record`) with what was lost.

    `value` is the merged one.  `restored` are the losses that it has back, `clashes` the parts that
    cannot be: somebody has written another value there since.
    """

    record: Record
    value: Json
    restored: tuple[Loss, ...]
    clashes: tuple[Fact, ...]

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return bool(changes(self.record.value if self.record.exists else REMOVED, self.value))


class Target(NamedTuple):
    """Where values are written: `read(key)` returns a record, `write(record, value)` writes over
    that one only, and raises Conflict else."""

    read: Callable[[str], Record]
    write: Callable[[Record, Json], Record]


@contextmanager
def open_target(
    url: str,
    *,
    space: str | None = None,
    table: str | None = None,
    key: str | Iterable[str] = "id",
    agent: str = AGENT,
) -> Iterator[Target]:
    """Open the store that values are written into.

    `url` of a Redis, without `space`: its keys, through `interlock.guards.redis`.  With `table`:
    the rows of a PostgreSQL table, through `interlock.guards.table`; `key` is the column of their
    key.  Else a space.  Raises Invalid, Unavailable, NotInstalled.
    """
    with ExitStack() as stack:
        if table is not None:
            yield _rows(stack.enter_context(connected(url)), table, key, agent)
        elif url.startswith(REDIS) and space is None:
            yield _redis(stack.enter_context(redis_client(url)), agent)
        elif "://" in url:
            opened = interlock.open(url, space=space or "default", agent=agent, create=False)
            yield _space(stack.enter_context(opened))
        else:
            raise Invalid(f"{url!r} can't be written into. Name the live store: --into URL.")


def _space(space: Space) -> Target:
    def write(record: Record, value: Json) -> Record:
        return space.write(record, value)

    return Target(lambda key: space.read(key), write)


def _redis(client: Any, agent: str) -> Target:
    kinds: dict[str, guards.Guard] = {"hash": guards.redis(client, kind="hash", agent=agent)}
    strings: guards.Guard = guards.redis(client, agent=agent)

    def guard(key: str) -> guards.Guard:
        kind: bytes | str = client.type(key)
        return kinds.get(kind.decode() if isinstance(kind, bytes) else kind, strings)

    def write(record: Record, value: Json) -> Record:
        return guard(record.key).write(record, value)

    return Target(lambda key: guard(key).read(key), write)


def _rows(connection: Any, table: str, key: str | Iterable[str], agent: str) -> Target:
    schema, _, name = table.rpartition(".")
    guard = guards.table(connection, name, key=key, in_schema=schema or None, agent=agent)
    prefix = f"{table}/"
    return Target(
        lambda each: guard.read(each.removeprefix(prefix)),
        lambda record, value: guard.write(record, value),
    )


def propose(
    losses: Iterable[Loss], target: Target, *, possible: bool = False
) -> Iterator[Proposal]:
    """Yield, for each key that has lost something, what it holds now merged with that.

    What a later write has brought back is left out, and so are `possible` losses, unless asked for.
    """
    by_key: dict[str, list[Loss]] = {}
    for loss in losses:
        if loss.restored is None and (possible or loss.certainty != POSSIBLE) and loss.facts:
            by_key.setdefault(loss.key, []).append(loss)
    for key, lost in by_key.items():
        record = target.read(key)
        value: Any = deepcopy(record.value) if record.exists else REMOVED
        restored, clashes = [], []
        for loss in lost:
            if loss.raised:
                value = _raised(value, loss)
                restored.append(loss)
                continue
            value, left = reapplied(value, loss.facts)
            clashes += left
            if len(left) < len(loss.facts):
                restored.append(loss)
        if value is not REMOVED:
            yield Proposal(record, value, tuple(restored), tuple(clashes))


def _raised(value: Any, loss: Loss) -> Any:
    """Return a value with the steps of a loss added to its numbers."""
    for fact in loss.facts:
        there = at(value, fact.path)
        if type(there) in (int, float):
            step = fact._replace(old=there, new=there + fact.new - fact.old)
            value, _ = reapplied(value, [step])
    return value


def value_at(
    events: Iterable[Event], key: str, *, position: int | None = None, time_us: int | None = None
) -> Json:
    """Return the value that a key had after a position of its history, or at a time.

    Raises Invalid where it did not exist then, or no value is recorded.
    """
    value: Any = REMOVED
    for event in events:
        if event.key != key or event.kind == READ:
            continue
        if (position is not None and event.position > position) or (
            time_us is not None and event.time_us > time_us
        ):
            break
        if event.kind == DELETE:
            value = REMOVED
        elif event.kind in (PUT, CHANGE):
            value = event.value
        else:
            value = applied(value, event.kind, event.value)
    if value is REMOVED or value is NOTHING:
        what = "did not exist then" if value is REMOVED else "has no recorded value then"
        raise Invalid(f"{key!r} {what}.")
    return value
