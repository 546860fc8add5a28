"""Which flow object is at work, what it has seen of the store, and the state its methods share.

CrewAI tells a persistence the id of a flow, and not which of several flow objects with that id is
saving.  The guard needs that: a save is compared with what *this* object has loaded or saved last.
CrewAI says which object starts, with an event that a flow waits for between loading and its first
method; and what a flow object saves is its own state, which no other one has.
"""

from __future__ import annotations

import copy
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from interlock import InterlockError, Record, Space
from interlock.extras import needs

with needs("CrewAI", "crewai"):
    from crewai.events import FlowStartedEvent, crewai_event_bus
    from crewai.flow.runtime import Flow
    from pydantic import BaseModel

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a flow is kept: the same one, however often its space was opened."""

    space: Space = field(compare=False)
    identity: str  # of the space
    key: str


class Caller:
    """Who reads and writes: a flow object, whose next save must come from what it has seen last, or
    code with no flow at work, where what was read travels with the state."""

    def __init__(self, is_flow: bool = True) -> None:
        self.is_flow = is_flow
        # The methods of one flow save in several threads: each after the other, not against it.
        self.saving = threading.RLock()
        self.changing = threading.RLock()
        self._seen: dict[Place, Record] = {}

    def last(self, place: Place) -> Record | None:
        """Return the record that the flow has read or written last, None if there was none."""
        return self._seen.get(place)

    def saw(self, place: Place, record: Record) -> None:
        """Remember a record that was read or written."""
        self._seen[place] = record

    def version_of(self, place: Place) -> int:
        """Return the version that the flow has seen last, 0 if there was none."""
        return self._seen[place].version if place in self._seen else 0


class FlowId(str):
    """The id of a flow in the question that it asked; whoever resumes it goes on as `caller`."""

    caller: Caller

    @classmethod
    def of(cls, flow_id: str, caller: Caller) -> FlowId:
        """Return the id, with who goes on from what was loaded with it."""
        made = cls(flow_id)
        made.caller = caller
        return made


@dataclass
class _Load:
    """What was loaded last in a context, and the caller that went on from it there."""

    place: Place
    record: Record
    caller: Caller | None = None


_loaded: ContextVar[_Load | None] = ContextVar("interlock_crewai_loaded", default=None)
_flows: weakref.WeakKeyDictionary[Flow[Any], Caller] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def caller_of(flow: Any) -> Caller:
    """Return the caller that a flow object is."""
    with _making:
        return _flows.setdefault(flow, Caller())


def loaded(place: Place, record: Record, caller: Caller | None = None) -> None:
    """Remember what was loaded, for the flow whose kickoff did it, or that goes on with it."""
    _loaded.set(_Load(place, record, caller))


def watch_flows() -> None:
    """Get to know the flows that start from now on.  Twice does nothing."""
    crewai_event_bus.on(FlowStartedEvent)(_started)


def _started(flow: Any, event: FlowStartedEvent) -> None:
    """A flow has loaded what it goes on from, or goes on with an answer; no method has run."""
    asked = getattr(flow.pending_feedback, "flow_id", None)
    if isinstance(asked, FlowId):
        with _making:
            _flows.setdefault(flow, asked.caller)
        return
    caller, load = caller_of(flow), _loaded.get()
    place_of = getattr(flow.persistence, "place_of", None)
    if load is not None and place_of is not None and place_of(flow.flow_id) == load.place:
        # With an id in its inputs, it has just loaded that: this runs in a copy of its context.
        # What the user's own code has looked at before is not what the flow goes on from.
        loads = load.caller is None and "id" in (event.inputs or {})
        load.caller = caller if loads else None
        if loads:
            caller.saw(load.place, load.record)


def saver(flow_id: object, state: object, place: Place) -> Caller:
    """Return who saves a state: the flow object whose state it is, or, of a model, a copy."""
    if isinstance(flow_id, FlowId):
        return flow_id.caller
    with _making:
        flows = [(state_of(flow), who) for flow, who in _flows.items() if flow.flow_id == flow_id]
    same = [who for own, who in flows if own is state]
    if not same:
        models = [(own, who) for own, who in flows if isinstance(own, BaseModel)]
        same = [who for own, who in models if own.model_dump() == state]
    load = _loaded.get()
    if load is not None and load.caller in same and load.place == place:
        return load.caller
    # Of several that may be at work, the one that has seen least: it is refused at worst.
    return min(same, key=lambda who: who.version_of(place), default=Caller(is_flow=False))


def state_of(flow: Any) -> Any:
    """Return the state itself; `flow.state` may be a view of it with locks."""
    state = flow.state
    return state._unwrap() if hasattr(state, "_unwrap") else state


@contextmanager
def typed_errors() -> Iterator[None]:
    """Raise Interlock's own error in place of the RuntimeError that CrewAI makes of it.

    `with typed_errors(): flow.kickoff(...)` raises Conflict, Held, Fenced.  Without it they are the
    `__cause__` of the RuntimeError.
    """
    try:
        yield
    except RuntimeError as problem:
        raise_typed(problem)
        raise


def raise_typed(problem: BaseException | None) -> None:
    """Raise Interlock's error that a RuntimeError of CrewAI came from; else do nothing.

    A `kickoff` inside a running event loop fails twice, the second time with an error of asyncio,
    whose context is the first.
    """
    cause = problem if isinstance(problem, RuntimeError) else None
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found: BaseException | None = cause.__cause__ or cause.__context__
        if isinstance(found, InterlockError):
            raise found from None
        cause = found if isinstance(found, RuntimeError) else None


# The state that the methods of one flow share


def update(flow: object, field: str, fn: Callable[[Any], T], default: object = None) -> T:
    """Read a field of a flow's state, call `fn(value)`, set what it returns, and return that.

    For methods that run at once: if another one has changed the field meanwhile, `fn` thinks
    again, on the fresh value.  `fn` gets a copy, and `default` if a dict has no such field.
    """
    while True:
        before = _copied(flow, field, default)
        value = fn(copy.deepcopy(before))
        if _replaced(flow, field, default, before, value):
            return value


async def update_async(
    flow: object, field: str, fn: Callable[[Any], Any], default: object = None
) -> Any:
    """Do what `update` does; `fn` may be a coroutine function."""
    while True:
        before = _copied(flow, field, default)
        value = fn(copy.deepcopy(before))
        if inspect.isawaitable(value):
            value = await value
        if _replaced(flow, field, default, before, value):
            return value


def _copied(flow: object, field: str, default: object) -> object:
    with caller_of(flow).changing:
        return copy.deepcopy(_get(flow, field, default))


def _replaced(flow: object, field: str, default: object, before: object, value: object) -> bool:
    with caller_of(flow).changing:
        if _get(flow, field, default) != before:
            return False
        state = state_of(flow)
        if isinstance(state, dict):
            state[field] = value
        else:
            setattr(state, field, value)
        return True


def _get(flow: object, field: str, default: object) -> object:
    state = state_of(flow)
    return state.get(field, default) if isinstance(state, dict) else getattr(state, field)
