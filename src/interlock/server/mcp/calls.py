"""What the tools of the MCP server do, each a coroutine of an agent and checked arguments, and what
they answer: records, log entries and refusals as JSON, which say what to do next in terms of the
tools.

Each write has an operation id, so that sending it again is harmless.  The id that a client chooses
counts for its agent and for one key: two agents that both call an operation "1" do not meet.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime

import interlock
from interlock import (
    Committed,
    Entry,
    InterlockError,
    Invalid,
    Json,
    KeyInfo,
    Record,
    Refused,
    Unknown,
)
from interlock._async import fences
from interlock._async.open import under
from interlock.server.mcp.agents import Agent, Agents, Hold
from interlock.settings import contribution_id, is_reserved

Answer = dict[str, Json]

_AGAIN = "Decide again from `record`, then call again with its version and epoch."
_NEXT_STEPS: dict[type[InterlockError], str] = {
    interlock.Conflict: _AGAIN,
    interlock.Held: "Wait `seconds` seconds, read the key again, then call again.",
    interlock.Deadlock: "Release the leases that you hold, then call again.",
    interlock.Contended: "Others write this key all the time. Wait a little, then call again.",
    interlock.Fenced: "Stop: somebody else took over this work. Read the key again before you do "
    "anything else with it.",
    interlock.IllegalTransition: "Read the key, decide again for its state, and choose one of "
    "`allowed`.",
    interlock.Forbidden: "Follow the rule (call about), or write another key.",
    interlock.Invalid: "Fix the arguments; retrying the same call won't help.",
    interlock.Pruned: "Start at `oldest_position` or later.",
    interlock.Unavailable: "Nothing was written. Wait a few seconds, then repeat the call.",
    interlock.Unknown: "It may have been written or not. Send the same call again with this "
    "`op_id`, which applies it once, or call outcome with it.",
}
_TELL = "Stop, and tell a person: somebody must look at the store."


class Refusal(Exception):
    """A refusal that the server itself finds, in the same form as those of the space."""

    def __init__(self, kind: str, message: str, next_step: str, /, **details: object) -> None:
        super().__init__(message)
        self.answer: Answer = {
            "kind": kind,
            "message": message,
            "retryable": kind == "Conflict",
            "next_step": next_step,
            **details,
        }


def moved(expected: int, record: Record) -> Refusal:
    """Return the refusal of a write computed from version `expected`, which is not the latest."""
    now = f"it has version {record.version} now" if record.exists else "it does not exist now"
    return Refusal(
        "Conflict",
        f"{record.key!r} changed: you read version {expected}, {now}.",
        _AGAIN,
        **_conflict(expected, record),
    )


def expired(record: Record) -> Refusal:
    """Return the refusal of a write computed from a value that has expired."""
    return Refusal(
        "Conflict",
        f"{record.key!r} has expired.",
        "Decide again without it; to have the key again, create it.",
        **_conflict(record.version, record),
    )


def absent(key: str) -> Refusal:
    """Return the refusal of changing a key that does not exist."""
    return Refusal(
        "NotFound",
        f"{key!r} does not exist.",
        "Create it, or look for the right key with list_keys.",
        key=key,
    )


def refusal_of(problem: InterlockError, agent: str = "") -> Answer:
    """Return the refusal, or the fault, that was raised to an agent."""
    message, next_step = str(problem), _TELL
    retryable = isinstance(problem, interlock.Unavailable | interlock.Unknown)
    if isinstance(problem, Refused):
        message, next_step = str(problem.outcome.message), problem.next_step
        retryable = problem.retryable
    next_step = _NEXT_STEPS.get(type(problem), next_step)
    if isinstance(problem, interlock.Held) and problem.holder == agent:
        next_step = "You hold it yourself: pass the lease_id of your lease, or wait."
    return {
        "kind": type(problem).__name__,
        "message": message,
        "retryable": retryable,
        "next_step": next_step,
        **_details(problem),
    }


def _details(problem: InterlockError) -> Answer:
    match problem:
        case interlock.Conflict():
            return _conflict(problem.expected, problem.record) | {
                "clashes": [_clash(clash) for clash in problem.clashes]
            }
        case interlock.Held():
            return {"holder": problem.holder, "seconds": round(problem.seconds, 1)}
        case interlock.Contended():
            return {"attempts": problem.attempts}
        case interlock.Deadlock():
            return {"key": problem.key, "cycle": [wait._asdict() for wait in problem.cycle]}
        case interlock.Fenced():
            return {"held_epoch": problem.held, "current_epoch": problem.current}
        case interlock.Forbidden():
            return {"key": problem.key, "pattern": problem.pattern, "rule": problem.rule}
        case interlock.IllegalTransition():
            return {
                "key": problem.key,
                "state": problem.before,
                "asked": problem.after,
                "allowed": list(problem.allowed),
            }
        case interlock.Pruned():
            return {"oldest_position": problem.oldest}
        case interlock.Unknown():
            return {"op_id": problem.op_id}
    return {}


def _conflict(expected: int | None, record: Record) -> Answer:
    return {
        "key": record.key,
        "expected_version": expected,
        "actual_version": record.version,
        "record": record.to_dict(),
    }


def _clash(clash: interlock.Clash) -> Answer:
    sides = {"base": clash.base, "mine": clash.mine, "theirs": clash.theirs}
    shown = {side: value for side, value in sides.items() if _is_json(value)}
    return {"path": list(clash.path), **shown}


def _is_json(value: object) -> bool:
    """Whether a side of a clash has a value: what is not there is no JSON."""
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def key_answer(info: KeyInfo) -> Answer:
    """Return a key as tools answer it, without its value."""
    return {
        "key": info.key,
        "version": info.version,
        "epoch": info.epoch,
        "exists": True,
        "writer": info.writer,
        "at": info.at.isoformat(),
    }


def entry_answer(entry: Entry) -> Answer:
    """Return a line of the log as tools answer it."""
    return {
        "position": entry.position,
        "key": entry.key,
        "version": entry.version,
        "kind": entry.kind,
        "value": entry.value,
        "agent": entry.agent,
        "at": entry.at.isoformat(),
        **({"erased": True} if entry.erased else {}),
    }


_LIMIT = 50
_SMALLEST_PAGE = 200  # keys, without values, in one question to the store
_SECONDS = 300.0

Arguments = dict[str, Json]
Call = Callable[[Agent, Arguments], Awaitable[Answer]]
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
    expires = arguments.get("expires")
    return await agent.space.create(arguments["key"], arguments["value"], op_id=op, expires=expires)


async def _write(agent: Agent, arguments: Arguments, op: str) -> Record:
    value, expires = arguments["value"], arguments.get("expires")
    if "lease_id" in arguments:
        return await _leased(agent, arguments).write(value, op_id=op, expires=expires)
    record = await _as_read(agent, arguments)
    return await agent.space.write(record, value, op_id=op, expires=expires)


async def _delete(agent: Agent, arguments: Arguments, op: str) -> Record:
    if "lease_id" in arguments:
        return await _leased(agent, arguments).delete(op_id=op)
    return await agent.space.delete(await _as_read(agent, arguments), op_id=op)


async def _append(agent: Agent, arguments: Arguments, op: str) -> Entry:
    return await agent.space.append(arguments["key"], arguments["item"], id=op)


async def _transition(agent: Agent, arguments: Arguments, op: str) -> Record:
    fields = arguments.get("fields", {})
    if "op_id" in fields:
        raise Invalid("A transition can't set a field named 'op_id'. Use update_fields.")
    return await agent.space.transition(arguments["key"], arguments["to"], op_id=op, **fields)


async def _update_fields(agent: Agent, arguments: Arguments, op: str) -> Record:
    fields, remove = arguments.get("fields", {}), arguments.get("remove", [])
    if "lease_id" not in arguments:
        record = await _existing(agent, arguments)
        return await agent.space.update_fields(record, fields, remove=remove, op_id=op)
    return await _leased(agent, arguments).update_fields(fields, remove=remove, op_id=op)


async def _patch(agent: Agent, arguments: Arguments, op: str) -> Record:
    changes = arguments["changes"]
    if "lease_id" not in arguments:
        return await agent.space.patch(await _existing(agent, arguments), changes, op_id=op)
    return await _leased(agent, arguments).patch(changes, op_id=op)


async def _existing(agent: Agent, arguments: Arguments) -> Record:
    record = await _as_read(agent, arguments)
    if not record.exists:
        fresh = await agent.space.read(record.key)
        raise moved(record.version, fresh) if fresh.exists else absent(record.key)
    return record


def _text(value: Json) -> str:
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
    if record.expired and record.version == version:  # it may have been there when it was read
        raise expired(record)
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
        return {"record": written.to_dict()}

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
            f"op_id {op_id!r} already belongs to another operation on {key!r}. Use a new one."
        )
    record = fences.replayed(done)
    if tool == "append":
        entry = Entry(
            position=record.position,
            key=key,
            version=record.version,
            epoch=record.epoch,
            kind=written.kind,
            value=value,
            agent=done.agent,
            time_us=record.time_us,
            op_id="",
            reads=None,
        )
        return {"entry": entry_answer(entry), "replayed": True}
    return {"record": record.to_dict(), "replayed": True}


def _asked(tool: str, arguments: Arguments, kind: str, value: Json) -> bool:
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
        case "patch", "put":
            return _text(interlock.merge_patch(value, arguments["changes"])) == _text(value)
        case "transition", "put":
            return _has(value, fields) and arguments["to"] in value.values()
    return False


def _has(value: Json, fields: dict[str, Json]) -> bool:
    return isinstance(value, dict) and all(
        name in value and _text(value[name]) == _text(each) for name, each in fields.items()
    )


_ALL: dict[str, Write] = {
    "create": _create,
    "write": _write,
    "update_fields": _update_fields,
    "patch": _patch,
    "append": _append,
    "transition": _transition,
    "delete": _delete,
}
WRITES = {tool: _once(tool, write) for tool, write in _ALL.items()}


# The tools that read


async def about(agents: Agents, agent: Agent, read_only: bool) -> Answer:
    """Answer who the agent is and how keys may be written."""
    fresh = await under(agent.space, agent.name)  # with the rules as they are now
    return {
        "agent": agent.name,
        "space": agents.space_name,
        "position": await agent.space.position(),
        "read_only": read_only,
        "rules": [
            {
                "pattern": pattern,
                "rule": interlock.describe_rule(rule),
                "how_to_write": rule.about.tools + (" or transition" if rule.machine else ""),
                **({"machine": rule.machine.to_json()} if rule.machine else {}),
            }
            for pattern, rule in sorted(fresh.rules.items())
        ],
    }


async def _read(agent: Agent, arguments: Arguments) -> Answer:
    found = await agent.space.read_many(dict.fromkeys(arguments["keys"]))
    return {"records": [record.to_dict() for record in found.values()]}


async def _read_at(agent: Agent, arguments: Arguments) -> Answer:
    moment = agent.space.at(position=arguments.get("position"), time=_time(arguments.get("time")))
    found = await moment.read_many(dict.fromkeys(arguments["keys"]))
    return {"records": [record.to_dict() for record in found.values()]}


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise interlock.Invalid(f"time={text!r:.80} is not a time in ISO 8601.") from None


async def _list_keys(agent: Agent, arguments: Arguments) -> Answer:
    after, limit = arguments.get("after"), arguments.get("limit", _LIMIT)
    found = await visible(agent, arguments.get("prefix", ""), after, limit + 1)
    shown = found[:limit]
    answers = [key_answer(each) for each in shown]
    if arguments.get("values"):
        records = await agent.space.read_many(each.key for each in shown)
        answers = [each.to_dict() for each in records.values() if each.exists]
    return {
        "records": answers,
        "next_after": shown[-1].key if shown else after,
        "more": len(found) > limit,
    }


async def visible(agent: Agent, prefix: str, after: str | None, limit: int) -> list[KeyInfo]:
    """Return at most `limit` keys that are no adapter's."""
    found: list[KeyInfo] = []
    size = max(limit, _SMALLEST_PAGE)
    while True:
        page = await agent.space.list_keys(prefix, after=after, limit=size)
        found += (each for each in page if not is_reserved(each.key))
        if len(page) < size or len(found) >= limit:
            return found[:limit]
        after = page[-1].key


