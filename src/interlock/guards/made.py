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


class AsyncOptions(Common, total=False):
    """Those of an AsyncGuard."""

    turns: AsyncSpace | None


def made(
    place: Place,
    *,
    metadata: bool | None = None,
    machine: Machine | None = None,
    schema: object = None,
    on_conflict: str = "retry",
    agent: str | None = None,
    turns: Space | AsyncSpace | None = None,
    max_value_bytes: int | None = None,
) -> Guard | AsyncGuard:
    """Return a guard of a place.  Raises Invalid."""
    declared = {"**": rules.guarded(machine=machine, schema=schema, on_conflict=on_conflict)}
    raise_refused(rules.check(declared))
    check_validator(declared)
    if turns is not None and not isinstance(turns, AsyncSpace if place.asynchronous else Space):
        kind = "AsyncSpace" if place.asynchronous else "Space"
        raise Invalid(f"turns= must be an interlock.{kind} here, not {turns!r:.60}.")
    if agent is None and turns is not None:
        agent = turns.agent
    uid = f"outside/{place.name}"
    plain = make_writer(uid, place.name, agent, max_value_bytes)
    writer = OutsideWriter(uid, plain.agent, plain.max_value_bytes, host=plain.host)
    writer.place = place
    writer.book = writer.book.knowing(declared)
    writer.book.rules = RuleSet(0, declared)
    queue = None if turns is None else turns.session.driver.backend
    backend = Outside(place, uid, metadata, plain.max_value_bytes, queue)
    observer = Observer(place.name, quiet=True)
    if place.asynchronous:
        return AsyncGuard(AsyncSession(AsyncDriver(backend, observer), writer))
    return Guard(Session(SyncDriver(backend, observer), writer))
