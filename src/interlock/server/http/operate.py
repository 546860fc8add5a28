"""What whoever runs the service looks at and does: spaces, rules, refusals, metrics, retention."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import interlock
from interlock import Json
from interlock._async.open import under
from interlock.server.http import upkeep
from interlock.server.http.call import Call, answer
from interlock.server.http.identity import AUDIT
from interlock.server.http.problem import forbidden, not_found

API = 1  # the number that a Python client asks for


async def health(request: Request) -> Response:
    """Say that the service is there.  It asks no store."""
    return answer({"ok": True, "version": interlock.__version__, "api": API})


async def spaces(call: Call) -> Response:
    """List the spaces that the caller may see."""
    names = await call.service.hosts.names()
    return answer({"spaces": [name for name in names if call.identity.may_space(name)]})


async def show_space(call: Call) -> Response:
    """Show a space: its unique id, where its log ends, and who the caller is in it."""
    return answer(await _space(call))


async def _space(call: Call) -> dict[str, Json]:
    return {
        "api": API,
        "space": call.hosted.name,
        "uid": call.hosted.uid,
        "position": await call.space.position(),
        "agent": call.agent,
        "role": call.identity.role,
        "max_body": call.service.bounds.body,
    }


async def create_space(call: Call) -> Response:
    """Make a space in the first store, unless there is one of its name."""
    await call.audit("create space")
    return answer(await _space(call), 201)


async def drop_space(call: Call) -> Response:
    """Drop a space with all that it holds, for good."""
    await call.service.hosts.drop(call.hosted.name)
    await call.audit("drop space")
    return Response(status_code=204)


async def rules(call: Call) -> Response:
    """Show the rules in force, and what they say of how keys may be written."""
    fresh = await under(call.hosted.base, call.agent)  # it loads the rules as they are now
    return answer(_rules(fresh.rules))


def _rules(found: dict[str, interlock.Rule]) -> dict[str, Json]:
    told = {pattern: interlock.describe_rule(rule) for pattern, rule in sorted(found.items())}
    stored = {pattern: rule.to_json() for pattern, rule in sorted(found.items())}
    return {"rules": stored, "described": told}


class Rules(msgspec.Struct, forbid_unknown_fields=True):
    """Rules by pattern, in place of those of the space.  `dry_run` only checks them."""

    rules: dict[str, Any]
    dry_run: bool = False


async def apply_rules(call: Call) -> Response:
    """Store rules in place of those that the space has."""
    asked: Rules = await call.json(Rules)
    return answer(_rules(await upkeep.apply_rules(call, asked.rules, asked.dry_run)))


async def conflicts(call: Call) -> Response:
    """Count the last refusals, by key."""
    found = await call.space.conflicts(call.number("limit", 1000, 1, 1000))
    keys = [each for each in found.keys if call.sees(each.key)]
    shown = [
        {
            "key": each.key,
            "refusals": each.refusals,
            "close": each.close,
            "retries": each.retries,
            "pairs": [
                {"agent": agent, "other": other, "refusals": count}
                for (agent, other), count in each.pairs.items()
            ],
        }
        for each in keys
    ]
    return answer({"keys": shown, "dropped": found.dropped})


async def refused(call: Call) -> Response:
    """Show the writes that came through this service and were refused, as they would have been."""
    kept = call.service.refused.of(call.hosted.uid)
    return answer({"refused": [each.to_dict() for each in kept if call.sees(each.key)]})


async def metrics(call: Call) -> Response:
    """Show what this process did in the space."""
    return answer(call.hosted.base.metrics().to_dict())


class Erase(msgspec.Struct, forbid_unknown_fields=True):
    """Remove the values of a key, or of all keys under a prefix, for good."""

    key: str | None = None
    prefix: str | None = None
    dry_run: bool = False


async def erase(call: Call) -> Response:
    """Erase values, and say what was searched and removed."""
    asked: Erase = await call.json(Erase)
    found = await upkeep.erase(call, asked.key, asked.prefix, asked.dry_run)
    return answer(found._asdict())


class Trim(msgspec.Struct, forbid_unknown_fields=True):
    """`keep`: days that entries are kept at least.  `before`: what begins there is kept."""

    keep: float | None = None
    before: int | None = None


async def trim(call: Call) -> Response:
    """Cut off the oldest part of the log that nobody needs, and say what is kept and why."""
    asked: Trim = await call.json(Trim)
    return answer((await upkeep.trim(call, asked.keep, asked.before))._asdict())


async def audit(call: Call) -> Response:
    """Show what operators did, the last first."""
    if not call.service.has_tokens:
        raise not_found("This service has no tokens, so nobody can say who did what.")
    if not call.identity.may_space("*"):
        raise forbidden("This needs a token of all spaces.")
    space = await call.service.hosts.service()
    limit = call.number("limit", 100, 1, 1000)
    lines = [
        {"at": entry.at.isoformat(), **entry.value}
        async for entry in space.log(prefix=AUDIT, limit=limit, newest_first=True)
    ]
    return answer({"audit": lines})


async def prometheus(call: Call) -> Response:
    """Show the metrics of all spaces of this process, as Prometheus reads them."""
    from interlock.extras import needs
    from interlock.observe.prometheus import Collector

    with needs("prometheus-client", "prometheus"):
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    registry = CollectorRegistry()
    registry.register(Collector())
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
