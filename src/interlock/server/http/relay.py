"""The typed requests of a Python client, answered by the store, each in one atomic step.

The client has the protocols of `core`, and the store judges versions, epochs and turns.  What only
the client has checked is checked again here, because a client may be malicious: who it says it is,
which keys it names, and what their rules let it write (`judge`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from starlette.responses import Response

from interlock.backends.http.wire import Malformed, decode_request, encode_answer
from interlock.core import refusals, requests, transfer
from interlock.core.group import MOST_TAKEN
from interlock.core.keys import check_key, check_prefix, decode, encode
from interlock.core.lease import LONGEST_TTL
from interlock.core.machine import Machine
from interlock.core.plan import APPEND, DELETE, PUT, Plan, Write
from interlock.core.records import Entry, Record, Snapshot, absent
from interlock.core.refusals import Refusal
from interlock.core.requests import Request
from interlock.core.rules import LEASED, MERGED, MOST_EXPIRES, RULES_KEY, RuleSet
from interlock.core.sealed import is_sealed
from interlock.core.write import forbidden_by_rule
from interlock.core.writer import Writer
from interlock.errors import raise_refused
from interlock.server.http.call import Call
from interlock.server.http.identity import Identity
from interlock.server.http.problem import Problem, forbidden, invalid

_OWN = "$"  # begins the keys that the library keeps
_OPERATORS = (RULES_KEY, "$erasures/", "$readers")  # what only operators write
_MOST_KEYS = 10_000  # of one request
_MOST_BYTES = 16 << 20  # of one value: the client has a smaller limit
_MOST_ENTRIES = 100_000
_WRITES = (
    requests.Commit,
    requests.TakeTurn,
    requests.LeaveTurn,
    requests.TakeLease,
    requests.DropLease,
    requests.SaveFold,
    requests.SaveProjection,
    requests.DropProjection,
    requests.Noted,
    requests.ReadGroup,
    requests.AckGroup,
)
_OF_OPERATORS = (requests.Redact, requests.Scrub, requests.DropGroup)
_WHOLE = (  # about every key
    requests.Redact,
    requests.Scrub,
    requests.SaveProjection,
    requests.LoadProjection,
    requests.DropProjection,
    requests.Trim,
    transfer.Dump,
    transfer.ReadBase,
)


async def relay(call: Call) -> Response:
    """Answer one encoded request."""
    try:
        request = decode_request(await call.body())
    except Malformed as problem:
        raise invalid(str(problem)) from None
    if call.query.get("uid", call.hosted.uid) != call.hosted.uid:
        raise Problem(410, "Dropped", "The space was dropped or renamed. Open it again.")
    check(call.identity, request)
    answer = await _answered(call, request)
    return Response(encode_answer(answer), media_type="application/json")


async def _answered(call: Call, request: Request[Any]) -> Any:
    match request:
        case requests.SaveFold():
            await call.space.read(request.key)  # ours, where the fold is not worth saving either
            return None
        case requests.Commit():
            return await _committed(call, request)
        case requests.TakeTurn():
            need_owner(call, request.keys, request.agent)
        case requests.TakeLease():
            need_owner(call, request.keys, request.agent)
            lost = await _not_renewed(call, request)
            if lost is not None:
                return lost
        case requests.DropLease() if request.epoch and not await holds(
            call, request.key, request.epoch
        ):
            return None
        case requests.AckGroup() | requests.GroupState() if not call.identity.sees_all:
            found = await call.ask(requests.GroupState(request.group))
            if found is not None:
                call.identity.need_prefix(found.prefix)
    return _visible(call.identity, await call.ask(request))


async def _committed(call: Call, request: requests.Commit) -> Any:
    plan = request.plan
    outcome = await judge(call, plan)
    if outcome is None:
        outcome = await call.ask(request)
    elif not isinstance(outcome, refusals.Outdated):  # which the client answers by itself
        await call.ask(requests.Noted(outcome, plan.agent))
    if isinstance(outcome, refusals.Conflict) and [each.kind for each in plan.writes] == [PUT]:
        key, body = plan.writes[0].key, plan.writes[0].body or ""
        (version,) = [each.version for each in plan.expects if each.key == key] or (None,)
        if not is_sealed(decode(body)):
            call.keep_refused(plan.agent, key, body.encode(), version)
    return _visible(call.identity, outcome)


def check(identity: Identity, request: Request[Any]) -> None:
    """Raise Problem where a request is not its caller's, or asks for too much."""
    if isinstance(request, _WRITES) or getattr(request, "exclusive", False):
        identity.need("writer")
    if isinstance(request, _OF_OPERATORS) or (isinstance(request, requests.Trim) and request.upto):
        identity.need("operator")
    if isinstance(request, _WHOLE):
        identity.need_all()
    agent = getattr(request, "agent", None)
    if agent is not None:
        identity.need_agent(agent)
    keys, prefixes = _names(request)
    if len(keys) + len(prefixes) > _MOST_KEYS:
        raise invalid(f"A request names at most {_MOST_KEYS:,} keys.")
    for key in keys:
        _check(check_key(key.lstrip(_OWN)))
        if key != RULES_KEY:
            identity.need_key(key)
    for prefix in prefixes:
        _check(check_prefix(prefix.lstrip(_OWN)))
        identity.need_prefix(prefix)
    _check_numbers(identity, request)
    if isinstance(request, requests.Commit):
        _check_plan(identity, request.plan)


