"""LlamaIndex workflows: state, handlers and events that steps, servers and hosts may share.

`WorkflowServer(workflow_store=WorkflowStore(space))` is all that changes.  A save of state goes
over what was loaded, so `edit_state` is optimistic, across replicas, too; and a `set` is checked
against what was got before.  Below `llama-index/` are `state/<run>/<namespace>`,
`handlers/<handler>`, and `events/<run>` and `ticks/<run>`, which count the keys `events/<run>/<n>`
and `ticks/<run>/<n>`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, cast

from interlock import AsyncSpace, Conflict, Json, Record, Space
from interlock.adapters.home import Closing
from interlock.adapters.kv import unread_record
from interlock.adapters.observed import with_advice
from interlock.adapters.space import awaitable, checked, quoted, run_async
from interlock.extras import needs

with needs("LlamaIndex workflows", "llama-index"):
    from llama_agents.client.protocol.serializable_events import EventEnvelopeWithMetadata
    from llama_agents.server import AbstractWorkflowStore, HandlerQuery, PersistentHandler
    from llama_agents.server._store.abstract_workflow_store import (
        TERMINAL_STATUSES,
        StoredEvent,
        StoredTick,
        decode_persistent_handler,
    )
    from workflows.context.state_store import (
        StateRecord,
        StateStoreFacade,
        get_by_path,
        merge_state,
        set_by_path_copy,
        string_record_from_state,
    )

__all__ = ["StateStorage", "StateStore", "WorkflowStore"]

_ROOT = "llama-index"
_HANDLERS = f"{_ROOT}/handlers/"
_MOST_READS, _MOST_READERS = 1000, 100  # paths of a run, and tasks of a path, that are remembered
_ADVICE = "Get it again and think again, or change it in edit_state(), once more after a Conflict."


class StateStorage:
    """The state of a run: LlamaIndex's `StateStorage`.  In a `session` a save goes over what was
    loaded there, and raises Conflict if it has changed; outside of one it replaces what is there,
    as a seed does.
    """

    def __init__(
        self, space: Space | AsyncSpace, run_id: str, namespace: tuple[str, ...] = ()
    ) -> None:
        self._space = checked(space, "StateStorage")
        self._calls = awaitable(self._space)
        self._run_id = run_id
        self._key = f"{_state(run_id)}{quoted('/'.join(namespace))}"
        self._loaded: Record | None = None
        self._in_session = False

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._run_id

    async def load(self) -> StateRecord | None:
        """Return the state, None if there is none."""
        self._loaded = await run_async(self._space, self._calls.read(self._key))
        return StateRecord(**self._loaded.value) if self._loaded.exists else None

    async def save(self, record: StateRecord) -> None:
        """Store the state.  Raises Conflict."""
        value = record.model_dump(mode="json")
        if not self._in_session:
            await run_async(self._space, self._calls.update(self._key, lambda _: value))
            return
        base = self._loaded
        if base is None:
            base = unread_record(await run_async(self._space, self._calls.read(self._key)))
        self._loaded = await run_async(self._space, self._calls.write(base, value))

    @asynccontextmanager
    async def session(self) -> AsyncIterator[StateStorage]:
        """Give a storage for one load and save."""
        bound = StateStorage(self._space, self._run_id)
        bound._key, bound._in_session = self._key, True
        yield bound

    async def refuse(self) -> None:
        """Raise the Conflict of somebody who has not seen the state as it is."""
        fresh = await run_async(self._space, self._calls.read(self._key))
        try:
            await run_async(self._space, self._calls.write(unread_record(fresh), fresh.value))
        except Conflict as conflict:
            raise with_advice(conflict, _ADVICE) from None

    def to_handle(self) -> dict[str, Any]:
        """Return what stands for this state where a run goes on."""
        return {"store_type": "interlock", "run_id": self._run_id}

    def parse_own_handle(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Return a handle if it is one of ours."""
        return payload if payload.get("store_type") == "interlock" else None

    async def copy_from_handle(self, handle: dict[str, Any]) -> None:
        """Copy the state of another run, in all its namespaces."""
        await run_async(self._space, self._copy(_state(handle["run_id"])))

    async def _copy(self, source: str) -> None:
        for key, record in (await self._calls.scan(source)).items():
            target = f"{_state(self._run_id)}{key.removeprefix(source)}"
            await self._calls.update(target, partial(_replaced, by=record.value))


