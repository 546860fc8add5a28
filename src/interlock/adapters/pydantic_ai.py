"""pydantic-ai: conversations that many runs, processes and hosts may share, and durable calls.

`ConversationStore` is pydantic-ai's own interface over a space: what was saved meanwhile is not
overwritten, and `run` makes a whole run while it has the conversation's lease.  The record of a
conversation is the key `pydantic-ai/records/<id>`, a message `pydantic-ai/entries/<id>`; who runs
has the lease of `pydantic-ai/turns/<id>`.

`DurableModel` and `DurableToolset` make the calls of an agent effects of a run of `space.run`.
After a crash the agent is run again, and what was answered before is answered from the log.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from copy import copy
from typing import Any, cast

from interlock import AsyncLease, AsyncRun, AsyncSpace, Conflict, Json, Lease, Record, Space
from interlock.adapters.home import Closing
from interlock.adapters.kv import unread_record
from interlock.adapters.space import give_up, quoted, run_async, take
from interlock.extras import needs

with needs("pydantic-ai", "pydantic-ai"):
    from pydantic import TypeAdapter
    from pydantic_ai import Agent, AgentRunResult, ModelRetry, UserError
    from pydantic_ai import conversation_store as theirs
    from pydantic_ai.conversation import Conversation
    from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.toolsets import WrapperToolset
    from pydantic_core import to_jsonable_python

__all__ = ["ConversationStore", "DurableModel", "DurableToolset"]

_RECORDS, _ENTRIES = "pydantic-ai/records/", "pydantic-ai/entries/"
_BEFORE = 100  # earlier entries that an entry names, so that a history is read in few round trips
_records = TypeAdapter(theirs.ConversationRecord)


class ConversationStore(Closing, theirs.ConversationStore):
    """A store of conversations in a space, or at a URL, which is opened until `close` (`space` and
    `agent` are those of `interlock.open`).  Deleted ones leave their messages to `space.erase`.
    """

    def __init__(
        self, place: str | Space | AsyncSpace, *, space: str = "default", agent: str | None = None
    ) -> None:
        self._open(place, space, agent)
        self._lease: Lease | AsyncLease | None = None

    @asynccontextmanager
    async def turn(
        self, conversation_id: str, *, wait: float | None = None, ttl: float = 30.0
    ) -> AsyncIterator[tuple[ConversationStore, Conversation]]:
        """Have a conversation to oneself: gives a store to save it with, and the conversation.

        Takes its lease (`ttl` seconds, renewed; `wait` seconds in a first-come queue, None: without
        limit).  Raises Held if `wait` has passed; a save raises Fenced if the lease was taken away.
        """
        turn = f"pydantic-ai/turns/{quoted(conversation_id)}"
        lease = await take(self._space, turn, ttl, wait)
        try:
            held = copy(self)
            held._lease = lease
            found = await held.load(conversation_id)
            yield held, found or Conversation(conversation_id=conversation_id)
        finally:
            await give_up(lease)

    async def run(
        self,
        agent: Agent[Any, Any],
        prompt: Any,
        conversation_id: str,
        *,
        wait: float | None = None,
        ttl: float = 30.0,
        **options: Any,
    ) -> AgentRunResult[Any]:
        """Run an agent on a conversation that others wait for meanwhile, and save it.

        `options` are those of `Agent.run`, the others those of `turn`.  Raises as that does, before
        the model is asked.
        """
        async with self.turn(conversation_id, wait=wait, ttl=ttl) as (store, conversation):
            result = await agent.run(prompt, conversation=conversation, **options)
            await store.save(result)
            return result

    async def read_record(self, conversation_id: str) -> theirs.ConversationRecord | None:
        """Return the record of a conversation."""
        key = _record_key(conversation_id)
        found = await run_async(self._space, self._calls.read(key))
        return _records.validate_python(found.value) if found.exists else None

    async def read_records(
        self, *, scope: str | None = None, limit: int | None = None
    ) -> Sequence[theirs.ConversationRecord]:
        """Return the stored records, the newest first."""
        found = await run_async(self._space, self._calls.scan(_RECORDS))
        records = [_records.validate_python(each.value) for each in found.values()]
        records = [each for each in records if scope is None or each.scope == scope]
        return sorted(records, key=lambda each: each.updated_at, reverse=True)[:limit]

    async def write_record(
        self,
        record: theirs.ConversationRecord,
        *,
        new_entries: Sequence[theirs.ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Store a record and its new entries in one commit.  Raises ConversationConflict."""
        work = self._write(record, new_entries, expected_revision)
        await self._checked(record.conversation_id, work)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a record; its entries stay.  Raises ConversationConflict."""
        await self._checked(conversation_id, self._delete(conversation_id, expected_revision))

    async def read_entry(self, entry_id: str) -> theirs.ConversationEntry:
        """Return an entry.  Raises LookupError."""
        return (await self.read_history(entry_id, limit=1))[0]

    async def read_history(
        self, head_id: str | None, *, limit: int | None = None
    ) -> list[theirs.ConversationEntry]:
        """Return the entries up to `head_id`, in order, or the last `limit` of them."""
        return await run_async(self._space, self._history(head_id, limit))

    async def _history(self, head: str | None, limit: int | None) -> list[theirs.ConversationEntry]:
        found: list[theirs.ConversationEntry] = []
        ids = [] if head is None else [head]
        while ids and (limit is None or len(found) < limit):
            records = await self._calls.read_many([_entry_key(each) for each in ids])
            values = [records[_entry_key(each)].value for each in ids]
            if None in values:
                raise LookupError(f"no entry {ids[values.index(None)]!r}")
            found += map(_entry, values)
            ids = list(reversed(values[-1]["before"]))
        return list(reversed(found[:limit]))

    async def _checked(self, conversation_id: str, work: Any) -> None:
        try:
            await run_async(self._space, work)
        except Conflict as conflict:
            raise theirs.ConversationConflict(conversation_id) from conflict

    async def _write(
        self,
        record: theirs.ConversationRecord,
        entries: Sequence[theirs.ConversationEntry],
        revision: str | None,
    ) -> None:
        base = await self._base(record.conversation_id, revision)
        head, before = record.head_id or "", list[str]()
        if entries and entries[0].parent_id is not None:
            parent = await self._calls.read(_entry_key(entries[0].parent_id))
            before = parent.value["before"] if parent.exists else []
        async with self._calls.transaction() as tx:
            known = not head or any(each.id == head for each in entries)
            if not known and not (await tx.read(_entry_key(head))).exists:
                raise theirs.ConversationConflict(record.conversation_id)
            if self._lease is not None:
                await tx.expect(self._lease.record)  # fenced if it was taken away
            await tx.write(base, _records.dump_python(record, mode="json"))
            for entry in entries:
                before = [*before, entry.parent_id][-_BEFORE:] if entry.parent_id else []
                await tx.create(_entry_key(entry.id), _packed(entry, before))

    async def _delete(self, conversation_id: str, revision: str | None) -> None:
        base = await self._base(conversation_id, revision)
        if not base.exists:
            raise theirs.ConversationConflict(conversation_id)
        await self._calls.delete(base)

    async def _base(self, conversation_id: str, revision: str | None) -> Record:
        """Return the record that a write goes over: it conflicts if the revision is another one."""
        found = await self._calls.read(_record_key(conversation_id))
        same = (found.value["revision"] if found.exists else None) == revision
        return found if same else unread_record(found)


def _record_key(conversation_id: str) -> str:
    return f"{_RECORDS}{quoted(conversation_id)}"


def _entry_key(entry_id: str) -> str:
    return f"{_ENTRIES}{quoted(entry_id)}"


def _packed(entry: theirs.ConversationEntry, before: list[str]) -> dict[str, Json]:
    message = _message_json(entry.message)
    return {"id": entry.id, "parent_id": entry.parent_id, "message": message, "before": before}


def _entry(packed: dict[str, Json]) -> theirs.ConversationEntry:
    message = _message(packed["message"])
    return theirs.ConversationEntry(id=packed["id"], parent_id=packed["parent_id"], message=message)


def _message_json(message: ModelMessage) -> Json:
    return ModelMessagesTypeAdapter.dump_python([message], mode="json")[0]


def _message(packed: Json) -> ModelMessage:
    return ModelMessagesTypeAdapter.validate_python([packed])[0]


# Calls of an agent as effects of a durable run


class DurableModel(WrapperModel):
    """A model whose answers are effects of a run: asked once, and answered from the log after a
    crash.  Make one for each entry into the run.  If nobody knows whether it answered, it is asked
    again.  For `Agent.run`: a stream is no value that can be recorded.
    """

    def __init__(self, wrapped: Any, run: AsyncRun, name: str = "model") -> None:
        super().__init__(wrapped)
        self._run = run
        self._name = name
        self._requests = 0

    async def request(self, messages: Any, model_settings: Any, parameters: Any) -> ModelResponse:
        """Ask the model, or return what it answered before the crash."""
        self._requests += 1

        async def ask(key: str) -> Json:
            return _message_json(await self.wrapped.request(messages, model_settings, parameters))

        key = f"{self._name} {self._requests}"
        answer = await self._run.effect(self._name, ask, key=key, in_doubt="retry")
        return cast(ModelResponse, _message(answer))

    @asynccontextmanager
    async def request_stream(self, *arguments: Any, **named: Any) -> AsyncGenerator[Any, None]:
        """Raise UserError."""
        raise UserError("A durable model answers whole: use agent.run(), not a stream.")
        yield


class DurableToolset(WrapperToolset[Any]):
    """A toolset whose calls are effects of a run: what a tool returned is recorded, as JSON, and a
    call that may or may not have happened is not repeated: `in_doubt` is that of `run.effect`.

    `Agent(durable_model, toolsets=[DurableToolset(tools, run)])`.  A tool may raise `ModelRetry`.
    """

    def __init__(self, wrapped: Any, run: AsyncRun, in_doubt: str = "ask") -> None:
        super().__init__(wrapped)
        self._run = run
        self._in_doubt = in_doubt

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: Any, tool: Any) -> Any:
        """Call a tool, or return what it returned before the crash."""

        async def call(key: str) -> Json:
            try:
                answer = await self.wrapped.call_tool(name, tool_args, ctx, tool)
            except ModelRetry as retry:
                return {"retry": retry.message}
            return {"answer": to_jsonable_python(answer)}

        key = f"{name} {ctx.tool_call_id}"
        found = await self._run.effect(name, call, key=key, in_doubt=self._in_doubt)
        if "retry" in found:
            raise ModelRetry(found["retry"])
        return found["answer"]
