"""What CrewAI saves of its flows.  Each save is compared with what the same run has read last."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from datetime import date
from typing import Literal, Self, cast

from interlock import AsyncSpace, Invalid, Json, Lease, Record, Space
from interlock.adapters.crewai.flow import (
    Caller,
    FlowId,
    Place,
    loaded,
    raise_typed,
    saver,
    watch_flows,
)
from interlock.adapters.home import Closing, Home
from interlock.adapters.observed import Observed, ObservedDict, observed
from interlock.adapters.space import (
    give_up,
    one_of,
    quoted,
    synchronous,
    take,
    write_over,
)
from interlock.extras import needs

with needs("CrewAI", "crewai"):
    from crewai.flow.async_feedback.types import PendingFeedbackContext
    from crewai.flow.persistence import FlowPersistence
    from crewai.flow.persistence.factory import default_flow_persistence
    from pydantic import BaseModel, PrivateAttr

State = dict[str, Json]  # of a flow
Change = Callable[[State, State], State]

_runs: ContextVar[Mapping[Place, FlowRun]] = ContextVar("interlock_crewai_runs")


class Persistence(Closing, FlowPersistence):
    """Keeps the state of flows in a space, and refuses a save that would undo another run's.

    `Persistence(url)` opens the space called `space` and closes it, at the end of a `with` block,
    by `close()`, or when nobody refers to it any more; `Persistence(space)` is given one.  It goes
    wherever CrewAI takes a persistence: `@persist(Persistence(url))`, `MyFlow(persistence=...)`,
    `set_flow_persistence_factory(lambda: persistence)`.  A run that saves over what it has not
    loaded gets Conflict, and Held while another one has the flow in a `run` block; CrewAI raises a
    RuntimeError with it as `__cause__` (see `typed_errors`).

    Called by hand, `save_state` compares with what `load_state` returned: pass that back, changed.
    With `unread="overwrite"` it writes over what was not loaded.
    """

    persistence_type: str = "Persistence"
    _space: Space = PrivateAttr()
    _home: Home = PrivateAttr()
    _calls: AsyncSpace = PrivateAttr()
    _identity: str | None = PrivateAttr(default=None)
    _overwrites: bool = PrivateAttr(default=False)

    def __init__(
        self,
        where: Space | str | None = None,
        /,
        *,
        space: str = "default",
        agent: str | None = None,
        unread: Literal["refuse", "overwrite"] = "refuse",
        **fields: object,
    ) -> None:
        super().__init__(**fields)
        one_of("unread", unread, "refuse", "overwrite")
        # A flow restored from a checkpoint of CrewAI names its persistence's type, and no space.
        self._open(self._registered() if where is None else where, space, agent)
        self._space = synchronous(self._space, "Persistence")
        self._overwrites = unread == "overwrite"
        watch_flows()

    def init_db(self) -> None:
        """Do nothing: opening the space has made what it needs."""

    def place_of(self, flow_id: object) -> Place:
        """Return where a flow is kept."""
        key = flow_key(flow_id)
        if self._identity is None:
            self._identity = self._space.read(key).space
        return Place(self._space, self._identity, key)

    def save_state(self, flow_uuid: str, method_name: str, state_data: object) -> None:
        """Save a flow's state after a method: a dict or a Pydantic model.

        Raises Conflict if the flow object that saves has not loaded or made what is there, Held,
        Fenced if its `run` block was taken over, Invalid if the state is no JSON.
        """

        def change(before: State, state: State) -> State:
            return {**before, "method": method_name, "state": state}

        self._save(flow_uuid, state_data, change)

    def load_state(self, flow_uuid: str) -> State | None:
        """Return the state that was saved last, or None."""
        place = self.place_of(flow_uuid)
        record = self._current(place)
        loaded(place, record)
        return _carrying(record, record.value["state"]) if record.exists else None

    def save_pending_feedback(
        self, flow_uuid: str, context: PendingFeedbackContext, state_data: object
    ) -> None:
        """Save a flow's state and what it asks a person, in one commit.  Raises as `save_state`."""
        asked = json.loads(json.dumps(context.to_dict(), default=_plain))

        def change(before: State, state: State) -> State:
            pending = {"context": asked, "state": state}
            return {"method": context.method_name, "state": state, "pending": pending}

        who = self._save(flow_uuid, state_data, change)
        if who.is_flow:  # the same object may go on with the answer
            context.flow_id = FlowId.of(context.flow_id, who)

    def load_pending_feedback(self, flow_uuid: str) -> tuple[State, PendingFeedbackContext] | None:
        """Return the state of a flow that waits for a person, and what it asked; or None."""
        place = self.place_of(flow_uuid)
        record = self._current(place)
        pending = record.value.get("pending") if record.exists else None
        if pending is None:
            return None
        asked = PendingFeedbackContext.from_dict(copy.deepcopy(pending["context"]))
        who = Caller()
        who.saw(place, record)
        asked.flow_id = FlowId.of(asked.flow_id, who)
        return _carrying(record, pending["state"]), asked

    def clear_pending_feedback(self, flow_uuid: str) -> None:
        """Note that a flow goes on with an answer.

        Raises Conflict if it went on already: one of two answers wins, before what follows it.
        """
        place = self.place_of(flow_uuid)
        who = saver(flow_uuid, None, place)
        with who.saving:
            base = who.last(place) if who.is_flow else self._current(place)
            if base is not None and base.exists and "pending" in base.value:
                rest = {name: part for name, part in base.value.items() if name != "pending"}
                who.saw(place, written := self._write(place, base, rest))
                loaded(place, written, who)  # this context is that of the flow that goes on
            elif who.is_flow and self._current(place).exists:
                self._write(place, None, {})  # raises the Conflict

    def run(self, flow_id: str, *, ttl: float = 30.0, wait: float | None = None) -> FlowRun:
        """Return a block for one run of a flow at a time, on all hosts: the others wait in turn.

        `with persistence.run("trip-1") as run: flow.kickoff(inputs=run.inputs)`, or `async with`.
        `ttl`: seconds after which a process that died is passed over.  `wait`: seconds to wait for
        the turn (None: without limit), then Held is raised.
        """
        return FlowRun(self, flow_id, ttl, wait)

    def _save(self, flow_uuid: str, state: object, change: Change) -> Caller:
        place = self.place_of(flow_uuid)
        who = saver(flow_uuid, state, place)
        with who.saving:  # first, so that of two methods' saves the later one has the later state
            plain = _as_dict(state, who)
            base = who.last(place)
            if not who.is_flow:  # the state itself tells what it was made from
                current = self._current(place)
                read = observed(state, current)
                base = current if read is None and self._overwrites else None
                base = base if read is None else read.record(current)
            before = base.value if base is not None and base.exists else {}
            written = self._write(place, base, change(before, plain))
            who.saw(place, written)
            if isinstance(state, ObservedDict):
                state.observed = Observed.of(written)  # it may be changed and saved again
        return who

    @staticmethod
    def _current(place: Place) -> Record:
        run = _runs.get({}).get(place)
        return place.space.read(place.key) if run is None else run.record

    @staticmethod
    def _write(place: Place, base: Record | None, value: State) -> Record:
        run = _runs.get({}).get(place)
        if run is None:
            return write_over(place.space, place.key, base, value)
        return run.write(base, value)

    @staticmethod
    def _registered() -> Space:
        default = default_flow_persistence()
        if not isinstance(default, Persistence):
            raise Invalid(
                "Persistence needs a space: Persistence(url); for flows that CrewAI restores "
                "from a checkpoint, set_flow_persistence_factory(lambda: persistence)"
            )
        return default._space