async def _history(agent: Agent, arguments: Arguments) -> Answer:
    key, after = arguments["key"], arguments.get("after")
    limit = arguments.get("limit", _LIMIT)
    if after is None:
        latest = deque([each async for each in agent.space.history(key)], limit)
        return _entries(list(latest), latest[-1].position if latest else 0, more=False)
    return await _page(agent.space.history(key, after=after), after, limit)


async def _log(agent: Agent, arguments: Arguments) -> Answer:
    after, prefix = arguments.get("after"), arguments.get("prefix", "")
    limit = arguments.get("limit", _LIMIT)
    chosen: Arguments = {"agent": arguments.get("agent"), "kinds": arguments.get("kinds")}
    if after is not None:
        return await _page(agent.space.log(after, prefix, **chosen), after, limit)
    head, latest = await agent.space.position(), list[Entry]()
    async for entry in agent.space.log(prefix=prefix, newest_first=True, **chosen):
        if is_reserved(entry.key):
            continue
        latest.append(entry)
        if len(latest) == limit:
            break
    return _entries(latest[::-1], max(head, latest[0].position if latest else 0), more=False)


async def _page(entries: AsyncIterator[Entry], after: int, limit: int) -> Answer:
    shown: list[Entry] = []
    async for entry in entries:
        if not is_reserved(entry.key):
            if len(shown) == limit:
                return _entries(shown, after, more=True)
            shown.append(entry)
        after = entry.position
    return _entries(shown, after, more=False)