def _names(request: Request[Any]) -> tuple[list[str], list[str]]:
    """Return the keys and prefixes that a request names."""
    match request:
        case requests.Load() | requests.LoadAt():
            return [*request.keys], [*request.prefixes]
        case requests.ListKeys() | requests.ReadGroup():
            return [], [request.prefix]
        case requests.ListExpired():
            return [], [""]
        case requests.ReadLog() | requests.ReadValues() if request.key is not None:
            return [request.key], []
        case requests.TakeTurn() | requests.TakeLease():
            return [*request.keys], []
        case requests.DropLease() | requests.SaveFold() | requests.ListWaiters():
            return [request.key], []
        case requests.Commit():
            plan = request.plan
            keys = [*(e.key for e in plan.expects), *(w.key for w in plan.writes), *plan.leased]
            return keys, [scan.prefix for scan in plan.scans]
    return [], []


def _check_numbers(identity: Identity, request: Request[Any]) -> None:
    ttl = getattr(request, "ttl", None)
    if ttl is not None and not 0 <= ttl <= LONGEST_TTL:
        raise invalid(f"ttl={ttl!r:.40} must be a number of seconds up to {LONGEST_TTL:g}.")
    limit = getattr(request, "limit", None)
    most = MOST_TAKEN if isinstance(request, requests.ReadGroup) else _MOST_ENTRIES
    if limit is not None and not 0 <= limit <= most:
        raise invalid(f"limit={limit} must be a number up to {most:,}.")
    if isinstance(request, requests.Pause) and not 0 <= request.seconds <= 30:
        raise invalid("A pause lasts at most 30 seconds.")
    if isinstance(request, requests.TakeLease) and request.reclaim:
        users = [key for key in request.keys if not key.startswith("$run/")]
        identity.need("operator" if users else "writer")


def _check_plan(identity: Identity, plan: Plan) -> None:
    identity.need_agent(plan.agent)
    if not plan.writes:
        raise invalid("A plan writes something.")
    read = {each.key: each for each in plan.expects}
    for write in plan.writes:
        if write.key.startswith(_OPERATORS):
            identity.need("operator")
        if _is_erasing(identity, write):
            continue
        if write.kind not in (PUT, DELETE, APPEND) or (write.kind == DELETE) != (not write.body):
            raise invalid(f"A write is a put or an append with a body, or a delete: {write.key!r}.")
        if write.ttl_us is not None and not 0 <= write.ttl_us <= MOST_EXPIRES * 1e6:
            raise invalid(f"ttl_us={write.ttl_us} is no time in which a value expires.")
        if write.kind == APPEND or write.key.startswith(_OWN):
            continue
        base = read.get(write.key)
        blind = base is None or (base.version is not None and base.epoch is None)
        if blind and identity.role not in ("operator", "admin"):
            raise invalid(f"The write of {write.key!r} doesn't say what it was computed from.")