class FlowRun:
    """The one run of a flow that is under way; use it in a `with` or `async with` block.

    What the flow saves is fenced: once another process has taken over, it is refused with Fenced.
    Errors of Interlock leave the block as themselves, not as CrewAI's RuntimeError.
    """

    _lease: Lease

    def __init__(
        self, persistence: Persistence, flow_id: str, ttl: float, wait: float | None
    ) -> None:
        self.flow_id = flow_id
        self._persistence = persistence  # whose space stays open until the run ends
        self._place = persistence.place_of(flow_id)
        self._ttl, self._wait = ttl, wait
        self._token: Token[Mapping[Place, FlowRun]] | None = None
        self._lock = threading.Lock()

    @property
    def inputs(self) -> State:
        """What makes a kickoff go on from the saved state: `{"id": flow_id}`."""
        return {"id": self.flow_id}

    @property
    def epoch(self) -> int:
        """The fencing number of this run.  Pass it on to whatever else must be fenced."""
        return self._lease.epoch

    @property
    def record(self) -> Record:
        """The record that the flow is kept in, as of the start or of the last save."""
        return self._lease.record

    def write(self, base: Record | None, value: Json) -> Record:
        """Write the flow's record over what one of its flow objects has seen; for `Persistence`."""
        with self._lock:
            if (0 if base is None else base.version) != self.record.version:
                raise Invalid(
                    f"This flow object has not read the newest state of {self.flow_id!r}. "
                    "Start it with `kickoff(inputs=run.inputs)`, one flow object at a time"
                )
            return self._lease.write(value)

    def __enter__(self) -> Self:
        space, key = self._place.space, self._place.key
        return self._entered(space.lease(key, self._ttl, wait=self._wait).acquire())

    def __exit__(self, kind: object, problem: BaseException | None, traceback: object) -> None:
        self._left()
        self._lease.release()
        raise_typed(problem)

    async def __aenter__(self) -> Self:
        lease = await take(self._place.space, self._place.key, self._ttl, self._wait)
        return self._entered(cast(Lease, lease))  # of a `Space`

    async def __aexit__(
        self, kind: object, problem: BaseException | None, traceback: object
    ) -> None:
        self._left()
        await give_up(self._lease)
        raise_typed(problem)

    def _entered(self, lease: Lease) -> Self:
        self._lease = lease
        self._token = _runs.set({**_runs.get({}), self._place: self})
        return self

    def _left(self) -> None:
        if self._token is not None:
            _runs.reset(self._token)
            self._token = None


def flow_key(flow_id: object) -> str:
    """Return the key of a flow."""
    return f"crewai/flow/{quoted(str(flow_id))}"


def _carrying(record: Record, state: State) -> ObservedDict:
    """Return a state that tells which version of its record it was read at."""
    return ObservedDict(copy.deepcopy(state), Observed.of(record))


def _as_dict(state: object, who: Caller) -> State:
    """Return a state as JSON, as CrewAI's own persistence writes it.  Raises Invalid."""
    if not isinstance(state, dict | BaseModel):
        raise Invalid(f"A flow's state is a dict or a Pydantic model, not {type(state).__name__}.")
    with who.changing:
        try:
            text = json.dumps(_plain(state), default=_plain)
        except (TypeError, ValueError) as problem:
            raise Invalid(f"The flow's state can't be saved as JSON: {problem}") from problem
    found: State = json.loads(text)
    return found


def _plain(value: object) -> Json:
    """Return what JSON can hold in place of a value that it cannot."""
    if isinstance(value, dict):
        return value
    if isinstance(value, BaseModel):
        try:
            return value.model_dump(mode="json")
        except Exception:  # a field that Pydantic has no JSON for
            return value.model_dump(mode="python")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return value.isoformat() if isinstance(value, date) else str(value)
