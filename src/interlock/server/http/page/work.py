"""Pages of what is under way: runs, and what reads the log as it grows."""

from __future__ import annotations

import json
from typing import Any

from interlock import GroupInfo, Json
from interlock.server.http.call import Call
from interlock.server.http.page.sign_in import form_of
from interlock.server.http.problem import invalid
from interlock.server.http.work import found_run, sees_run

_STATES = ("Processing", "AwaitingInput", "Idle", "Failed", "Completed")


async def runs(call: Call) -> dict[str, Any]:
    """List the runs, those under way first."""
    state = call.query.get("state", "")
    every = [each for each in await call.space.runs.list() if sees_run(call, each.id)]
    shown = [each for each in every if not state or each.state == state]
    shown.sort(key=lambda each: (_STATES.index(each.state), each.id))
    return {"runs": shown[:500], "count": len(shown), "state": state, "states": _STATES}


async def run(call: Call) -> dict[str, Any]:
    """Show a run with its steps, and what it waits for."""
    return {"run": await found_run(call), "done": ""}


async def change_run(call: Call) -> dict[str, Any]:
    """Give a run what it waits for, say what became of an effect, have it go on, or end it."""
    form = await form_of(call.request)
    name, did = (await found_run(call)).id, form.get("do", "")
    admin = call.space.runs
    if did == "send":
        await admin.send(name, form.get("name", ""), _value(form.get("value", "")))
        done = f"Sent {form.get('name')}."
    elif did == "settle":
        happened = form.get("happened") == "yes"
        await admin.settle(name, form.get("path", ""), happened, _value(form.get("value", "")))
        done = f"Said that it {'happened' if happened else 'did not happen'}."
    elif did == "resume":
        await admin.resume(name)
        done = "A worker takes it up again."
    elif did == "cancel":
        await admin.cancel(name, form.get("reason") or "cancelled")
        done = "Cancelled."
    else:
        raise invalid(f"do={did!r:.40} must be send, settle, resume or cancel.")
    await call.audit(f"{did} run", run=name)
    return {"run": await found_run(call), "done": done}


def _value(text: str) -> Json:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError:
        raise invalid(f"{text!r:.60} is not JSON: put a text in quotes.") from None


async def streams(call: Call) -> dict[str, Any]:
    """Show the consumer groups and how far behind they are, and the circuit breakers."""
    groups: list[GroupInfo] = []
    for name in await call.space.groups():
        info = await call.space.group(name).info()
        if call.identity.may_prefix(info.prefix):
            groups.append(info)
    breakers = await call.space.breakers() if call.identity.sees_all else []
    return {"groups": groups, "breakers": breakers}