def _is_erasing(identity: Identity, write: Write) -> bool:
    """Whether a write leaves no value, as erasing does, which no rule forbids an operator."""
    return write.body is None and identity.role in ("operator", "admin")


def _check(wrong: refusals.Invalid | None) -> None:
    if wrong is not None:
        raise invalid(wrong.message)


# What the rules say


async def judge(call: Call, plan: Plan) -> Refusal | None:
    """Return why the rules, or a lease, forbid a plan; None if they do not.

    A plan is judged by the rules that it names, and the store refuses it where others are in force.
    """
    ours = call.hosted.base.session.writer
    writes = [
        each
        for each in plan.writes
        if not each.key.startswith(_OWN) and not _is_erasing(call.identity, each)
    ]
    for write in writes:
        unfit = None if write.kind == DELETE else _not_a_value(write)
        if unfit is not None:
            return unfit
    if plan.rules != ours.book.rules.version:
        found: Snapshot = await call.ask(requests.Load((RULES_KEY,)))
        record = found.records[RULES_KEY]
        ours.book.load(record.version, record.value)
        if plan.rules != record.version:
            return refusals.outdated(plan.rules, record)
    rules = _judged(ours.book.rules)
    writer = Writer(ours.space, plan.agent, _MOST_BYTES)
    with_state = [w.key for w in writes if rules.match(w.key)[1].machine is not None]
    asked = tuple(dict.fromkeys((*with_state, *plan.leased)))
    now = await call.ask(requests.Load(asked)) if asked else None
    if now is not None:
        refusal = _not_its_lease(rules, plan, now)
        if refusal is not None:
            return refusal
    for write in writes:
        if write.kind == APPEND and _unknown_reducer(rules, write.key):
            continue
        base = absent(write.key, ours.space)
        if write.key in with_state and now is not None:
            base = now.records[write.key]
            moved = _moved(plan, base)
            if moved is not None:
                return moved
        writer.book.rules = _opaque(rules) if _is_sealed(write, base) else rules
        refusal = forbidden_by_rule(writer, base, write, write.key in plan.leased)
        if refusal is not None:
            return refusal
    return None


def _is_sealed(write: Write, base: Record) -> bool:
    """Whether a value is encrypted, so that nobody here can judge it.  It may follow a value that
    is, too, or none."""
    if write.body is None or not is_sealed(decode(write.body)):
        return False
    return base.body is None or is_sealed(decode(base.body))


def _not_a_value(write: Write) -> refusals.Invalid | None:
    try:
        text = encode(decode(write.body), _MOST_BYTES)
    except (ValueError, RecursionError):
        return refusals.Invalid(f"The value of {write.key!r} is not JSON.", write.key)
    return text if isinstance(text, refusals.Invalid) else None


def _moved(plan: Plan, base: Record) -> Refusal | None:
    """Return the conflict of a plan that was computed from another version than the one whose state
    is judged: it may be one that is yet to come."""
    expected = next(each for each in plan.expects if each.key == base.key)
    if expected.version is None:
        return refusals.conflict(expected, base) if base.exists else None
    return None if expected.version == base.version else refusals.conflict(expected, base)


def _not_its_lease(rules: RuleSet, plan: Plan, now: Snapshot) -> Refusal | None:
    """Return the refusal of a plan that claims a lease which another agent holds."""
    epochs = {each.key: each.epoch for each in plan.expects}
    for key in plan.leased:
        held, epoch = now.leases.get(key), now.records[key].epoch
        if epochs.get(key) != epoch:
            continue  # the store fences it
        if held is not None and held.holder != plan.agent:
            return refusals.leased_to(key, held.holder, held.seconds)
        if held is None and rules.match(key)[1].kind == LEASED:
            return refusals.Fenced(f"The lease of {key!r} has expired.", key, epoch, epoch)
    return None


