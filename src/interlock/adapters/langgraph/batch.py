"""One batch of a store's operations as calls of the space: all reads, then all writes at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, ParamSpec, TypeVar

from interlock import AsyncSpace, AsyncTx, Conflict, Held, Invalid, Json, Record
from interlock.adapters.langgraph.filters import listed, literal_prefix, passes
from interlock.adapters.langgraph.items import (
    ITEMS,
    REFRESHED,
    Found,
    Kept,
    Path,
    existing,
    item_key,
    lives_until,
    microseconds,
    plain,
    refresh_key,
    until,
)
from interlock.adapters.langgraph.vectors import Embedded
from interlock.adapters.langgraph.views import Views
from interlock.adapters.observed import (
    Caller,
    Observed,
    ObservedDict,
    TaskReads,
    called_by,
    observed,
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
        SearchOp,
        validate_op_namespace,
    )

P = ParamSpec("P")
T = TypeVar("T")
READS = TaskReads()  # of the tasks of all graphs of this process
# Where LangGraph tells a node which task it is, and which attempt at it.
_TASK_ID, _RUNTIME = "__pregel_task_id", "__pregel_runtime"
_REFRESHED_AFTER = 0.01  # of a time to live: reads that follow each other closely write once
_LEAST = float("-inf")


class Alive(NamedTuple):
    """Items that are not expired, by their keys in the space.

    `now` is the store's time, 0 if nobody asked; `ends` says when those die that do.
    """

    items: dict[str, Found]
    now: int = 0
    ends: Mapping[str, int] = {}  # never changed


NONE = Alive({})


class PutFrom(PutOp):
    """A `put` or `delete` whose caller names what it was computed from: `base`.

    That is an item that `get` or `search` returned, its value, or None: there was no item.
    """

    base: Item | Mapping[str, Json] | NotProvided | None = NOT_PROVIDED


class Batch:
    """The operations of one call, with what they need from outside of the space.

    `embedded` holds the vectors of the operations.  `overwrites`: what was never read is written
    over.
    """

    def __init__(
        self,
        space: AsyncSpace,
        views: Views,
        ops: tuple[Op, ...],
        embedded: Embedded,
        caller: Caller | None,
        overwrites: bool,
    ) -> None:
        self._space = space
        self._views = views
        self._ops = ops
        self._embedded = embedded
        self._caller = caller
        self._overwrites = overwrites
        self._now = 0  # the store's time, if anything was read that dies
        self._ends: dict[str, int] = {}  # when that dies
        self._put_off: dict[str, dict[str, int]] = {}  # what dies later, now that it was read

    async def results(self) -> list[Result]:
        """Do the operations and return their results."""
        gets = [_at(op) for op in self._ops if isinstance(op, GetOp)]
        asked = dict(await self._space.read_many(gets)) if gets else {}
        got = {item.record.key: item for item in await self._alive(existing(asked.values()))}
        results: list[Result] = []
        for op in self._ops:
            if isinstance(op, GetOp):
                item = got.get(_at(op))
                results.append(None if item is None else item.item())
                self._was_read(op, [] if item is None else [item])
            elif isinstance(op, SearchOp):
                hits, scores = await self._search(op)
                results.append([each.ranked(scores.get(each.record.key)) for each in hits])
                self._was_read(op, hits)
                asked.update((each.record.key, each.record) for each in hits)
            elif isinstance(op, ListNamespacesOp):
                results.append(await self._list(op))
            else:
                results.append(None)
        if self._put_off:
            await self._space.transact(self._refresh)
        written = await self._write()
        if self._caller is not None:
            for record in asked.values():
                if record.key not in written:
                    READS.read(self._caller, Observed.of(record))
        return results

    # Reading

    async def _search(self, op: SearchOp) -> tuple[list[Found], Mapping[str, float]]:
        """Return the items of a page, and scores by their keys in the space."""
        view = await self._views.view(self._space, tuple(op.namespace_prefix))
        hits: Iterable[Found] = view.newest
        if op.filter:
            passed = passes(plain(op.filter))
            hits = (item for item in view.newest if passed(item.kept.value))
        query = self._embedded.queries.get(op.query or "")
        scores: Mapping[str, float] = {}
        if query is not None:
            scores = near = view.scores(query)
            hits = sorted(hits, key=lambda item: near.get(item.record.key, _LEAST), reverse=True)
        return (await self._first(iter(hits), op.offset + op.limit))[op.offset :], scores

    async def _list(self, op: ListNamespacesOp) -> list[Path]:
        conditions = op.match_conditions or ()
        view = await self._views.view(self._space, literal_prefix(conditions))
        namespaces = {item.kept.namespace for item in await self._alive(view.newest)}
        return listed(namespaces, conditions, op.max_depth)[op.offset : op.offset + op.limit]

    async def _first(self, hits: Iterator[Found], count: int) -> list[Found]:
        """Return the first items that are not expired."""
        first: list[Found] = []
        while chunk := list(islice(hits, count - len(first))):
            first += await self._alive(chunk)
        return first

    async def _alive(self, items: Sequence[Found]) -> Iterable[Found]:
        alive = await live(self._space, items)
        self._now = alive.now or self._now
        self._ends.update(alive.ends)
        return alive.items.values()

    def _was_read(self, op: GetOp | SearchOp, items: Iterable[Found]) -> None:
        """Note what is to die later."""
        for item in items if op.refresh_ttl else ():
            kept, key = item.kept, item.record.key
            if kept.expires is not None and kept.ttl is not None:
                end = until(self._now, kept.ttl)
                if (end - self._ends[key]) > _REFRESHED_AFTER * (end - self._now):
                    self._put_off[refresh_key(key)] = {"of": kept.expires, "until": end}

    async def _refresh(self, tx: AsyncTx) -> None:
        for key, record in (await tx.read_many(self._put_off)).items():
            await tx.write(record, self._put_off[key])

    # Writing

    async def _write(self) -> list[str]:
        """Commit the writes; return the keys that were written."""
        puts = {_at(op): op for op in self._ops if isinstance(op, PutOp)}
        if not puts:
            return []
        claimed = self._caller is not None or any(map(_claims, puts.values()))
        if not claimed and not self._overwrites and await self._created(puts):
            return [*puts]
        records = await self._space.read_many(puts) if claimed or not self._overwrites else {}
        if self._overwrites and not any(self._basis(puts[at], records[at]) for at in records):
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

    async def _created(self, puts: Mapping[str, PutOp]) -> bool:
        """Create items without looking whether they are there; say whether that is done.

        Raises Conflict.
        """
        if any(op.value is None or op.ttl is not None for op in puts.values()):
            return False
        made = [("create", at, body(at, op, NONE, self._embedded)) for at, op in puts.items()]
        try:
            await commit(self._space, made)
        except Conflict as conflict:
            if not (await live(self._space, existing([conflict.record]))).items:
                return False  # it has expired
            raise _unread(conflict, puts[conflict.record.key]) from None
        return True

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
        alive = await live(self._space, existing(records.values()), timed)
        writes: list[Write] = []
        for key, op in puts.items():
            record = records[key]
            if op.value is None and not record.exists:
                continue
            basis = self._basis(op, record)
            if basis is None:
                if key in alive.items and not self._overwrites:
                    await self._refuse(record, op, basis)
            elif basis.version != record.version and (basis.version or key in alive.items):
                await self._refuse(record, op, basis)
            if op.value is None:
                writes.append(("delete", record))
            else:
                writes.append(("write", record, body(key, op, alive, self._embedded)))
        return writes

    def _basis(self, op: PutOp, record: Record) -> Observed | None:
        """Return what a write was computed from; None: nothing that is known.  Raises Invalid."""
        base = getattr(op, "base", NOT_PROVIDED)
        if base is None:
            return Observed.of(record)._replace(version=0)
        if base is not NOT_PROVIDED:
            named = observed(getattr(base, "value", base), record)
            if named is None:
                raise Invalid(
                    f"base= is not what get() or search() returned for {op.key!r:.60} of this store"
                )
            return named
        return observed(op.value, record) or READS.evidence(self._caller, record)

    async def _refuse(self, record: Record, op: PutOp, basis: Observed | None) -> None:
        """Raise the Conflict: the store refuses a write over an old version, and notes it."""
        before = basis or Observed.of(record)._replace(version=0)
        READS.refused(self._caller, record)
        try:  # versions never come back
            await commit(self._space, [("write", before.record(record), None)])
        except Conflict as conflict:
            if basis is not None:
                raise
            raise _unread(conflict, op) from None


def _claims(op: PutOp) -> bool:
    """Whether a write may say what it was computed from."""
    return getattr(op, "base", NOT_PROVIDED) is not NOT_PROVIDED or hasattr(op.value, "observed")


def _unread(conflict: Conflict, op: PutOp) -> Conflict:
    message = (
        f"{op.key!r:.60} in {op.namespace!r:.100} exists, and this caller has not read it: "
        "pass back the value that get() returned, or base=item, or use store.update(); "
        "Store(space, unread='overwrite') writes over what nobody read"
    )
    return Conflict(conflict.outcome.replace(message=message))


async def live(space: AsyncSpace, items: Sequence[Found], timed: bool = False) -> Alive:
    """Return the items that are not expired.  `timed`: ask for the time in any case."""
    by_key = {item.record.key: item for item in items}
    mortal = [item for item in items if item.kept.expires is not None]
    if not mortal and not timed:
        return Alive(by_key)
    names = {item.record.key: refresh_key(item.record.key) for item in mortal}
    later = await space.read_many(names.values()) if mortal else {}
    now = microseconds(await space.time())
    ends = {at: lives_until(by_key[at].kept, later[name]) for at, name in names.items()}
    return Alive({at: i for at, i in by_key.items() if ends.get(at, now + 1) > now}, now, ends)


def body(key: str, op: PutOp, alive: Alive, embedded: Embedded) -> dict[str, Json]:
    """Return what the space keeps of an item that is written over what is alive.  Raises
    Invalid."""
    if not isinstance(op.value, Mapping):
        raise Invalid(f"the value of {op.key!r:.60} must be a mapping, not {op.value!r:.60}")
    before = alive.items.get(key)
    return Kept(
        tuple(op.namespace),
        op.key,
        plain(op.value),
        None if before is None else before.created,
        op.ttl,
        None if op.ttl is None else until(alive.now, op.ttl),
        embedded.of(op),
    ).body()


async def sweep(space: AsyncSpace) -> int:
    """Delete expired items, and what says when items were read that are gone; count the items."""
    records = await space.scan(ITEMS)
    refreshed = await space.scan(REFRESHED)
    alive = await live(space, existing(records.values()))
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
    """Return which attempt at which task of a graph calls; None outside of graphs.

    Whatever contexts the node makes inherit the config that says so.
    """
    config = (var_child_runnable_config.get() or {}).get("configurable") or {}
    task = config.get(_TASK_ID)
    if task is None:
        return None
    attempt = getattr(getattr(config.get(_RUNTIME), "execution_info", None), "node_attempt", 1)
    return Caller.of(f"{task} {attempt}")


def by_caller(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a method whose reads are those of whoever calls it, also where another task awaits it,
    as in `asyncio.gather`."""

    @functools.wraps(method)
    def called(*args: P.args, **named: P.kwargs) -> Coroutine[Any, Any, T]:
        work, who = method(*args, **named), caller()
        return work if who is None else called_by(who, work)

    return called


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


def _at(op: GetOp | PutOp) -> str:
    return item_key(tuple(op.namespace), op.key)