def _entries(entries: list[Entry], after: int, more: bool) -> Answer:
    """Answer a page of the log that was read up to position `after`."""
    return {"entries": [entry_answer(e) for e in entries], "next_after": after, "more": more}


async def _outcome(agent: Agent, arguments: Arguments) -> Answer:
    done = await outcome_of(agent, arguments["key"], arguments["op_id"])
    if done is None:
        return {"applied": False, "written": []}
    written = [
        {"key": each.key, "kind": each.kind, "version": each.version, "epoch": each.epoch}
        for each in done.writes
        if each.key == arguments["key"]
    ]
    return {"applied": True, "written": written}


# Leases


async def _take_lease(agent: Agent, arguments: Arguments) -> Answer:
    named = operation(agent, arguments["key"], arguments["op_id"]) if "op_id" in arguments else None
    seconds, wait = arguments.get("seconds", _SECONDS), arguments.get("wait", 0)
    return _held(await agent.leases.take(arguments["key"], seconds, wait, named))


async def _renew_lease(agent: Agent, arguments: Arguments) -> Answer:
    seconds = arguments.get("seconds", _SECONDS)
    return _held(await agent.leases.renew(arguments["lease_id"], seconds))


async def _release_lease(agent: Agent, arguments: Arguments) -> Answer:
    hold = await agent.leases.release(arguments["lease_id"])
    return {"lease": {"lease_id": hold.id, "key": hold.lease.key, "seconds": 0}}


def _held(hold: Hold) -> Answer:
    record: Record = hold.record
    lease = {"lease_id": hold.id, "key": record.key, "seconds": round(hold.seconds, 1)}
    return {"lease": lease, "record": record.to_dict()}


CALLS: dict[str, Call] = {
    "read": _read,
    "read_at": _read_at,
    "list_keys": _list_keys,
    "history": _history,
    "log": _log,
    "outcome": _outcome,
    "take_lease": _take_lease,
    "renew_lease": _renew_lease,
    "release_lease": _release_lease,
    **WRITES,
}
