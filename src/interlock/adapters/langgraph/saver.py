"""A LangGraph checkpointer on a space: runs on one thread cannot overwrite each other.

A checkpoint is refused (Conflict) if another run has already continued from the same parent.  While
a run holds the thread (`Saver.run`), everybody else is refused (Held, Fenced).

To decode a value nothing is imported or called that was not allowed.  LangGraph's serializer calls
whatever a stored value names, and whoever can write to the store can name `os.system`.  Here it
makes plain data, LangChain's messages and LangGraph's own types, and otherwise only the types that
the user of the saver lists.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from interlock import AsyncSpace, Invalid, Json, Space
from interlock.adapters.home import ForLangGraph, Home
from interlock.adapters.langgraph import checkpoints, stored, thread
from interlock.adapters.langgraph.call import End, end_of_call, is_call, is_within
from interlock.adapters.langgraph.checkpoints import EPOCH
from interlock.adapters.langgraph.recent import Recent
from interlock.adapters.langgraph.run import POLICIES, TTL, ThreadRun, inherited
from interlock.adapters.space import Work, one_of

T = TypeVar("T")


class Saver(ForLangGraph, BaseCheckpointSaver[str]):
    """Checkpoints of LangGraph threads in a space.

    The first argument is a URL, or what `interlock.open` returned, for both ways of calling a
    graph, or what `interlock.open_async` did, for the asynchronous ones; the synchronous ones then
    work from other threads than that of its event loop.  `with Saver(url)` and `async with
    Saver(url)` open and close a space; `space` and `agent` are arguments of `interlock.open`.
    `serde` is LangGraph's, such as an `EncryptedSerializer`.

    While a graph is called on a thread (`invoke`, `stream`), the thread belongs to that call.
    `on_busy`, `wait` and `lease_ttl` are those of `run`, for such calls; with `on_busy=None` they
    don't wait for each other, and whoever comes second is refused when it stores its first step.

    `ttl={"default_ttl": minutes}`: `sweep_ttl` removes threads in which nothing was stored for so
    long.

    `allow` lists your own classes (or pairs of module and name) that the state holds: dataclasses,
    enums, pydantic models.  Plain data, LangChain's messages and LangGraph's types are always read;
    anything else in a checkpoint raises Invalid.  With `allow=True` a checkpoint may call any
    function of any module: use it only if you trust everybody who can write to the store.

    Raises Invalid.
    """

    def __init__(
        self,
        place: Space | AsyncSpace | str,
        /,
        *,
        space: str = "default",
        agent: str | None = None,
        serde: SerializerProtocol | None = None,
        allow: Allowed = (),
        on_busy: str | None = "enqueue",
        wait: float | None = None,
        lease_ttl: float = TTL,
        ttl: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(serde=strict(serde, allow))
        if on_busy is not None:
            one_of("on_busy", on_busy, *POLICIES)
        self._home = Home(place, "Saver", space, agent)
        self._on_busy = on_busy
        self._wait = wait
        self._lease_ttl = lease_ttl
        self._recent = Recent[stored.Stored]()
        self._minutes = _minutes(ttl)

    def run(
        self,
        thread_id: str,
        *,
        config: RunnableConfig | None = None,
        on_busy: str = "enqueue",
        once: str | None = None,
        ttl: float = TTL,
        wait: float | None = None,
    ) -> ThreadRun:
        """Return a run on a thread, for a `with` or an `async with` block that gives its config.

        `async with saver.run("thread-1") as config: await graph.ainvoke(input, config)`.  Only one
        run at a time works on a thread.  If there is one, `on_busy` says what happens: `enqueue`
        waits for it, first come, first served, for `wait` seconds (None: without limit); `reject`
        raises Held; `interrupt` takes the thread away from it and keeps what it has stored;
        `rollback` also removes what it has stored.  `ttl`: seconds after which others may take over
        the thread of a process that has died.  `once` names the input: one that was handled already
        raises AlreadyDone, see `ThreadRun.input`.  `config` is added to the config.

        Entering raises Held, AlreadyDone, Invalid (also inside another run of the same thread,
        which would wait for itself).  A run that lost the thread is Fenced at its next checkpoint,
        or when the block ends.
        """
        return ThreadRun(self._home, self.serde, thread_id, config, on_busy, once, ttl, wait)

    def get_next_version(self, current: str | None, channel: None) -> str:
        """Return a version above `current`, which no other branch of the thread gives."""
        number = int(str(current).split(".")[0]) if current is not None else 0
        return f"{number + 1:032}.{random.random():016}"

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or the newest of its thread.

        For a call of a graph that begins: take its thread first.  Raises Held, Invalid (within
        another run of the thread, which would wait for itself).
        """
        if begins := self._begins(config):
            run, end = begins
            run.begin(config, end)
        return self._run(stored.get_tuple(self._home.calls, self.serde, self._recent, config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Like `get_tuple`."""
        if begins := self._begins(config):
            run, end = begins
            await run.begin_async(config, end)
        return await self._arun(
            stored.get_tuple(self._home.calls, self.serde, self._recent, config)
        )

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Json] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yield checkpoints, newest first: of a namespace, a thread, or all."""
        listing = stored.Listing(self._home.calls, self.serde, config, filter, before, limit)
        while found := self._run(listing.batch()):
            yield from found

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Json] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Like `list`."""
        listing = stored.Listing(self._home.calls, self.serde, config, filter, before, limit)
        while found := await self._arun(listing.batch()):
            for each in found:
                yield each

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint, and return its config.

        Raises Conflict if another run has continued from the same parent, or the parent was
        removed; Held while a run holds the thread; Fenced if this run has lost it.  If the call's
        input is in the thread already, Overtaken is raised in place of Conflict and Held.
        """
        what = (config, checkpoint, metadata, new_versions)
        return self._run(checkpoints.put(self._home.calls, self.serde, self._recent, *what))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Like `put`."""
        what = (config, checkpoint, metadata, new_versions)
        return await self._arun(checkpoints.put(self._home.calls, self.serde, self._recent, *what))

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote on top of a checkpoint.

        Raises Held or Overtaken while a run holds the thread, Fenced if this run has lost it.
        """
        what = (config, writes, task_id, task_path)
        self._run(checkpoints.put_writes(self._home.calls, self.serde, self._recent, *what))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, object]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Like `put_writes`."""
        what = (config, writes, task_id, task_path)
        await self._arun(checkpoints.put_writes(self._home.calls, self.serde, self._recent, *what))

    def delete_thread(self, thread_id: str, *, erase: bool = False) -> None:
        """Remove all that is kept of a thread, with `erase` from the log, too, for good.

        Raises Held while a run holds it.
        """
        self._run(thread.delete_thread(self._home.calls, str(thread_id), erase))

    async def adelete_thread(self, thread_id: str, *, erase: bool = False) -> None:
        """Like `delete_thread`."""
        await self._arun(thread.delete_thread(self._home.calls, str(thread_id), erase))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another one.  Raises Conflict if that has any."""
        self._run(
            thread.copy_thread(self._home.calls, str(source_thread_id), str(target_thread_id))
        )

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Like `copy_thread`."""
        await self._arun(
            thread.copy_thread(self._home.calls, str(source_thread_id), str(target_thread_id))
        )

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint of each namespace, with what its delta channels are read from;
        with the strategy `delete`, nothing.

        Raises Held while a run holds a thread, Invalid.
        """
        self._run(thread.prune(self._home.calls, self.serde, thread_ids, strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Like `prune`."""
        await self._arun(thread.prune(self._home.calls, self.serde, thread_ids, strategy))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints made under these run ids.  Raises Held while a run holds their
        thread."""
        self._run(thread.delete_for_runs(self._home.calls, self.serde, run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Like `delete_for_runs`."""
        await self._arun(thread.delete_for_runs(self._home.calls, self.serde, run_ids))

    def sweep_ttl(self) -> int:
        """Remove the threads that `ttl` finds idle, except those that a run works on.

        Returns how many.
        """
        return self._run(thread.sweep(self._home.calls, self._minutes)) if self._minutes else 0

    async def asweep_ttl(self) -> int:
        """Like `sweep_ttl`."""
        work = thread.sweep(self._home.calls, self._minutes) if self._minutes else None
        return await self._arun(work) if work else 0

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Return what each channel was written along the parents, back to where its value is."""
        return self._run(stored.history(self._home.calls, self.serde, config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Like `get_delta_channel_history`."""
        return await self._arun(stored.history(self._home.calls, self.serde, config, channels))

    def _begins(self, config: RunnableConfig) -> tuple[ThreadRun, End] | None:
        """Return the run that a call of a graph begins, and its end; None if it begins none.

        LangGraph reads the thread first, and stores everything under the config that it read with.
        """
        conf = config["configurable"]
        if self._on_busy is None or EPOCH in conf or not is_call(config):
            return None
        if is_within(config):  # it belongs to the run of its parent, whose config has lost it
            if (epoch := inherited(config)) is not None:
                conf[EPOCH] = epoch
            return None
        end = end_of_call()
        if end is None:
            return None
        noted = self._on_busy == "rollback"
        policy = (self._on_busy, None, self._lease_ttl, self._wait)
        return ThreadRun(self._home, self.serde, conf["thread_id"], None, *policy, noted), end

    def _run(self, work: Work[T]) -> T:
        return self._home.run(work)

    async def _arun(self, work: Work[T]) -> T:
        return await self._home.run_async(work)


def _minutes(ttl: Mapping[str, Any] | None) -> float | None:
    """Return how many minutes a thread may be idle.  Raises Invalid."""
    given = dict(ttl or {})
    minutes: float | None = given.pop("default_ttl", None)
    number = isinstance(minutes, int | float) and not isinstance(minutes, bool) and minutes > 0
    if given or not (number or minutes is None):
        raise Invalid(
            f"ttl={ttl!r:.80} must be {{'default_ttl': minutes}}; reads don't refresh it."
        )
    return minutes


Allowed = Iterable[type | tuple[str, ...]] | Literal[True]
_KINDS = ("null", "bytes", "bytearray", "msgpack")  # "json" and "pickle" are never written

_blocked: ContextVar[list[tuple[str, str]] | None] = ContextVar("interlock_blocked", default=None)


def _note(event: SerdeEvent) -> None:
    found = _blocked.get()
    if found is not None and event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        found.append((event["module"], event["name"]))


register_serde_event_listener(_note)


class StrictSerializer(JsonPlusSerializer):
    """LangGraph's serializer with an allow-list: a type that is not on it raises Invalid.

    LangGraph's own strict mode returns the type's data in its place, which graphs then go on with.
    """

    def __init__(self, allow: Iterable[type | tuple[str, ...]] = ()) -> None:
        self.allow = frozenset(map(_name, allow))
        super().__init__(allowed_msgpack_modules=[*self.allow] or None)

    def loads_typed(self, data: tuple[str, bytes]) -> object:
        """Return the value.  Raises Invalid."""
        if data[0] not in _KINDS:
            raise Invalid(
                f"A checkpoint has a value of kind {data[0]!r:.40}, which is never decoded."
            )
        found: list[tuple[str, str]] = []
        token = _blocked.set(found)
        try:
            value = super().loads_typed(data)
        finally:
            _blocked.reset(token)
        if found:
            names = ", ".join(repr(each) for each in dict.fromkeys(found))
            raise Invalid(
                f"A checkpoint has types that are not allowed: {names:.400}. "
                "If they are yours, name them: Saver(space, allow=[YourType, ...])"
            )
        return value

    def with_msgpack_allowlist(
        self, extra_allowlist: Iterable[tuple[str, ...] | type]
    ) -> StrictSerializer:
        """Return one that allows these types, too; LangGraph asks for those of a graph's state."""
        return StrictSerializer({*self.allow, *map(_name, extra_allowlist)})


def strict(serde: SerializerProtocol | None, allow: Allowed) -> SerializerProtocol:
    """Return a serializer as strict as it can be made; `allow=True` returns it as it is.

    Raises Invalid if it unpickles.
    """
    if allow is True:
        return JsonPlusSerializer(allowed_msgpack_modules=True) if serde is None else serde
    names = frozenset(map(_name, allow))
    if isinstance(serde, EncryptedSerializer):  # it also decodes what is not encrypted
        return EncryptedSerializer(serde.cipher, strict(serde.serde, names))
    if isinstance(serde, JsonPlusSerializer) and serde.pickle_fallback:
        raise Invalid(
            "pickle_fallback lets whoever can write to the store run code here. "
            "Remove it, or pass allow=True if you trust all of them"
        )
    if serde is None or type(serde) is JsonPlusSerializer:
        listed = getattr(serde, "_allowed_msgpack_modules", None)
        return StrictSerializer({*names, *(listed if isinstance(listed, set) else ())})
    return serde.with_msgpack_allowlist(names) if isinstance(serde, StrictSerializer) else serde


def _name(allowed: type | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(allowed, type):
        return allowed.__module__, allowed.__name__
    if isinstance(allowed, tuple) and [type(part) for part in allowed] == [str, str]:
        return allowed
    raise Invalid(f"allow={allowed!r:.60} must be a class or a pair (module, name).")
