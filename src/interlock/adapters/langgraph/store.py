"""LangGraph's long-term memory in a space, guarded.  The layout of its keys is in `store_keys`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Self, cast

from interlock import AsyncSpace, AsyncTx, Invalid, Record, Space, Tx
from interlock.adapters.calls import Steps, call, checked, run, run_async
from interlock.adapters.langgraph.store_batch import (
    READS,
    Alive,
    Batch,
    PutFrom,
    body,
    caller,
    live,
    sweep,
    valid,
)
from interlock.adapters.langgraph.store_index import NOT_EMBEDDED, Embedded, Index
from interlock.adapters.langgraph.store_keys import item_key
from interlock.adapters.observed import Observed, ObservedDict
from interlock.adapters.opened import Opened
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import (
        NOT_PROVIDED,
        BaseStore,
        IndexConfig,
        InvalidNamespaceError,
        Item,
        NotProvided,
        Op,
        PutOp,
        Result,
        TTLConfig,
    )

Value = Mapping[str, Any]
Paths = Literal[False] | list[str] | None
Minutes = float | None | NotProvided
Base = Item | Value | None | NotProvided


class _Change(NamedTuple):
    """What `update` is asked to write: where, and how it is indexed and lives."""

    at: str
    op: PutOp
    default: Any

    def value(self, alive: Alive) -> Any:
        item = alive.items.get(self.at)
        return self.default if item is None else item.kept.value

    def to(self, value: Any) -> PutOp:
        if not isinstance(value, Mapping):
            raise Invalid(
                f"fn returned {value!r:.60} for {self.op.key!r:.60}; a value is a mapping"
            )
        return self.op._replace(value=value)


class Store(BaseStore):
    """A LangGraph store in a space: `builder.compile(store=Store(space))`.

    `space` is from `interlock.open`, for synchronous and asynchronous graphs, or from
    `interlock.open_async`, for asynchronous ones.  `index` and `ttl` are those of LangGraph's own
    stores: an `IndexConfig` to search by meaning, a `TTLConfig` with times in minutes.  Raises
    Invalid.

    A `put` or `delete` of an item that exists must come from what is there now, or it raises
    `interlock.Conflict`; LangGraph's `RetryPolicy` then runs the node again.  It comes from

    - the value that `get` or `search` returned, changed or not, or a `copy()` of it;
    - the item that is named as `base=` (None: there was none);
    - in a node of a graph, what its task has read, however the new value was made.

    With `unread="overwrite"` a write that comes from none of these is written over whatever is
    there; by default it is refused, too.  `update` needs nothing, and loses nothing.

    Values are JSON; an item with its vectors has the size of a value of the space at most (1 MiB
    unless it was opened otherwise): `interlock.Invalid` is raised.
    """

    supports_ttl = True

    def __init__(
        self,
        space: Space | AsyncSpace,
        *,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        if unread not in ("refuse", "overwrite"):
            raise Invalid(f"unread={unread!r:.60} is neither 'refuse' nor 'overwrite'")
        self._overwrites = unread == "overwrite"
        self._space = checked(space, "Store")
        self._index = None if index is None else Index(index)
        self.ttl_config = ttl

    @classmethod
    def from_conn_string(
        cls, conn_string: str, *, space: str = "default", agent: str | None = None, **options: Any
    ) -> Opened[Self]:
        """Open a space, for `with` or `async with`: `with Store.from_conn_string(url) as store:`.

        The arguments are those of `interlock.open`; `options` are those of Store.
        """
        return Opened(lambda opened: cls(opened, **options), conn_string, space, agent)

    def setup(self) -> None:
        """Do nothing: a space is made when it is opened."""

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations: all reads, then all writes in one commit.

        Raises Conflict, Invalid, InvalidNamespaceError.
        """
        asked = valid(ops)
        return cast(list[Result], run(self._space, self._batch(asked, self._embed(asked))))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations, as `batch` does."""
        asked = valid(ops)
        steps = self._batch(asked, await self._aembed(asked))
        return cast(list[Result], await run_async(self._space, steps))

    def put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Value,
        index: Paths = None,
        *,
        ttl: Minutes = NOT_PROVIDED,
        base: Base = NOT_PROVIDED,
    ) -> None:
        """Store an item.  `base`: the item, or its value, that `value` was computed from; None
        where there was none.

        Raises Conflict, Invalid, InvalidNamespaceError.
        """
        self.batch([self._op(namespace, key, value, index, ttl, base)])

    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Value,
        index: Paths = None,
        *,
        ttl: Minutes = NOT_PROVIDED,
        base: Base = NOT_PROVIDED,
    ) -> None:
        """Store an item, as `put` does."""
        await self.abatch([self._op(namespace, key, value, index, ttl, base)])

    def delete(self, namespace: tuple[str, ...], key: str, *, base: Base = NOT_PROVIDED) -> None:
        """Delete an item; `base` as for `put`.  Raises Conflict, Invalid, InvalidNamespaceError."""
        self.batch([self._op(namespace, key, None, None, None, base)])

    async def adelete(
        self, namespace: tuple[str, ...], key: str, *, base: Base = NOT_PROVIDED
    ) -> None:
        """Delete an item, as `delete` does."""
        await self.abatch([self._op(namespace, key, None, None, None, base)])

    def update(
        self,
        namespace: tuple[str, ...],
        key: str,
        fn: Callable[[Any], Value],
        *,
        default: Any = None,
        index: Paths = None,
        ttl: Minutes = NOT_PROVIDED,
    ) -> dict[str, Any]:
        """Read an item, let `fn(value)` think, write what it returns; return that.

        `fn` gets `default` where there is no such item.  It may run several times, with the fresh
        value, so effects do not belong into it.  Nothing is lost, and nobody is refused: after a
        conflict it takes a turn.  `index` and `ttl` are those of `put`.

        Raises Contended after 20 conflicts, Invalid, InvalidNamespaceError.
        """
        if inspect.iscoroutinefunction(fn):
            raise Invalid("fn is a coroutine function; use aupdate")
        change, space = self._change(namespace, key, default, index, ttl), self._space

        def think(tx: Tx) -> tuple[dict[str, Any], Record]:
            record = tx.read(change.at)
            alive = run(space, live([record], change.op.ttl is not None))
            op = change.to(fn(change.value(alive)))
            kept = body(change.at, op, alive, self._embed([op]))
            tx.write(record, kept)
            return kept["value"], record

        return _returned(*run(space, _one("transact", think)))

    async def aupdate(
        self,
        namespace: tuple[str, ...],
        key: str,
        fn: Callable[[Any], Value | Awaitable[Value]],
        *,
        default: Any = None,
        index: Paths = None,
        ttl: Minutes = NOT_PROVIDED,
    ) -> dict[str, Any]:
        """Change an item, as `update` does.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.
        """
        change = self._change(namespace, key, default, index, ttl)
        if isinstance(self._space, Space):
            think = self._thinking_in_thread(self._space, change, fn)
            done = await _in_own_thread(self._space.transact, think)
        else:
            done = await self._space.transact(self._thinking_in_loop(change, fn))
        return _returned(*done)

    def sweep_ttl(self) -> int:
        """Delete what is expired, and return how many items that were.

        Expired items are in no answer anyway; this gives their room back.  Call it now and then.
        """
        return cast(int, run(self._space, sweep()))

    async def asweep_ttl(self) -> int:
        """Delete what is expired, as `sweep_ttl` does."""
        return cast(int, await run_async(self._space, sweep()))

    def _thinking_in_thread(
        self, space: Space, change: _Change, fn: Callable[[Any], Any]
    ) -> Callable[[Tx], Any]:
        loop = asyncio.get_running_loop()

        def awaited(thought: Coroutine[Any, Any, Any]) -> Any:
            return asyncio.run_coroutine_threadsafe(thought, loop).result()

        def think(tx: Tx) -> tuple[dict[str, Any], Record]:
            record = tx.read(change.at)
            alive = run(space, live([record], change.op.ttl is not None))
            new = fn(change.value(alive))
            op = change.to(awaited(new) if inspect.iscoroutine(new) else new)
            kept = body(change.at, op, alive, awaited(self._aembed([op])))
            tx.write(record, kept)
            return kept["value"], record

        return think

    def _thinking_in_loop(
        self, change: _Change, fn: Callable[[Any], Any]
    ) -> Callable[[AsyncTx], Any]:
        async def think(tx: AsyncTx) -> tuple[dict[str, Any], Record]:
            record = await tx.read(change.at)
            alive = await run_async(self._space, live([record], change.op.ttl is not None))
            old = change.value(alive)
            new = await (fn(old) if inspect.iscoroutinefunction(fn) else asyncio.to_thread(fn, old))
            op = change.to(new)
            kept = body(change.at, op, alive, await self._aembed([op]))
            await tx.write(record, kept)
            return kept["value"], record

        return think

    def _batch(self, ops: tuple[Op, ...], embedded: Embedded) -> Steps:
        return Batch(self._space, ops, embedded, caller(), self._overwrites).steps()

    def _op(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Value | None,
        index: Paths,
        ttl: Minutes,
        base: Base,
    ) -> PutFrom:
        if not namespace or namespace[0] == "langgraph":
            raise InvalidNamespaceError(
                f"a namespace has labels, and the first is not 'langgraph': {namespace!r:.60}"
            )
        if isinstance(ttl, NotProvided):
            ttl = (self.ttl_config or {}).get("default_ttl")
        given: Any = value
        op = PutFrom(tuple(namespace), str(key), given, index, ttl)
        op.base = base
        return op

    def _embed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else self._index.embed(ops)

    async def _aembed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else await self._index.aembed(ops)

    def _change(
        self, namespace: tuple[str, ...], key: str, default: Any, index: Paths, ttl: Minutes
    ) -> _Change:
        op = self._op(namespace, key, None, index, ttl, NOT_PROVIDED)
        valid([op])
        return _Change(item_key(op.namespace, op.key), op, default)


def _returned(value: dict[str, Any], before: Record) -> ObservedDict:
    """Return what an update has written, as it would be read."""
    after = Observed.after_write(before)
    READS.read(caller(), after)
    return ObservedDict(value, after)


def _one(name: str, *args: Any) -> Steps:
    """One call of the space, and its answer."""
    return (yield call(name, *args))


async def _in_own_thread(work: Callable[[Any], Any], think: Callable[[Tx], Any]) -> Any:
    """Run what waits for coroutines of this loop in a thread of its own.

    Threads of the loop's pool could all be waiting for coroutines that need one of them.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="interlock-update")
    try:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(pool, context.run, work, think)
    finally:
        pool.shutdown(wait=False)
