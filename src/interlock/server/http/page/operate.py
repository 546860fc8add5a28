"""The page of whoever runs the service: leases, past values, erasure, retention, rules."""

from __future__ import annotations

import json
from typing import Any

from interlock import Json
from interlock.server.http import upkeep
from interlock.server.http.call import Call
from interlock.server.http.page.sign_in import form_of
from interlock.server.http.problem import invalid


async def show(call: Call) -> dict[str, Any]:
    """Show what can be done, the rules, and the store's health."""
    return await _context(call)


async def _context(call: Call, done: str = "", rules: str | None = None) -> dict[str, Any]:
    store, looks = call.hosted.store, call.query.get("health") == "yes"  # at every key
    findings = await store.doctor() if store is not None and looks else []
    stored = {name: rule.to_json() for name, rule in sorted(call.space.rules.items())}
    text = json.dumps(stored, ensure_ascii=False, indent=2) if rules is None else rules
    key = call.query.get("key", "")
    return {
        "done": done,
        "key": key,
        "rules": text,
        "findings": findings,
        "may_look": store is not None and not looks,
    }


async def change(call: Call) -> dict[str, Any]:
    """Do what a form asks for."""
    form = await form_of(call.request)
    did = form.get("do", "")
    if did not in _ACTIONS:
        raise invalid(f"do={did!r:.40} must be one of {', '.join(_ACTIONS)}.")
    done = await _ACTIONS[did](call, form)
    return await _context(call, done, form.get("rules"))


async def _reclaim(call: Call, form: dict[str, str]) -> str:
    record = await upkeep.reclaim(call, form.get("key", ""))
    return f"{record.key} is at epoch {record.epoch}: whoever held it is fenced."


async def _restore(call: Call, form: dict[str, str]) -> str:
    text = form.get("position", "")
    if not text.isascii() or not text.isdecimal():
        raise invalid(f"position={text!r:.40} must be a position of the log.")
    written = await upkeep.restore(call, form.get("key", ""), int(text))
    return f"{written.key} is as it was at position {text}, as version {written.version}."


async def _erase(call: Call, form: dict[str, str]) -> str:
    key, dry_run = form.get("key", ""), form.get("sure") != "yes"
    found = await upkeep.erase(call, key, None, dry_run)
    what: Json = found._asdict()
    return f"{'Would erase' if dry_run else 'Erased'} {key}: {json.dumps(what, default=str)}"


async def _trim(call: Call, form: dict[str, str]) -> str:
    try:
        days = float(form.get("keep", ""))
    except ValueError:
        raise invalid("Say how many days of the log to keep, at least one.") from None
    found = await upkeep.trim(call, days)
    return f"Trimmed: {json.dumps(found._asdict(), default=str)}"


async def _rules(call: Call, form: dict[str, str]) -> str:
    try:
        rules = json.loads(form.get("rules", ""))
    except ValueError as problem:
        raise invalid(f"The rules are not JSON: {problem}.") from None
    dry_run = form.get("sure") != "yes"
    await upkeep.apply_rules(call, rules, dry_run)
    if dry_run:
        return "The rules can be applied: no value breaks them."
    return "The rules are in force."


_ACTIONS = {
    "reclaim": _reclaim,
    "restore": _restore,
    "erase": _erase,
    "trim": _trim,
    "rules": _rules,
}
