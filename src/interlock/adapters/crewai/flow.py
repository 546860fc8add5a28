"""Which flow object is at work, what it has seen of the store, and the state its methods share.

CrewAI tells a persistence the id of a flow, and not which of several flow objects with that id is
saving.  The guard needs that: a save is compared with what *this* object has loaded or saved last.
The object stands in the frame that calls; if none does, the state itself tells what was read.
"""

from __future__ import annotations

import copy
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from interlock import InterlockError, Record, Space
from interlock.extras import needs

with needs("CrewAI", "crewai"):
    from crewai.flow.runtime import Flow


class Place(NamedTuple):
    """Where a flow is kept."""

    space: Space
    key: str


class Caller:
    """Who reads and writes, with no flow at work: what it has read travels with the state."""

    is_flow = False

    def __init__(self) -> None:
        # The methods of one flow save in several threads: each after the other, not against it.
        self.saving = threading.RLock()
        self.changing = threading.RLock()

    def last(self, place: Place) -> Record | None:
        """Return the record that was read or written last, None if there was none."""
        return None

    def saw(self, place: Place, record: Record) -> None:
        """Remember a record that was read or written."""


class _FlowCaller(Caller):
    """A flow object: what it has seen last is what its next save must come from."""

    is_flow = True

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[Place, Record] = {}

    def last(self, place: Place) -> Record | None:
        return self._seen.get(place)

    def saw(self, place: Place, record: Record) -> None:
        self._seen[place] = record

    def resumes(self, asked: object) -> None:
        """Go on from what was loaded with `asked`, unless the flow has seen something since."""
        loaded = getattr(asked, _LOADED, None)
        if loaded is not None:
            place, record = loaded
            self._seen.setdefault(place, record)


T = TypeVar("T")
_LOADED = "interlock_loaded"


def tag(asked: T, place: Place, record: Record) -> T:
    """Return a context of pending feedback that tells the flow object which is made for it, and
    resumed later, what it was loaded from."""
    setattr(asked, _LOADED, (place, record))
    return asked


_flows: weakref.WeakKeyDictionary[object, _FlowCaller] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def caller_of(flow: object) -> _FlowCaller:
    """Return the caller that a flow object is."""
    with _making:
        return _flows.setdefault(flow, _FlowCaller())


def loader(persistence: object) -> Caller:
    """Return who loads through `persistence`: the flow object whose kickoff calls it.

    Code of the user's own that looks at a state inside a flow is not that flow: the state that the
    flow goes on with does not come from there.
    """
    for frame in _frames(persistence):
        if not _is_crewai(frame.f_globals.get("__name__", "")):
            break
        if (flow := _flow_in(frame)) is not None:
            return caller_of(flow)
    return Caller()


def saver(persistence: object, flow_id: object) -> Caller:
    """Return who saves through `persistence`: the flow object of that id that is at work."""
    for frame in _frames(persistence):
        flow = _flow_in(frame)
        if flow is not None and flow.flow_id == str(flow_id):
            caller = caller_of(flow)
            # CrewAI forgets what it asked just before it says that the flow goes on.
            caller.resumes(flow.pending_feedback or frame.f_locals.get("context"))
            return caller
    return Caller()


def _frames(persistence: object) -> Iterator[FrameType]:
    """Yield the frames that called a method of `persistence`, the nearest first."""
    frame: FrameType | None = sys._getframe(2)
    inside = True
    while frame is not None:
        inside = inside and frame.f_locals.get("self") is persistence
        if not inside:
            yield frame
        frame = frame.f_back


def _flow_in(frame: FrameType) -> Any:
    """Return the flow object whose method a frame is, or that it was called with; or None."""
    names = frame.f_locals
    found = (names.get(name) for name in ("flow_instance", "self", "flow"))
    return next((each for each in found if isinstance(each, Flow)), None)


def _is_crewai(module: str) -> bool:
    return module == "crewai" or module.startswith("crewai.")


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
    changing = caller_of(flow).changing
    while True:
        before = _copied(flow, field, default)
        value = fn(copy.deepcopy(before))
        with changing:
            if _get(flow, field, default) == before:
                _set(flow, field, value)
                return value


async def update_async(
    flow: object, field: str, fn: Callable[[Any], Any], default: object = None
) -> Any:
    """Do what `update` does; `fn` may be a coroutine function."""
    changing = caller_of(flow).changing
    while True:
        before = _copied(flow, field, default)
        value = fn(copy.deepcopy(before))
        if inspect.isawaitable(value):
            value = await value
        with changing:
            if _get(flow, field, default) == before:
                _set(flow, field, value)
                return value


def _copied(flow: object, field: str, default: object) -> object:
    with caller_of(flow).changing:
        return copy.deepcopy(_get(flow, field, default))


def _get(flow: object, field: str, default: object) -> object:
    state = _state(flow)
    return state.get(field, default) if isinstance(state, dict) else getattr(state, field)


def _set(flow: object, field: str, value: object) -> None:
    state = _state(flow)
    if isinstance(state, dict):
        state[field] = value
    else:
        setattr(state, field, value)


def _state(flow: Any) -> Any:
    """Return the state itself; `flow.state` may be a view of it with locks."""
    state = flow.state
    return state._unwrap() if hasattr(state, "_unwrap") else state
