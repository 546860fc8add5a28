"""What makes a coordinator a curator: events are routed to scopes, and the curator owns the keys.

Each scope is a shared value of its own, `memory/project`; an event is merged into those that it is
routed to, in the commit that moves the position (see `coordinator`).  An event that fits nowhere is
rejected and kept, as one that is not valid.

A validator that calls a service is asked in an effect of a run, `curator-POSITION`: its verdict is
recorded before anything else happens, and recalled if this process dies before the merge.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from interlock.core.fold import ask, reload
from interlock.core.keys import check_key, check_name
from interlock.core.plan import DELETE
from interlock.core.records import Entry
from interlock.core.refusals import Invalid, Pruned, Refusal, described, text_of
from interlock.core.requests import Load, ReadLog, Steps, Think
from interlock.core.rule_change import declare
from interlock.core.rules import OWNED, Rule, RuleSet, owned
from interlock.core.struct import Json
from interlock.core.types import Shape, shape_of
from interlock.core.write import forgot_return
from interlock.core.writer import Writer
from interlock.streams import coordinator
from interlock.streams.coordinator import REJECT, Job, identity_of, verdict

CURATOR = "curator"
SCOPES = ("project", "user", "agent")
MOST_SLOTS = 256  # calls of a service at a time
# What a validator that calls a service raises because of the event; all else is the service's.
_AT_FAULT = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


def job(
    source: str,
    validate: object,
    dedupe: object,
    route: Callable[[Any], Any] | None,
    scopes: object,
    into: str,
    merge: object,
    initial: Json,
    name: str,
    effect: object,
    slots: object,
    form: Any = None,
) -> Job | Invalid:
    """Return what a curator is to do, or what is malformed.  `form`: the type of events."""
    if route is not None and not callable(route):
        return Invalid(f"route={route!r:.60} must be a function of an event.")
    if effect and validate is None:
        return Invalid("effect=True is about validate=, which is not given.")
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MOST_SLOTS:
        return Invalid(f"slots={slots!r:.40} must be a whole number from 1 to {MOST_SLOTS}.")
    if slots > 1 and not effect:
        return Invalid(f"slots={slots} is how many calls are made at a time: give effect=True.")
    if not isinstance(name, str) or "/" in name:
        return Invalid(f"name={name!r:.60} must be a text without '/'.")
    if form is not None:
        shape = shape_of(form)
        if isinstance(shape, Invalid):
            return shape
        checked = _valid if validate is None else validate
        validate, dedupe, route = (_given(shape, each) for each in (checked, dedupe, route))
    found = coordinator.job(into, source, merge, validate, dedupe, initial, name, REJECT)
    if isinstance(found, Invalid):
        return found
    known = _known(scopes)
    if isinstance(known, Invalid):
        return known
    prefix, own = f"{into}/", f"{name}/"
    if source.startswith(prefix) or prefix.startswith(source):
        return Invalid(
            f"The curator owns {prefix!r}, so nobody else can write events under {source!r}. "
            "Keep them under their own prefix, such as 'events/'."
        )
    if prefix.startswith(own) or own.startswith(prefix):
        return Invalid(f"into={into!r} holds the curator's own {own!r}: give it another name=.")
    targets = _routing(prefix, route, known)
    found = replace(found, kind=CURATOR, into=prefix, route=route, targets=targets)
    return replace(found, batch=1, by_entry=True) if effect else found


def take_over(writer: Writer, job: Job, op_id: str) -> Steps[RuleSet | Refusal]:
    """Protocol: make the curator the owner of its keys, unless the rules say so already."""
    yield from reload(writer)
    stored = writer.book.rules.rules
    missing = {
        pattern: owned(by=writer.agent)
        for pattern in (f"{job.into}**", f"{job.name}/**")
        if not _owns(writer.agent, stored.get(pattern))
    }
    if not missing:
        return writer.book.rules
    return (yield from declare(writer.book, writer.plan, missing, op_id, whole=False))


def ahead(writer: Writer, job: Job, cursor: int, most: int) -> Steps[tuple[int, list[Entry]]]:
    """Protocol: the next events that a verdict will be asked of, and up to which position.

    Whatever is wrong with one is said when its turn comes.
    """
    page = yield from ReadLog(after=cursor, prefix=job.source, limit=most)
    if isinstance(page, Pruned):
        return cursor, []
    new: dict[str, Entry] = {}
    for entry in page.entries:
        if entry.kind != DELETE and not entry.erased:
            try:
                identity = yield from identity_of(job, entry.value)
            except Exception:
                continue
            new.setdefault(job.seen(identity or f"position {entry.position}"), entry)
    seen = (yield from ask(writer, Load(tuple(new)))).records
    return page.upto, [entry for key, entry in new.items() if not seen[key].exists]


def judging(validate: Callable[[Any], Any]) -> Callable[[str, Json], Any]:
    """Return the function of an effect that returns why `validate` rejects an event, or None.

    What is the event's fault is a verdict; what the service raises is raised.
    """

    async def finish(said: Awaitable[Json]) -> str | None:
        try:
            return verdict(await said)
        except _AT_FAULT as problem:
            return _fault(problem)

    def judge(key: str, event: Json) -> Any:
        try:
            said = validate(event)
        except _AT_FAULT as problem:
            return _fault(problem)
        return finish(said) if inspect.isawaitable(said) else verdict(said)

    async def judge_async(key: str, event: Json) -> str | None:
        return await finish(validate(event))

    return judge_async if inspect.iscoroutinefunction(validate) else judge


def _valid(event: object) -> None:
    """Find nothing wrong with an event, which is of its type."""


def _given(shape: Shape[Any], fn: Any) -> Any:
    """Return a function of JSON out of one of the type; what else there is stays.

    It raises Misfit, a ValueError, for an event that is not of the type.
    """
    if not callable(fn):
        return fn

    async def call_async(event: Json) -> Any:
        return await fn(shape.decode(event))

    def call(event: Json) -> Any:
        return fn(shape.decode(event))

    return call_async if inspect.iscoroutinefunction(fn) else call


def _fault(problem: Exception) -> str:
    return (text_of(problem) if isinstance(problem, ValueError) else "") or described(problem)


def _owns(agent: str, rule: Rule | None) -> bool:
    return rule is not None and (rule.kind, rule.by) == (OWNED, agent)


def _known(scopes: object) -> tuple[str, ...] | Invalid:
    """Return the names of the scopes, or what is malformed."""
    if isinstance(scopes, str) or not isinstance(scopes, Iterable):
        return Invalid(f"scopes={scopes!r:.60} must be several names, such as {SCOPES}.")
    known = tuple(scopes)
    for each in known:
        wrong = check_name("scope", each) or check_key(each)
        if wrong is not None or "/" in each:
            return wrong or Invalid(f"Scope {each!r:.60} contains '/': name what comes before it.")
    return known or Invalid("scopes=() must name at least one scope.")


def _routing(
    prefix: str, route: Callable[[Json], Any] | None, scopes: tuple[str, ...]
) -> Callable[[Json], Steps[tuple[str, ...]]]:
    """Return the protocol that says which keys an event is merged into."""

    def key_of(scope: object) -> str:
        if not isinstance(scope, str) or scope.partition("/")[0] not in scopes:
            raise ValueError(f"{scope!r:.80} is not a scope: {', '.join(scopes)}.")
        wrong = check_key(f"{prefix}{scope}")
        if wrong is not None:
            raise ValueError(wrong.message)
        return f"{prefix}{scope}"

    def targets(event: Json) -> Steps[tuple[str, ...]]:
        found: Any = event.get("scope") if route is None and isinstance(event, dict) else None
        if route is not None:
            found = yield Think(route, (event,))
            if found is None:
                raise TypeError(forgot_return("route"))
        several = found if isinstance(found, list | tuple | set | frozenset) else (found,)
        keys = tuple(dict.fromkeys(map(key_of, several)))
        if not keys:
            raise ValueError("It was routed to no scope.")
        return keys

    return targets
