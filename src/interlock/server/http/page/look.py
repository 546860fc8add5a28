"""Pages of what happens and happened: the log, keys and their past, conflicts, agents."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from interlock import Entry, KeyInfo, Pruned, Record, describe_rule
from interlock.server.http.call import Call
from interlock.server.http.log import earlier
from interlock.server.http.page.diff import diff
from interlock.server.http.refused import RefusedWrite

_SHOWN = 100  # entries of a page
_VERSIONS = 50  # of a key that can be compared
_LOOKED_AT = 2000  # entries in which agents, and what read a key, are looked for
_CELLS = (12, 15)  # agents and keys of the heat map
_KINDS = ("put", "append", "delete")


async def now(call: Call) -> dict[str, Any]:
    """Show the log, the newest entry first."""
    prefix, agent = call.query.get("prefix", ""), call.query.get("agent", "")
    kind = call.query.get("kind", "")
    before = call.number("before", None, 1)
    head = await call.space.position()
    kinds = kind if kind in _KINDS else None
    entries, older = await earlier(
        call, _SHOWN, before, prefix=prefix, agent=agent or None, kinds=kinds
    )
    return {
        "entries": entries,
        "older": older,
        "before": before,
        "head": head,
        "prefix": prefix,
        "by": agent,
        "kind": kind,
        "kinds": _KINDS,
    }


async def keys(call: Call) -> dict[str, Any]:
    """List keys, in order."""
    prefix, after = call.query.get("prefix", ""), call.query.get("after")
    listed = await call.space.list_keys(prefix, after=after, limit=_SHOWN + 1)
    seen: list[KeyInfo] = [each for each in listed if call.sees(each.key)]
    more = len(listed) > _SHOWN
    return {"keys": seen[:_SHOWN], "prefix": prefix, "next": listed[_SHOWN - 1].key if more else ""}


async def key(call: Call) -> dict[str, Any]:
    """Show a key: its value, its versions and what changed, its rule, what it came from."""
    name = call.key
    record = await call.space.read(name)
    newest = call.space.history(name, newest_first=True, limit=_VERSIONS)
    entries = [entry async for entry in newest]
    rule, machine, state = _rule(call, name, record)
    positions = [entry.position for entry in entries]
    to = call.number("to", positions[0] if positions else None)
    since = call.number("since", positions[1] if len(positions) > 1 else 0)
    return {
        "key": name,
        "record": record,
        "entries": entries,
        "since": since,
        "to": to,
        "changes": await _changes(call, name, since, to) if entries else [],
        "oldest": positions[-1] if positions else 0,
        "head": await call.space.position(),
        "queue": await call.space.queue(name),
        "rule": rule,
        "machine": machine,
        "state": state,
        "read_by": await _readers(call, name),
    }


def _rule(call: Call, name: str, record: Record) -> tuple[str, Any, str | None]:
    pattern, rule = call.space.session.writer.book.rules.match(name)
    told = f"{pattern}: {describe_rule(rule)}" if pattern else describe_rule(rule)
    value = record.value if isinstance(record.value, dict) else {}
    return told, rule.machine, value.get(rule.machine.field) if rule.machine else None


async def _changes(call: Call, name: str, since: int, to: int) -> Any:
    try:
        old = await call.space.at(position=since).read(name) if since else None
        new = await call.space.at(position=to).read(name)
    except Pruned:
        return None
    return diff(old.value if old else None, new.value if new.exists else None)


async def _readers(call: Call, name: str) -> list[Entry]:
    found = []
    async for entry in call.space.log(newest_first=True, limit=_LOOKED_AT):
        if entry.key != name and name in (entry.reads or ()) and call.sees(entry.key):
            found.append(entry)
            if len(found) == _VERSIONS:
                break
    return found


async def moment(call: Call) -> dict[str, Any]:
    """Show a key as it was at a position of the log."""
    position = call.number("position", None)
    try:
        record = await call.space.at(position=position).read(call.key)
    except Pruned as gone:
        return {"position": position, "record": None, "gone": str(gone)}
    return {"position": position, "record": record, "gone": None}


async def conflicts(call: Call) -> dict[str, Any]:
    """Show who was refused where, and by whom."""
    report = await call.space.conflicts(1000)
    refusals = [each for each in report.refusals if call.sees(each.key)]
    cells = Counter((each.agent, each.key) for each in refusals)
    agents = [n for n, _ in Counter(each.agent for each in refusals).most_common(_CELLS[0])]
    names = [n for n, _ in Counter(each.key for each in refusals).most_common(_CELLS[1])]
    most = max(cells.values(), default=1)
    heat = {
        (agent, name): (count, 1 + 4 * (count - 1) // most)
        for (agent, name), count in cells.items()
    }
    return {
        "refusals": refusals[:_SHOWN],
        "agents": agents,
        "names": names,
        "heat": heat,
        "dropped": report.dropped,
        "refused": await _refused(call),
    }


async def _refused(call: Call) -> list[tuple[RefusedWrite, Record]]:
    """Return the refused writes that are kept, each with the record as it is now."""
    kept = [e for e in call.service.refused.of(call.hosted.uid) if call.sees(e.key)]
    fresh = await call.space.read_many({each.key for each in kept})
    return [(each, fresh[each.key]) for each in kept]


async def agents(call: Call) -> dict[str, Any]:
    """Show what each agent did last."""
    last: dict[str, Entry] = {}
    commits: dict[str, set[str]] = defaultdict(set)
    latest = [each async for each in call.space.log(newest_first=True, limit=_LOOKED_AT)]
    looked_at = [entry for entry in latest if call.sees(entry.key)]
    for entry in looked_at:
        last.setdefault(entry.agent, entry)
        commits[entry.agent].add(entry.op_id)
    refused = Counter(each.agent for each in (await call.space.conflicts(1000)).refusals)
    rows = [
        {"agent": name, "last": entry, "commits": len(commits[name]), "refusals": refused[name]}
        for name, entry in last.items()
    ]
    return {"agents": rows, "looked_at": len(looked_at)}
