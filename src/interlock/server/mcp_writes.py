"""The tools that write.  Each write has an operation id, so that sending it again is harmless.

The id that a client chooses counts for its agent and for one key: two agents that both call an
operation "1" do not meet.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import interlock
from interlock import Committed, Conflict, Entry, Invalid, Record, Refused, Unknown
from interlock.server.mcp_agents import Agent
from interlock.server.mcp_answers import (
    Answer,
    Refusal,
    absent,
    entry_answer,
    moved,
    record_answer,
)
from interlock.settings import contribution_id

_MOST_MERGES = 100  # writes that came in between, before update_fields gives up

Arguments = dict[str, Any]
Write = Callable[[Agent, Arguments, str], Awaitable[Record | Entry]]


def operation(agent: Agent, key: str, op_id: str) -> str:
    """Return the operation id that the store keeps for one that a client chose."""
    text = json.dumps([agent.name, key, op_id])
    return "mcp-" + hashlib.sha256(text.encode()).hexdigest()[:40]


async def outcome_of(agent: Agent, key: str, op_id: str) -> Committed | None:
    """Return the commit that a client's operation made, None where it was not applied."""
    name = operation(agent, key, op_id)
    done = await agent.space.outcome(name)
    appended = contribution_id(key, None, name, False)
    assert appended is not None
    return done or await agent.space.outcome(appended)


async def _create(agent: Agent, arguments: Arguments, op: str) -> Record:
    return await agent.space.create(arguments["key"], arguments["value"], op_id=op)


async def _write(agent: Agent, arguments: Arguments, op: str) -> Record:
    if "lease_id" in arguments:
        return await _leased(agent, arguments).write(arguments["value"], op_id=op)
    return await agent.space.write(await _as_read(agent, arguments), arguments["value"], op_id=op)


async def _delete(agent: Agent, arguments: Arguments, op: str) -> Record:
    if "lease_id" in arguments:
        return await _leased(agent, arguments).delete(op_id=op)
    return await agent.space.delete(await _as_read(agent, arguments), op_id=op)


async def _append(agent: Agent, arguments: Arguments, op: str) -> Entry:
    return await agent.space.append(arguments["key"], arguments["item"], id=op)


async def _transition(agent: Agent, arguments: Arguments, op: str) -> Record:
    fields = arguments.get("fields", {})
    if "op_id" in fields:
        raise Invalid("a field named 'op_id' cannot be set with a transition; use update_fields")
    return await agent.space.transition(arguments["key"], arguments["to"], op_id=op, **fields)


async def _update_fields(agent: Agent, arguments: Arguments, op: str) -> Record:
    fields, remove = arguments.get("fields", {}), arguments.get("remove", [])
    names = {*fields, *remove}
    if not names or fields.keys() & set(remove):
        raise Invalid("name at least one field in fields or remove, and none in both")

    def changed(record: Record) -> dict[str, Any]:
        if not isinstance(record.value, dict):
            raise Invalid(f"{record.key!r} holds no object, so it has no fields; use write")
        kept = {name: each for name, each in record.value.items() if name not in remove}
        return {**kept, **fields}

    if "lease_id" in arguments:
        lease = _leased(agent, arguments)
        return await lease.write(changed(lease.record), op_id=op)
    base = record = await _as_read(agent, arguments)
    if not base.exists:
        fresh = await agent.space.read(base.key)
        raise moved(base.version, fresh) if fresh.exists else absent(base.key)
    for _ in range(_MOST_MERGES):
        try:
            return await agent.space.write(record, changed(record), op_id=op)
        except Conflict as conflict:
            if not _same_fields(names, base, conflict.record):
                raise
            record = conflict.record
    raise moved(base.version, record)


def _same_fields(names: set[str], base: Record, fresh: Record) -> bool:
    if not fresh.exists or not isinstance(fresh.value, dict):
        return False
    return all(
        (name in base.value) == (name in fresh.value)
        and _text(base.value.get(name)) == _text(fresh.value.get(name))
        for name in names
    )


def _text(value: Any) -> str:
    """Return what two equal values have in common; 1, 1.0 and true are three values."""
    return json.dumps(value, sort_keys=True)


# The record that a client says it read


