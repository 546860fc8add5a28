"""What the tools of the MCP server do: each a coroutine of an agent and checked arguments."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any

import interlock
from interlock import Entry, KeyInfo, Record
from interlock._async.opening import under
from interlock.server.mcp_agents import Agent, Agents
from interlock.server.mcp_answers import Answer, entry_answer, key_answer, record_answer
from interlock.server.mcp_leases import Hold
from interlock.server.mcp_writes import WRITES, operation, outcome_of
from interlock.settings import is_reserved

_LIMIT = 50
_SMALLEST_PAGE = 200  # keys, without values, in one question to the store
_SECONDS = 300.0

_HOW = {
    "guarded": "write or update_fields, with the version and epoch that you read",
    "merged": "append",
    "private": "as guarded, and only by the agent whose name stands at {agent}",
    "leased": "take_lease first, then write with its lease_id",
}

Arguments = dict[str, Any]
Call = Callable[[Agent, Arguments], Awaitable[Answer]]


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
                "how_to_write": _HOW[rule.kind] + (" or transition" if rule.machine else ""),
                **({"machine": rule.machine.to_json()} if rule.machine else {}),
            }
            for pattern, rule in sorted(fresh.rules.items())
        ],
    }


async def _read(agent: Agent, arguments: Arguments) -> Answer:
    found = await agent.space.read_many(dict.fromkeys(arguments["keys"]))
    return {"records": [record_answer(record) for record in found.values()]}


async def _read_at(agent: Agent, arguments: Arguments) -> Answer:
    moment = agent.space.at(position=arguments.get("position"), time=_time(arguments.get("time")))
    found = await moment.read_many(dict.fromkeys(arguments["keys"]))
    return {"records": [record_answer(record) for record in found.values()]}


def _time(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise interlock.Invalid(f"time={text!r:.80} is not a time in ISO 8601") from None


async def _list_keys(agent: Agent, arguments: Arguments) -> Answer:
    after, limit = arguments.get("after"), arguments.get("limit", _LIMIT)
    found = await _visible(agent, arguments.get("prefix", ""), after, limit + 1)
    shown = found[:limit]
    answers = [key_answer(each) for each in shown]
    if arguments.get("values"):
        records = await agent.space.read_many(each.key for each in shown)
        answers = [record_answer(each) for each in records.values() if each.exists]
    return {
        "records": answers,
        "next_after": shown[-1].key if shown else after,
        "more": len(found) > limit,
    }


async def _visible(agent: Agent, prefix: str, after: str | None, limit: int) -> list[KeyInfo]:
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
    if after is not None:
        return await _page(agent.space.log(after, prefix), after, limit)
    start = max(await agent.space.position() - limit, 0)
    try:
        return await _page(agent.space.log(start, prefix), start, limit)
    except interlock.Pruned as pruned:
        start = pruned.oldest - 1
        return await _page(agent.space.log(start, prefix), start, limit)


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
    return {
        "entries": [entry_answer(each) for each in entries],
        "next_after": after,
        "more": more,
    }


async def _outcome(agent: Agent, arguments: Arguments) -> Answer:
    done = await outcome_of(agent, arguments["key"], arguments["op_id"])
    if done is None:
        return {"applied": False, "written": []}
    written = [each for each in done.writes if each.key == arguments["key"]]
    return {
        "applied": True,
        "written": [
            {"key": each.key, "kind": each.kind, "version": each.version, "epoch": each.epoch}
            for each in written
        ],
    }


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
    return {"lease": lease, "record": record_answer(record)}


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
