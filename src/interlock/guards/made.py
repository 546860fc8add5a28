"""How a guard is made of a place and the options that all guards have."""

from __future__ import annotations

from typing import TypedDict

from interlock._async.guard import AsyncGuard
from interlock._async.space import AsyncSpace
from interlock._sync.guard import Guard
from interlock._sync.space import Space
from interlock.backends.drive import SyncDriver
from interlock.backends.drive_async import AsyncDriver
from interlock.core import rules
from interlock.core.machine import Machine
from interlock.core.rules import RuleSet
from interlock.errors import Invalid, raise_refused
from interlock.guards.log import Log
from interlock.guards.outside import Outside, OutsideWriter
from interlock.guards.place import Place
from interlock.observe.observer import Observer
from interlock.session import AsyncSession, Session
from interlock.settings import check_validator, make_writer


class Common(TypedDict, total=False):
    """The options of every guard."""

    metadata: bool | None
    machine: Machine | None
    schema: object
    on_conflict: str
    agent: str | None
    max_value_bytes: int | None


class Options(Common, total=False):
    """Those of a Guard."""

    turns: Space | None
    log: Space | None
    lease: Space | None


class AsyncOptions(Common, total=False):
    """Those of an AsyncGuard."""

    turns: AsyncSpace | None
    log: AsyncSpace | None
    lease: AsyncSpace | None


def made(
    place: Place,
    *,
    metadata: bool | None = None,
    machine: Machine | None = None,
    schema: object = None,
    on_conflict: str = "retry",
    agent: str | None = None,
    turns: Space | AsyncSpace | None = None,
    log: Space | AsyncSpace | None = None,
    lease: Space | AsyncSpace | None = None,
    max_value_bytes: int | None = None,
    appended: bool = False,
) -> Guard | AsyncGuard:
    """Return a guard of a place; `appended`: of values that are added to.  Raises Invalid."""
    rule = rules.guarded(machine=machine, schema=schema, on_conflict=on_conflict)
    if appended and rule != rules.guarded():
        raise Invalid("A list has no machine=, schema= or on_conflict=: items are added to it.")
    rule = rules.merged("append") if appended else rule
    declared = {} if rule == rules.guarded() else {"**": rule}  # the default is not looked up
    raise_refused(rules.check(declared))
    check_validator(declared)
    space = _one_space(place, turns=turns, log=log, lease=lease)
    if agent is None and space is not None:
        agent = space.agent
    uid = f"outside/{place.name}"
    plain = make_writer(uid, place.name, agent, max_value_bytes)
    writer = OutsideWriter(uid, plain.agent, plain.max_value_bytes, host=plain.host)
    writer.place = place
    writer.book = writer.book.knowing(declared)
    writer.book.rules = RuleSet(0, declared)
    queue = turns or lease  # who waits for a lease stands in a queue, too
    logged = None
    if space is not None and (log or lease):
        session = space.session.under_name(plain.agent)
        logged = Log(session, place, values=log is not None, fenced=lease is not None)
    backend = Outside(
        *(place, uid, metadata, plain.max_value_bytes),
        None if queue is None else queue.session.driver.backend,
        logged,
    )
    observer = Observer(place.name, quiet=True)
    if place.asynchronous:
        return AsyncGuard(AsyncSession(AsyncDriver(backend, observer), writer), place.several)
    return Guard(Session(SyncDriver(backend, observer), writer), place.several)


def _one_space(place: Place, **given: Space | AsyncSpace | None) -> Space | AsyncSpace | None:
    """Return the space that a guard uses.  Raises Invalid."""
    found: Space | AsyncSpace | None = None
    for option, space in given.items():
        if space is None:
            continue
        if not isinstance(space, AsyncSpace if place.asynchronous else Space):
            kind = "AsyncSpace" if place.asynchronous else "Space"
            raise Invalid(f"{option}= must be an interlock.{kind} here, not {space!r:.60}.")
        if found is not None and space.session.writer.space != found.session.writer.space:
            raise Invalid(f"{option}= must be the same space as the other options.")
        found = found or space
    return found