def _leased(agent: Agent, arguments: Arguments) -> interlock.AsyncLease:
    lease = agent.leases.of_key(arguments["lease_id"], arguments["key"]).lease
    read = (arguments["version"], arguments["epoch"])
    if read != (lease.record.version, lease.record.epoch):
        raise moved(arguments["version"], lease.record)
    return lease


async def _as_read(agent: Agent, arguments: Arguments) -> Record:
    """Return the record at the version that the client read: what rules and merges go by.

    The store compares version and epoch.  Raises Refusal where that version is not kept.
    """
    key, version, epoch = (arguments[name] for name in ("key", "version", "epoch"))
    record = await agent.space.read(key)
    if record.version != version:
        was = await _at_version(agent, record, version)
        if was is None:
            raise moved(version, record)
        record = was
    return record._replace(epoch=epoch)


async def _at_version(agent: Agent, record: Record, version: int) -> Record | None:
    if version == 0:
        return record._replace(value=None, body=None, version=0, exists=False)
    try:
        async for entry in agent.space.history(record.key):
            if entry.version == version:
                return await agent.space.at(position=entry.position).read(record.key)
    except interlock.Pruned:
        pass
    return None


# Once, however often it is sent


def _once(tool: str, write: Write) -> Callable[[Agent, Arguments], Awaitable[Answer]]:
    """Make a write that a client may send again under its op_id."""

    async def call(agent: Agent, arguments: Arguments) -> Answer:
        named = arguments.get("op_id")
        if named is not None and (done := await _done(tool, agent, arguments)):
            return done
        op_id = named or secrets.token_hex(8)
        try:
            written = await write(agent, arguments, operation(agent, arguments["key"], op_id))
        except (Refused, Refusal):
            # The same call may be under way twice: then this one came second.
            if named is not None and (done := await _done(tool, agent, arguments)):
                return done
            raise
        except Unknown as problem:
            raise Unknown(str(problem), op_id) from problem  # as the client may name it
        if isinstance(written, Entry):
            return {"entry": entry_answer(written)}
        return {"record": record_answer(written)}

    return call


async def _done(tool: str, agent: Agent, arguments: Arguments) -> Answer | None:
    """Return what this operation did when it was sent before.

    Raises Invalid where its op_id stood for another operation.
    """
    key, op_id = arguments["key"], arguments["op_id"]
    done = await outcome_of(agent, key, op_id)
    if done is None:
        return None
    (written,) = done.writes
    value = None if written.body is None else json.loads(written.body)
    if not _asked(tool, arguments, written.kind, value):
        raise Invalid(
            f"op_id {op_id!r} already stands for another operation on {key!r}; take a fresh one "
            "for each new operation"
        )
    record = Record(
        key=key,
        value=value,
        version=written.version,
        epoch=written.epoch,
        writer=done.agent,
        time_us=done.time_us,
        position=written.position,
        exists=written.kind != "delete",
        space="",
    )
    if tool == "append":
        return {"entry": _appended(record), "replayed": True}
    return {"record": record_answer(record), "replayed": True}


def _asked(tool: str, arguments: Arguments, kind: str, value: Any) -> bool:
    """Say whether what was written is what the call asks for."""
    fields, remove = arguments.get("fields", {}), arguments.get("remove", [])
    match tool, kind:
        case "delete", "delete":
            return True
        case "append", "append":
            return _text(value) == _text(arguments["item"])
        case (("create" | "write"), "put"):
            return _text(value) == _text(arguments["value"])
        case "update_fields", "put":
            return _has(value, fields) and not any(name in value for name in remove)
        case "transition", "put":
            return _has(value, fields) and arguments["to"] in value.values()
    return False


def _has(value: Any, fields: dict[str, Any]) -> bool:
    return isinstance(value, dict) and all(
        name in value and _text(value[name]) == _text(each) for name, each in fields.items()
    )


def _appended(record: Record) -> Answer:
    return entry_answer(
        Entry(
            record.position,
            record.key,
            record.version,
            record.epoch,
            "append",
            record.value,
            record.writer or "",
            record.time_us,
            "",
            None,
        )
    )


_ALL: dict[str, Write] = {
    "create": _create,
    "write": _write,
    "update_fields": _update_fields,
    "append": _append,
    "transition": _transition,
    "delete": _delete,
}
WRITES = {tool: _once(tool, write) for tool, write in _ALL.items()}
