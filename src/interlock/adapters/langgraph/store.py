"""LangGraph's long-term memory in a space, guarded.  The layout of its keys is in `store_keys`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, cast

from interlock import AsyncSpace, AsyncTx, Invalid, Space, Tx
from interlock.adapters.calls import Steps, call, checked, run, run_async
from interlock.adapters.langgraph import store_reads as reads
from interlock.adapters.langgraph.store_batch import Alive, Batch, body, live, sweep, valid
from interlock.adapters.langgraph.store_index import NOT_EMBEDDED, Embedded, Index
from interlock.adapters.langgraph.store_keys import item_key
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import (
        NOT_PROVIDED,
        BaseStore,
        IndexConfig,
        InvalidNamespaceError,
        NotProvided,
        Op,
        PutOp,
        Result,
        TTLConfig,
    )

Value = Mapping[str, Any]
Paths = Literal[False] | list[str] | None
Minutes = float | None | NotProvided


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
    stores: an `IndexConfig` to search by meaning, a `TTLConfig` with times in minutes.

    A `put` or `delete` of an item that this task has read, with `get` or `search`, raises
    `interlock.Conflict` where the item has moved since; LangGraph's `RetryPolicy` then runs the
    node again.  A task is the task of a graph's node; outside of graphs a thread or asyncio task.
    One that this task has not read is overwritten, whatever it holds.  `update` loses nothing.

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
    ) -> None:
        self._space = checked(space, "Store")
        self._index = None if index is None else Index(index)
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations: all reads, then all writes in one commit.

        Raises Conflict, Invalid, InvalidNamespaceError.
        """
        asked = valid(ops)
        batch = Batch(self._space, asked, reads.current(), self._embed(asked))
        results, read = run(self._space, batch.steps())
        reads.remember(read)
        return cast(list[Result], results)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations, as `batch` does."""
        asked = valid(ops)
        batch = Batch(self._space, asked, reads.current(), await self._aembed(asked))
        results, read = await run_async(self._space, batch.steps())
        reads.remember(read)
        return cast(list[Result], results)

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

        def think(tx: Tx) -> tuple[dict[str, Any], reads.Reads]:
            record = tx.read(change.at)
            alive = run(space, live([record], change.op.ttl is not None))
            op = change.to(fn(change.value(alive)))
            kept = body(change.at, op, alive, self._embed([op]))
            tx.write(record, kept)
            return kept["value"], {reads.place(record): reads.after_write(record)}

        value, read = run(space, _one("transact", think))
        reads.remember(read)
        return cast(dict[str, Any], value)

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
            value, read = await _in_own_thread(self._space.transact, think)
        else:
            value, read = await self._space.transact(self._thinking_in_loop(change, fn))
        reads.remember(read)
        return cast(dict[str, Any], value)

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

        def think(tx: Tx) -> tuple[dict[str, Any], reads.Reads]:
            record = tx.read(change.at)
            alive = run(space, live([record], change.op.ttl is not None))
            new = fn(change.value(alive))
            op = change.to(awaited(new) if inspect.iscoroutine(new) else new)
            kept = body(change.at, op, alive, awaited(self._aembed([op])))
            tx.write(record, kept)
            return kept["value"], {reads.place(record): reads.after_write(record)}

        return think

    def _thinking_in_loop(
        self, change: _Change, fn: Callable[[Any], Any]
    ) -> Callable[[AsyncTx], Any]:
        async def think(tx: AsyncTx) -> tuple[dict[str, Any], reads.Reads]:
            record = await tx.read(change.at)
            alive = await run_async(self._space, live([record], change.op.ttl is not None))
            old = change.value(alive)
            new = await (fn(old) if inspect.iscoroutinefunction(fn) else asyncio.to_thread(fn, old))
            op = change.to(new)
            kept = body(change.at, op, alive, await self._aembed([op]))
            await tx.write(record, kept)
            return kept["value"], {reads.place(record): reads.after_write(record)}

        return think

    def _embed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else self._index.embed(ops)

    async def _aembed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else await self._index.aembed(ops)

    def _change(
        self, namespace: tuple[str, ...], key: str, default: Any, index: Paths, ttl: Minutes
    ) -> _Change:
        if not namespace or namespace[0] == "langgraph":
            raise InvalidNamespaceError(
                f"a namespace has labels, and the first is not 'langgraph': {namespace!r:.60}"
            )
        if isinstance(ttl, NotProvided):
            ttl = (self.ttl_config or {}).get("default_ttl")
        op = PutOp(tuple(namespace), str(key), None, index, ttl)
        valid([op])
        return _Change(item_key(op.namespace, op.key), op, default)


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
