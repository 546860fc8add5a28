"""LangGraph's long-term memory in a space, guarded.  The layout of its keys is in `items`."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, TypeVar

from interlock import AsyncSpace, AsyncTx, Invalid, Json, Record, Space
from interlock.adapters.home import ForLangGraph, Home
from interlock.adapters.langgraph.batch import (
    READS,
    Batch,
    PutFrom,
    body,
    by_caller,
    caller,
    live,
    sweep,
    valid,
)
from interlock.adapters.langgraph.items import existing, item_key
from interlock.adapters.langgraph.sweeper import Stopped, Sweeper
from interlock.adapters.langgraph.vectors import NOT_EMBEDDED, Embedded, Index
from interlock.adapters.langgraph.views import Views
from interlock.adapters.observed import Observed, ObservedDict
from interlock.adapters.space import Work, one_of, run
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
        validate_op_namespace,
    )

Value = Mapping[str, Json]
Paths = Literal[False] | list[str] | None
Minutes = float | None | NotProvided
Base = Item | Value | None | NotProvided
Answer = TypeVar("Answer")


class Store(ForLangGraph, BaseStore):
    """A LangGraph store: `builder.compile(store=Store("postgresql://..."))`.

    `space`: a URL, or what `interlock.open` returned, for synchronous and asynchronous graphs, or
    what `interlock.open_async` did, for asynchronous ones.  `with Store(url)` and
    `async with Store(url)` open and close a space at a URL; `space_name` and `agent` are the
    arguments of `interlock.open`.  `index` and `ttl` are those of LangGraph's own stores: an
    `IndexConfig` to search by meaning, a `TTLConfig` with times in minutes.  Raises Invalid.

    A `put` or `delete` of an item that exists must come from what is there now, or it raises
    `interlock.Conflict`; LangGraph's `RetryPolicy` then runs the node again.  It comes from

    - the value that `get` or `search` returned, changed or not, or a `copy()` of it;
    - the item that is named as `base=` (None: there was none);
    - in a node of a graph, what its task has read, however the new value was made.

    With `unread="overwrite"` a write that comes from none of these is written over whatever is
    there; by default it is refused, too.  `update` needs nothing, and loses nothing.

    Values are JSON, times are kept as text; an item with its vectors has the size of a value of
    the space at most (1 MiB unless it was opened otherwise): `interlock.Invalid` is raised.
    """

    supports_ttl = True

    def __init__(
        self,
        space: Space | AsyncSpace | str,
        *,
        space_name: str = "default",
        agent: str | None = None,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
    ) -> None:
        one_of("unread", unread, "refuse", "overwrite")
        self._overwrites = unread == "overwrite"
        self._home = Home(space, "Store", space_name, agent)
        self.index_config = index
        self._index = None if index is None else Index(index)
        self.embeddings = None if self._index is None else self._index.embeddings
        self._views = Views(self._index)
        self.ttl_config = ttl
        self._sweeper: Sweeper | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations: all reads, then all writes in one commit.

        Raises Conflict, Invalid, InvalidNamespaceError.
        """
        asked = valid(ops)
        return self._home.run(self._batch(asked, self._embed(asked)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do several operations, like `batch`."""
        asked = valid(ops)
        return await self._home.run_async(self._batch(asked, await self._aembed(asked)))

    # Not the writes: of several at once, which come from one read, one counts.
    aget = by_caller(BaseStore.aget)
    asearch = by_caller(BaseStore.asearch)

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
        if there was none.

        Raises Conflict, Invalid, InvalidNamespaceError.
        """
        self.batch([self._op(_open(namespace), key, value, index, ttl, base)])

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
        """Store an item, like `put`."""
        await self.abatch([self._op(_open(namespace), key, value, index, ttl, base)])

    def delete(self, namespace: tuple[str, ...], key: str, *, base: Base = NOT_PROVIDED) -> None:
        """Delete an item; `base` as for `put`.  Raises Conflict, Invalid, InvalidNamespaceError."""
        self.batch([self._op(namespace, key, None, None, None, base)])

    async def adelete(
        self, namespace: tuple[str, ...], key: str, *, base: Base = NOT_PROVIDED
    ) -> None:
        """Delete an item, like `delete`."""
        await self.abatch([self._op(namespace, key, None, None, None, base)])

    def update(
        self,
        namespace: tuple[str, ...],
        key: str,
        fn: Callable[[Json], Value],
        *,
        default: Json = None,
        index: Paths = None,
        ttl: Minutes = NOT_PROVIDED,
    ) -> dict[str, Json]:
        """Read an item, call `fn(value)`, write what it returns, and return that.

        `fn` gets `default` if there is no such item.  It may run several times, with the fresh
        value, so it must have no side effects.  Nothing is lost and nobody is refused: after a
        conflict it takes a turn.  `index` and `ttl` are those of `put`.

        Raises Contended after 20 conflicts, Invalid, InvalidNamespaceError.
        """
        if inspect.iscoroutinefunction(fn):
            raise Invalid("fn is a coroutine function; use aupdate")
        op = self._op(_open(namespace), key, None, index, ttl, NOT_PROVIDED)

        async def think(value: Json) -> object:
            return fn(value)

        async def embed(op: PutOp) -> Embedded:
            return self._embed([op])

        return _returned(*self._home.run(self._updated(op, default, think, embed)))

    async def aupdate(
        self,
        namespace: tuple[str, ...],
        key: str,
        fn: Callable[[Json], Value | Awaitable[Value]],
        *,
        default: Json = None,
        index: Paths = None,
        ttl: Minutes = NOT_PROVIDED,
    ) -> dict[str, Json]:
        """Change an item, as `update` does.

        `fn` is a coroutine function, or a plain one, which then runs in a worker thread.
        """
        op = self._op(_open(namespace), key, None, index, ttl, NOT_PROVIDED)
        if isinstance(self.space, Space):
            done = await self._updated_in_thread(self.space, op, default, fn)
        else:

            async def think(value: Json) -> object:
                if inspect.iscoroutinefunction(fn):
                    return await fn(value)
                return await asyncio.to_thread(fn, value)

            async def embed(op: PutOp) -> Embedded:
                return await self._aembed([op])

            done = await self._updated(op, default, think, embed)
        return _returned(*done)

    def sweep_ttl(self) -> int:
        """Delete what is expired, and return how many items that were.

        Expired items are in no answer anyway; this gives their room back.
        """
        return self._home.run(sweep(self._home.calls))

    async def asweep_ttl(self) -> int:
        """Delete what is expired, like `sweep_ttl`."""
        return await self._home.run_async(sweep(self._home.calls))

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Sweeper:
        """Delete what is expired every so many minutes, until `stop_ttl_sweeper`.

        The default is that of `ttl`, or 5.  May be awaited, which returns the same at once.  It
        ends, too, when what this returns is cancelled.  Raises Invalid.
        """
        if self._sweeper is None or self._sweeper.done():
            every = (self.ttl_config or {}).get("sweep_interval_minutes")
            given = every if sweep_interval_minutes is None else sweep_interval_minutes
            self._sweeper = Sweeper(partial(Store.sweep_ttl, self), 5 if given is None else given)
        return self._sweeper

    def stop_ttl_sweeper(self, timeout: float | None = None) -> Stopped:
        """Stop the sweeper; return whether it has ended within `timeout` seconds.

        May be awaited, which returns the same.
        """
        return Stopped(True) if self._sweeper is None else self._sweeper.stop(timeout)

    def close(self) -> None:
        """Close the space of a plain `Store(url)`, and stop the sweeper."""
        self.stop_ttl_sweeper()
        super().close()

    def __exit__(self, *problem: object) -> None:
        self.close()

    async def __aexit__(self, *problem: object) -> None:
        self.stop_ttl_sweeper()
        await super().__aexit__(*problem)

    async def _updated(
        self,
        asked: PutOp,
        default: Json,
        think: Callable[[Json], Awaitable[object]],
        embed: Callable[[PutOp], Awaitable[Embedded]],
    ) -> tuple[dict[str, Json], Record]:
        """Return the value that was written, and the record that it was written over."""
        at = item_key(asked.namespace, asked.key)

        async def decide(tx: AsyncTx) -> tuple[dict[str, Json], Record]:
            record = await tx.read(at)
            alive = await live(self._home.calls, existing([record]), asked.ttl is not None)
            item = alive.items.get(at)
            value: Any = await think(default if item is None else item.kept.value)
            op = asked._replace(value=value)
            kept = body(at, op, alive, await embed(op))
            await tx.write(record, kept)
            return kept["value"], record

        done: tuple[dict[str, Json], Record] = await self._home.calls.transact(decide)
        return done

    async def _updated_in_thread(
        self,
        space: Space,
        op: PutOp,
        default: Json,
        fn: Callable[[Json], Value | Awaitable[Value]],
    ) -> tuple[dict[str, Json], Record]:
        loop = asyncio.get_running_loop()

        def awaited(work: Work[Answer]) -> Answer:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        async def think(value: Json) -> object:
            new = fn(value)
            return awaited(new) if inspect.iscoroutine(new) else new

        async def embed(op: PutOp) -> Embedded:
            return awaited(self._aembed([op]))

        return await _in_own_thread(lambda: run(space, self._updated(op, default, think, embed)))

    def _batch(self, ops: tuple[Op, ...], embedded: Embedded) -> Work[list[Result]]:
        return Batch(
            self._home.calls, self._views, ops, embedded, caller(), self._overwrites
        ).results()

    def _op(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Value | None,
        index: Paths,
        ttl: Minutes,
        base: Base,
    ) -> PutFrom:
        if isinstance(ttl, NotProvided):
            ttl = (self.ttl_config or {}).get("default_ttl")
        given: Any = value  # LangGraph asks for a dict, and any mapping will do
        op = PutFrom(tuple(namespace), str(key), given, index, ttl)
        validate_op_namespace(op)
        op.base = base
        return op

    def _embed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else self._index.embed(ops)

    async def _aembed(self, ops: Iterable[Op]) -> Embedded:
        return NOT_EMBEDDED if self._index is None else await self._index.aembed(ops)


def _open(namespace: tuple[str, ...]) -> tuple[str, ...]:
    """Return a namespace that users may write.  Raises InvalidNamespaceError."""
    if not namespace or namespace[0] == "langgraph":
        raise InvalidNamespaceError(
            f"namespace={namespace!r:.60} is empty, or starts with 'langgraph'"
        )
    return namespace


def _returned(value: dict[str, Json], before: Record) -> ObservedDict:
    """Return what an update has written, as it would be read."""
    after = Observed.after_write(before)
    READS.read(caller(), after)
    return ObservedDict(value, after)


async def _in_own_thread(work: Callable[[], Answer]) -> Answer:
    """Run what waits for coroutines of this loop in a thread of its own.

    Threads of the loop's pool could all be waiting for coroutines that need one of them.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="interlock-update")
    try:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(pool, context.run, work)
    finally:
        pool.shutdown(wait=False)