def need_owner(call: Call, keys: Iterable[str], agent: str) -> None:
    """Raise Problem where another agent owns one of `keys`: nobody else wants its lease."""
    rules = call.hosted.base.session.writer.book.rules
    for key in keys:
        name = key.removeprefix(refusals.QUEUE)
        pattern, rule = rules.match(name)
        owner = None if name.startswith(_OWN) else rule.owner(pattern, name)
        if owner is not None and owner != agent:
            raise forbidden(f"Only {owner!r} may write {name!r} ({rule.kind}).", key=name)


async def holds(call: Call, key: str, epoch: int, agent: str | None = None) -> bool:
    """Whether a lease is the caller's as far as can be known: nobody else has it.  `agent`: who the
    caller says it is, where its token does not."""
    return await _not_holder(call, key, epoch, call.identity.agent or agent) is None


async def need_lease(call: Call, key: str, epoch: int) -> None:
    """Raise Held where another agent has the lease that was granted at `epoch`."""
    raise_refused(await _not_holder(call, key, epoch, call.agent))


async def _not_holder(call: Call, key: str, epoch: int, agent: str | None) -> refusals.Held | None:
    if agent is None:
        return None
    found: Snapshot = await call.ask(requests.Load((key,)))
    held = found.leases.get(key)
    if held is None or held.epoch != epoch or held.holder == agent:
        return None
    return refusals.leased_to(key, held.holder, held.seconds)


async def _not_renewed(call: Call, request: requests.TakeLease) -> requests.Grant | None:
    """Return the answer to who renews what another agent holds."""
    if not request.epoch or request.reclaim:
        return None
    key = request.keys[0]
    if await holds(call, key, request.epoch, request.agent):
        return None
    found: Snapshot = await call.ask(requests.Load((key,)))
    record = found.records[key]
    refusal = refusals.fenced(key, request.epoch, record.epoch)
    return requests.Grant(False, (record,), refusal=refusal, key=key)


@lru_cache(maxsize=64)
def _judged(rules: RuleSet) -> RuleSet:
    """Return rules without what only the client's process has: the guards of machines."""

    def bare(machine: Machine | None) -> Machine | None:
        if machine is None or not machine.guards:
            return machine
        table = machine.transitions
        return Machine(machine.name, machine.field, machine.initial, table, machine.final)

    judged = {
        pattern: dataclasses.replace(rule, machine=bare(rule.machine))
        for pattern, rule in rules.rules.items()
    }
    return RuleSet(rules.version, judged, rules.reducers)


@lru_cache(maxsize=64)
def _opaque(rules: RuleSet) -> RuleSet:
    """Return rules of which only who may write which kind of key is left."""
    bare = {
        pattern: dataclasses.replace(rule, machine=None, schema=None)
        for pattern, rule in rules.rules.items()
    }
    reducers = {
        name: dataclasses.replace(each, accepts=None) for name, each in rules.reducers.items()
    }
    return RuleSet(rules.version, bare, reducers)


def _unknown_reducer(rules: RuleSet, key: str) -> bool:
    return rules.match(key)[1].kind == MERGED and rules.reducer(key) is None


# What a token of some keys does not see


def _visible(identity: Identity, answer: Any) -> Any:
    """Return an answer without what its token does not include."""
    if identity.sees_all:
        return answer
    may = identity.may_key
    match answer:
        case Snapshot() if answer.applied is not None:
            hidden = not all(may(each.key) for each in answer.applied.writes)
            return answer._replace(applied=None) if hidden else answer
        case requests.LogPage():
            return answer._replace(entries=_entries(answer.entries, may))
    if isinstance(answer, list):  # of refusals
        return [each for each in answer if may(each.key)]
    return answer


def _entries(entries: Iterable[Entry], may: Callable[[str], bool]) -> list[Entry]:
    return [_entry(each, may) for each in entries if may(each.key)]


def _entry(entry: Entry, may: Callable[[str], bool]) -> Entry:
    shown = entry.reads is None or all(may(each.removesuffix("*")) for each in entry.reads)
    return entry if shown else entry._replace(reads=None)