class _Read(NamedTuple):
    """What a task was shown of a path."""

    task: asyncio.Task[Any] | None
    shown: str


class StateStore(StateStoreFacade[Any]):
    """What `ctx.store` is: a `set` or `set_state` raises Conflict if its path, or the state, has
    changed since it was first read for it.

    Read by the task that sets, or by one that has ended: a step hands on what it read in an event.
    What nobody read is set.
    """

    def __init__(
        self,
        space: Space | AsyncSpace,
        run_id: str,
        namespace: tuple[str, ...] = (),
        state_type: type[Any] | None = None,
        serializer: Any = None,
    ) -> None:
        super().__init__(StateStorage(space, run_id, namespace), state_type, serializer)
        self._reads: OrderedDict[str, list[_Read]] = OrderedDict()

    async def get(self, path: str, default: Any = Ellipsis) -> Any:
        """Return a value."""
        state = await self._load_state()
        self._note(path, state)
        return get_by_path(state, path, default)

    async def get_state(self) -> Any:
        """Return a copy of the state."""
        state = await self._load_state()
        self._note("", state)
        return state

    async def set(self, path: str, value: Any) -> None:
        """Set a value.  Raises Conflict."""
        async with self._lock.acquire_write():
            await self._saved(path, lambda state: set_by_path_copy(state, path, value))

    async def set_state(self, state: Any) -> None:
        """Replace the state, or merge a parent's fields into it.  Raises Conflict."""
        async with self._lock.acquire_write():
            await self._saved("", lambda current: merge_state(current, state))

    async def _saved(self, path: str, change: Any) -> None:
        known = self._known(path)
        while True:
            async with self._storage.session() as storage:
                state = await self._load_state(storage)
                if known is not None and known != self._shown(path, state):
                    await cast(StateStorage, storage).refuse()
                changed = change(state)
                try:
                    await self._save_state(changed, storage)
                except Conflict:
                    continue  # others came first: the path is looked at again
            self._note(path, changed)
            return

    def _note(self, path: str, state: Any) -> None:
        """Remember what the current task knows of a path."""
        task = asyncio.current_task()
        reads = self._reads.setdefault(path, [])
        if all(each.task is not task for each in reads):
            reads.append(_Read(task, self._shown(path, state)))
            del reads[:-_MOST_READERS]
        while len(self._reads) > _MOST_READS:
            self._reads.popitem(last=False)

    def _known(self, path: str) -> str | None:
        """Return, and forget, what a set of a path comes from: what its task first read, else the
        oldest that a task which has ended has read, and nobody has set from."""
        task, reads = asyncio.current_task(), self._reads.get(path, [])
        own = [each for each in reads if each.task is task]
        ended = [each for each in reads if each.task is None or each.task.done()]
        for known in [*own, *ended][:1]:
            reads.remove(known)
            return known.shown
        return None

    def _shown(self, path: str, state: Any) -> str:
        """Return what is at a path as text: the value itself may be changed in place."""
        if not path:
            return str(string_record_from_state(state, self._serializer).data)
        value = get_by_path(state, path, None)
        return self._serializer.serialize(value)


