"""One batch of a store's operations as calls of the space: all reads, then all writes at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from interlock import AsyncSpace, AsyncTx, Conflict, Held, Invalid, Json, Record
from interlock.adapters.langgraph.items import (
    ITEMS,
    REFRESHED,
    Embedded,
    Found,
    Kept,
    Path,
    begins,
    found,
    item_key,
    listed,
    literal_prefix,
    lives_until,
    matches,
    microseconds,
    ranked,
    refresh_key,
    scan_prefix,
    until,
)
from interlock.adapters.observed import (
    Caller,
    Observed,
    ObservedDict,
    TaskReads,
    observed,
    with_advice,
)
from interlock.adapters.space import Write, commit
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langchain_core.runnables.config import var_child_runnable_config
    from langgraph.store.base import (
        NOT_PROVIDED,
        GetOp,
        Item,
        ListNamespacesOp,
        NotProvided,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        validate_op_namespace,
    )

READS = TaskReads()  # of the tasks of all graphs of this process
_TASK_ID = "__pregel_task_id"  # where LangGraph tells a node which task it is
_REFRESHED_AFTER = 0.01  # of a time to live: reads that follow each other closely write once


class Alive(NamedTuple):
    """Items that are not expired, by their keys in the space, and all records they came from.

    `now` is the store's time, 0 if nobody asked; `ends` says when those die that do.
    """

    items: dict[str, Found]
    now: int = 0
    ends: Mapping[str, int] = {}  # never changed


class PutFrom(PutOp):
    """A `put` or `delete` whose caller names what it was computed from: `base`.

    That is an item that `get` or `search` returned, its value, or None: there was no item.
    """

    base: Item | Mapping[str, Json] | NotProvided | None = NOT_PROVIDED


class _Basis(NamedTuple):
    """What a write was computed from; `observed` None: nothing that is known here."""

    observed: Observed | None
    from_task: bool  # the task has read it; otherwise the value or `base` said so


class Batch:
    """The operations of one call, with what they need from outside of the space.

    `embedded` holds the vectors of the operations.  `overwrites`: what was never read is written
    over.
    """

    def __init__(
        self,
        space: AsyncSpace,
        ops: tuple[Op, ...],
        embedded: Embedded,
        caller: Caller | None,
        overwrites: bool,
    ) -> None:
        self._space = space
        self._ops = ops
        self._embedded = embedded
        self._caller = caller
        self._overwrites = overwrites

    async def results(self) -> list[Result]:
        """Do the operations and return their results."""
        gets = [item_key(op.namespace, op.key) for op in self._ops if isinstance(op, GetOp)]
        records = await self._space.read_many(gets) if gets else {}
        asked = dict(records)
        for prefix in self._prefixes():
            records.update(await self._space.scan(prefix))
        alive = await live(self._space, records.values())
        results, used = self._answers(alive)
        for record in (alive.items[key].record for key in used):
            asked[record.key] = record
        await self._refresh(alive, [key for key, refresh in used.items() if refresh])
        written = await self._write()
        for record in asked.values():
            if record.key not in written:
                READS.read(self._caller, Observed.of(record))
        return results

    # Reading

    def _prefixes(self) -> list[str]:
        """Return what to scan: no prefix is under another one."""
        wanted = set()
        for op in self._ops:
            if isinstance(op, SearchOp):
                wanted.add(scan_prefix(op.namespace_prefix))
            elif isinstance(op, ListNamespacesOp):
                wanted.add(scan_prefix(literal_prefix(op.match_conditions or ())))
        return [
            each
            for each in sorted(wanted)
            if not any(each != other and each.startswith(other) for other in wanted)
        ]

    def _answers(self, alive: Alive) -> tuple[list[Result], dict[str, bool]]:
        """Return the results, and which items they hold: whether each is to be refreshed."""
        results: list[Result] = []
        used: dict[str, bool] = {}
        for op in self._ops:
            if isinstance(op, GetOp):
                at = item_key(op.namespace, op.key)
                item = alive.items.get(at)
                results.append(None if item is None else item.item())
                answered = [] if item is None else [at]
            elif isinstance(op, SearchOp):
                hits = self._search(op, alive)
                results.append(hits)
                answered = [item_key(hit.namespace, hit.key) for hit in hits]
            elif isinstance(op, ListNamespacesOp):
                results.append(_list(op, alive))
                continue
            else:
                results.append(None)
                continue
            for at in answered:
                used[at] = used.get(at, False) or op.refresh_ttl
        return results, used

    def _search(self, op: SearchOp, alive: Alive) -> list[SearchItem]:
        prefix = tuple(op.namespace_prefix)
        hits = [
            item
            for item in alive.items.values()
            if begins(item.kept.namespace, prefix) and matches(item.kept.value, op.filter)
        ]
        hits.sort(key=lambda item: -item.record.position)
        page = slice(op.offset, op.offset + op.limit)
        query = self._embedded.queries.get(op.query or "")
        if query is not None:
            return ranked(query, hits)[page]
        return [item.ranked() for item in hits[page]]

    async def _refresh(self, alive: Alive, keys: Iterable[str]) -> None:
        """Put off the end of items that were read."""
        due: dict[str, dict[str, int]] = {}
        for key in keys:
            kept = alive.items[key].kept
            if kept.expires is None or kept.ttl is None:
                continue
            end = until(alive.now, kept.ttl)
            if (end - alive.ends[key]) > _REFRESHED_AFTER * (end - alive.now):
                due[refresh_key(key)] = {"of": kept.expires, "until": end}

        async def put_off(tx: AsyncTx) -> None:
            for key, record in (await tx.read_many(due)).items():
                await tx.write(record, due[key])

        if due:
            await self._space.transact(put_off)

    # Writing

    async def _write(self) -> list[str]:
        """Commit the writes; return the keys that were written."""
        puts = {item_key(op.namespace, op.key): op for op in self._ops if isinstance(op, PutOp)}
        if not puts:
            return []
        records = await self._space.read_many(puts)
        if self._overwrites and not any(self._known(op, records[key]) for key, op in puts.items()):
            # Nobody is refused: after a conflict it takes a turn.
            done = await self._space.transact(lambda tx: self._overwrite(tx, puts))
        else:
            writes = await self._decided(puts, records)
            if writes:
                try:
                    await commit(self._space, writes)
                except Conflict as conflict:
                    READS.refused(self._caller, conflict.record)
                    raise
            done = [record for _, record, *_ in writes]
        for record in done:
            op, after = puts[record.key], Observed.after_write(record)
            READS.wrote(self._caller, after)
            if isinstance(op.value, ObservedDict) and op.value.observed.is_of(record):
                op.value.observed = after
        return [record.key for record in done]

    async def _overwrite(self, tx: AsyncTx, puts: Mapping[str, PutOp]) -> list[Record]:
        writes = await self._decided(puts, await tx.read_many(puts))
        for name, *args in writes:
            await getattr(tx, name)(*args)
        return [record for _, record, *_ in writes]

    async def _decided(
        self, puts: Mapping[str, PutOp], records: Mapping[str, Record]
    ) -> list[Write]:
        """Return the writes.  Raises Conflict."""
        timed = any(op.ttl for op in puts.values())
        alive = await live(self._space, records.values(), timed)
        writes: list[Write] = []
        for key, op in puts.items():
            record = records[key]
            if op.value is None and not record.exists:
                continue
            basis = self._basis(op, record, key in alive.items)
            if basis.observed is None:
                if key in alive.items and not self._overwrites:
                    await self._refuse(record, op, basis)
            elif not basis.observed.is_current(record):
                await self._refuse(record, op, basis)
            if op.value is None:
                writes.append(("delete", record))
            else:
                writes.append(("write", record, body(key, op, alive, self._embedded)))
        return writes

    def _known(self, op: PutOp, record: Record) -> bool:
        return self._basis(op, record, record.exists).observed is not None

    def _basis(self, op: PutOp, record: Record, exists: bool) -> _Basis:
        """Return what a write was computed from.  Raises Invalid."""
        if isinstance(op, PutFrom) and op.base is None:
            absent = Observed.of(record)._replace(version=0) if exists else Observed.of(record)
            return _Basis(absent, from_task=False)
        if isinstance(op, PutFrom) and op.base is not NOT_PROVIDED:
            named = observed(getattr(op.base, "value", op.base), record)
            if named is None:
                raise Invalid(
                    f"base= is not what get() or search() returned for {op.key!r:.60} of this store"
                )
            return _Basis(named, from_task=False)
        carried = observed(op.value, record)
        if carried is not None:
            return _Basis(carried, from_task=False)
        return _Basis(READS.evidence(self._caller, record), from_task=True)

    async def _refuse(self, record: Record, op: PutOp, basis: _Basis) -> None:
        """Raise the Conflict: the store refuses a write over an old version, and notes it."""
        before = basis.observed or Observed.of(record)._replace(version=0)
        if basis.from_task:
            READS.refused(self._caller, record)
        try:  # versions never come back
            await commit(self._space, [("write", before.record(record), None)])
        except Conflict as conflict:
            if basis.observed is not None:
                raise
            raise with_advice(
                conflict,
                f"{op.key!r:.60} in {op.namespace!r:.100} exists, and this caller has not read it: "
                "pass back the value that get() returned, or base=item, or use store.update(); "
                "Store(space, unread='overwrite') writes over what nobody read",
            ) from None


async def live(space: AsyncSpace, records: Iterable[Record], timed: bool = False) -> Alive:
    """Return the items among records that are not expired.  `timed`: ask for the time, too."""
    items = {record.key: found(record) for record in records if record.exists}
    mortal = [key for key, item in items.items() if item.kept.expires is not None]
    if not mortal and not timed:
        return Alive(items)
    later = await space.read_many([refresh_key(key) for key in mortal]) if mortal else {}
    now = microseconds(await space.time())
    ends = {key: lives_until(items[key].kept, later[refresh_key(key)]) for key in mortal}
    alive = {key: item for key, item in items.items() if ends.get(key, now + 1) > now}
    return Alive(alive, now, ends)


def body(key: str, op: PutOp, alive: Alive, embedded: Embedded) -> dict[str, Json]:
    """Return what the space keeps of an item that is written over what is alive.  Raises
    Invalid."""
    if not isinstance(op.value, Mapping):
        raise Invalid(f"the value of {op.key!r:.60} must be a mapping, not {op.value!r:.60}")
    before = alive.items.get(key)
    return Kept(
        tuple(op.namespace),
        op.key,
        dict(op.value),
        None if before is None else before.created,
        op.ttl,
        None if op.ttl is None else until(alive.now, op.ttl),
        embedded.of(op),
    ).body()


async def sweep(space: AsyncSpace) -> int:
    """Delete expired items, and what says when items were read that are gone; count the items."""
    records = await space.scan(ITEMS)
    refreshed = await space.scan(REFRESHED)
    alive = await live(space, records.values())
    dead = [record for key, record in records.items() if key not in alive.items]
    wanted = {refresh_key(key) for key in alive.items}
    orphans = [record for key, record in refreshed.items() if key not in wanted]
    deleted = 0
    for record in (*dead, *orphans):
        try:
            await space.delete(record)
        except (Conflict, Held):
            continue  # it lives again
        deleted += record.key in records
    return deleted


def caller() -> Caller | None:
    """Return the task of a graph's node that calls; None outside of graphs.

    Whatever contexts the node makes inherit the config that says so.
    """
    config = var_child_runnable_config.get()
    return Caller.of(((config or {}).get("configurable") or {}).get(_TASK_ID))


def valid(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Return operations whose namespaces are well-formed.

    Raises InvalidNamespaceError, ValueError.
    """
    found = tuple(ops)
    for op in found:
        if not isinstance(op, GetOp | SearchOp | ListNamespacesOp | PutOp):
            raise ValueError(f"Unknown operation type: {type(op)}")
        validate_op_namespace(op)
    return found


def _list(op: ListNamespacesOp, alive: Alive) -> list[Path]:
    namespaces = {item.kept.namespace for item in alive.items.values()}
    wanted = listed(namespaces, op.match_conditions or (), op.max_depth)
    return wanted[op.offset : op.offset + op.limit]