class WorkflowStore(Closing, AbstractWorkflowStore):
    """Everything that a `WorkflowServer` stores, in a space, or at a URL, which is opened until
    `close` (`space` and `agent` are those of `interlock.open`).
    """

    def __init__(
        self, place: str | Space | AsyncSpace, *, space: str = "default", agent: str | None = None
    ) -> None:
        super().__init__()
        self._open(place, space, agent)

    def _build_state_store(
        self,
        run_id: str,
        namespace: tuple[str, ...],
        state_type: type[Any] | None,
        serializer: Any,
    ) -> StateStore:
        return StateStore(self._space, run_id, namespace, state_type, serializer)

    async def query(self, query: HandlerQuery) -> list[PersistentHandler]:
        """Return the handlers that a query matches."""
        found = await run_async(self._space, self._calls.scan(_HANDLERS))
        handlers = (self._handler(record) for record in found.values())
        return [handler for handler in handlers if _matches(handler, query)]

    async def update(self, handler: PersistentHandler) -> None:
        """Store a handler."""
        value = handler.model_dump(mode="json")
        work = self._calls.update(_handler_key(handler.handler_id), lambda _: value)
        await run_async(self._space, work)

    async def update_handler_status(self, run_id: str, **changes: Any) -> None:
        """Change the fields that are named, and no others, of the handler of a run.

        One that has ended keeps its status: a server that stalled doesn't revive it.
        """
        for handler in await self.query(HandlerQuery(run_id_in=[run_id])):
            await run_async(self._space, self._change(handler.handler_id, changes))

    async def delete(self, query: HandlerQuery) -> int:
        """Delete the handlers that a query matches now; return how many."""
        return await run_async(self._space, self._delete(query))

    async def append_event(self, run_id: str, event: EventEnvelopeWithMetadata) -> None:
        """Add an event of a run."""
        await self._append("events", run_id, {"event": event.model_dump(mode="json")})

    async def query_events(
        self, run_id: str, after_sequence: int | None = None, limit: int | None = None
    ) -> list[StoredEvent]:
        """Return the events of a run after one of them, at most `limit`."""
        first = 0 if after_sequence is None else after_sequence + 1
        found = await self._items("events", run_id, first, limit)
        return [StoredEvent.model_validate(each) for each in found]

    async def append_tick(self, run_id: str, tick_data: dict[str, Any]) -> None:
        """Add a tick of a run."""
        await self._append("ticks", run_id, {"tick_data": tick_data})

    async def get_ticks(self, run_id: str) -> list[StoredTick]:
        """Return the ticks of a run."""
        found = await self._items("ticks", run_id, 0, None)
        return [StoredTick.model_validate(each) for each in found]

    def _handler(self, record: Record) -> PersistentHandler:
        return decode_persistent_handler(record.value, self.result_decoder)

    async def _change(self, handler_id: str, changes: dict[str, Any]) -> None:
        now = datetime.now(UTC)

        def change(value: Json) -> Json:
            handler = decode_persistent_handler(value, self.result_decoder)
            ended = handler.status in TERMINAL_STATUSES
            for name, new in changes.items():
                if name == "idle_since":
                    asked = new is None or isinstance(new, datetime)
                else:
                    asked = new is not None and not (ended and name == "status")
                if asked:
                    setattr(handler, name, new)
            handler.updated_at = now
            if handler.status in TERMINAL_STATUSES and not ended:
                handler.completed_at = now
            return handler.model_dump(mode="json")

        await self._calls.update(_handler_key(handler_id), change)

    async def _delete(self, query: HandlerQuery) -> int:
        found = await self._calls.scan(_HANDLERS)
        gone = [each for each in found.values() if _matches(self._handler(each), query)]
        for record in gone:
            with suppress(Conflict):  # it has changed, and is looked at next time
                await self._calls.delete(record)
        return len(gone)

    async def _append(self, kind: str, run_id: str, item: dict[str, Json]) -> None:
        """Add an item under the next number of a run, in one commit with the count."""
        prefix = f"{_ROOT}/{kind}/{quoted(run_id)}"
        at = datetime.now(UTC).isoformat()

        async def append(tx: Any) -> None:
            count = await tx.read(prefix)
            number = count.value or 0
            await tx.write(count, number + 1)
            value = {**item, "run_id": run_id, "sequence": number, "timestamp": at}
            await tx.create(f"{prefix}/{number}", value)

        await run_async(self._space, self._calls.transact(append))

    async def _items(
        self, kind: str, run_id: str, first: int, limit: int | None
    ) -> list[dict[str, Json]]:
        return await run_async(self._space, self._numbered(kind, run_id, first, limit))

    async def _numbered(
        self, kind: str, run_id: str, first: int, limit: int | None
    ) -> list[dict[str, Json]]:
        prefix = f"{_ROOT}/{kind}/{quoted(run_id)}"
        count = (await self._calls.read(prefix)).value or 0
        keys = [f"{prefix}/{number}" for number in range(first, count)[:limit]]
        found = await self._calls.read_many(keys) if keys else {}
        return [found[key].value for key in keys]


def _replaced(value: Json, by: Json) -> Json:
    return by


def _state(run_id: str) -> str:
    return f"{_ROOT}/state/{quoted(run_id)}/"


def _handler_key(handler_id: str) -> str:
    return f"{_HANDLERS}{quoted(handler_id)}"


def _matches(handler: PersistentHandler, query: HandlerQuery) -> bool:
    asked = (
        (query.handler_id_in, handler.handler_id),
        (query.run_id_in, handler.run_id),
        (query.workflow_name_in, handler.workflow_name),
        (query.status_in, handler.status),
    )
    idle = query.is_idle in (None, handler.idle_since is not None)
    return idle and all(allowed is None or value in allowed for allowed, value in asked)
