"""What a process knows of the run that it works on: what is recorded, and where it stands.  Pure.

A step is known by its place in the program: its number among the steps of the same parent, counted
as they are asked for.  So the program must ask for the same steps in the same order whenever it
runs, which is checked: a step that is recorded under another name or with other arguments is
reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from interlock.core.machine import AGENT_LIFECYCLE, check_move
from interlock.core.plan import DELETE, PUT, Expect, Plan, Write, expect
from interlock.core.records import Record
from interlock.core.refusals import Invalid, Refusal
from interlock.core.struct import Json
from interlock.core.transact import Transaction
from interlock.core.write import Decision, write_of
from interlock.core.writer import Writer
from interlock.errors import Invalid as InvalidError
from interlock.errors import ProgramChanged, RunFailed
from interlock.runs.records import DONE, OPEN, UNDOING, fence_key, step_key


class Suspended(BaseException):
    """Unwinds a program whose run waits, or whose worker stops: no `except Exception` keeps it."""


class Undo(NamedTuple):
    """How a finished effect is undone: `fn(key, result)`."""

    position: int
    path: str
    name: str
    key: str
    result: Json
    fn: Callable[..., object]


@dataclass(eq=False)
class Frame:
    """A running step, or (path "") the whole program: it counts the steps inside it."""

    run: RunState
    path: str
    tx: Any = None
    payload: dict[str, Json] = field(default_factory=dict)  # what will be recorded of the step
    count: int = 0

    def begin(self, tx: object, payload: dict[str, Json]) -> None:
        """Run the step, or run it again because something that it read has moved."""
        self.tx, self.payload, self.count = tx, payload, 0

    def next_path(self) -> str:
        """Return the place of the next step that is asked for inside this one."""
        self.count += 1
        return f"{self.path}.{self.count}" if self.path else str(self.count)


_frame: ContextVar[Frame | None] = ContextVar("interlock_step", default=None)


@contextmanager
def inside(frame: Frame) -> Iterator[None]:
    """Have steps that are asked for in this context counted by `frame`."""
    token = _frame.set(frame)
    try:
        yield
    finally:
        _frame.reset(token)


@dataclass(eq=False)
class RunState:
    """A run as its worker knows it.  `fence` is its record at the epoch of the worker's lease."""

    id: str
    writer: Writer
    fence: Record
    status: Record  # where it stands: what is under `$runs/open/`, or `$runs/done/`
    steps: dict[str, Record]
    suspends: bool = False  # whether to leave where it would wait for long
    stopping: Callable[[], bool] = lambda: False  # whether to leave before the next new step
    stopped: bool = False  # whether that has happened
    left: bool = False  # whether its block was left
    pid: int = field(default_factory=os.getpid)  # of the process that works on it
    undo: dict[str, Undo] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # places of effects, by idempotency key

    def __post_init__(self) -> None:
        self.root = Frame(self, "")

    @property
    def frame(self) -> Frame:
        """The step that runs in this context, or the whole program."""
        frame = _frame.get()
        return frame if frame is not None and frame.run is self else self.root

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status.key.startswith(DONE)

    @property
    def ending(self) -> str | None:
        """Why the run fails, once that is certain; what it did is being undone then."""
        reason: str | None = self.status.value.get("ending")
        return reason

    def recall(self, path: str, kind: str, name: str, arguments: str) -> Mapping[str, Json] | None:
        """Return what is recorded of a step; None where it is new, and may be done now.

        Raises ProgramChanged, RunFailed where nothing new may be done any more, and Suspended where
        the worker stops before it.
        """
        record = self.steps.get(path)
        if record is None:
            if self.ending is not None and not path.startswith(UNDOING):
                raise RunFailed(self.ending)
            if self.over:
                raise ProgramChanged(
                    f"Run {self.id!r} is {self.status.value['state']}, but its program asks for "
                    f"a new step {path} ({kind} {name!r})"
                )
            if self.left:
                raise InvalidError(
                    f"Run {self.id!r} was left, but its program asks for step {path}."
                )
            if self.stopping():
                self.stopped = True
                raise Suspended
            return None
        recorded: Mapping[str, Json] = deepcopy(record.value)
        was, now = (recorded["kind"], recorded["name"]), (kind, name)
        if was != now or recorded["args"] != arguments:
            what = f"{kind} {name!r}" + (" with other arguments" if was == now else "")
            raise ProgramChanged(
                f"Step {path} of run {self.id!r} is recorded as {was[0]} {was[1]!r}, but the "
                f"program asks for {what}"
            )
        return recorded

    def check_complete(self, frame: Frame) -> None:
        """Raise ProgramChanged where a step is recorded that the program did not ask for."""
        inside = f"{frame.path}." if frame.path else ""
        for path, record in self.steps.items():
            place = path.removeprefix(inside)
            if path.startswith(inside) and place.isdigit() and int(place) > frame.count:
                raise ProgramChanged(
                    f"Step {path} of run {self.id!r} is recorded as {record.value['name']!r}, but "
                    "the program did not ask for it"
                )

    def remember(self, path: str, value: Mapping[str, Json], version: int, position: int) -> None:
        """Know what was just recorded of a step."""
        key = step_key(self.id, path)
        space, agent = self.writer.space, self.writer.agent
        self.steps[path] = Record(key, value, version, 0, agent, 0, position, True, space)

    def plan(
        self,
        op_id: str,
        steps: Mapping[str, Mapping[str, Json]],
        status: Mapping[str, Json] | None = None,
        expects: tuple[Expect, ...] = (),
    ) -> Decision:
        """Plan recording `steps` by path, and where the run stands; only for whoever has its lease.

        `status` of a run that has ended moves to where those are kept.
        """
        writes: list[Write] = []
        expected = [*expects, expect(self.fence)]
        for path, value in steps.items():
            recorded, key = self.steps.get(path), step_key(self.id, path)
            expected.append(Expect(key, 0 if recorded is None else recorded.version, None))
            written = self._put(key, value, f"step {path}")
            if isinstance(written, Refusal):
                return written
            writes.append(written)
        if status is not None:
            moved = self._status_writes(status, expected)
            if isinstance(moved, Refusal):
                return moved
            writes += moved
        return self.writer.plan(op_id, expects=expected, writes=writes)

    def _status_writes(
        self, status: Mapping[str, Json], expected: list[Expect]
    ) -> list[Write] | Refusal:
        old, was = self.status, self.status.value
        if was["state"] != status["state"]:
            refused = check_move(
                AGENT_LIFECYCLE, fence_key(self.id), was, True, status, self.writer.agent
            )
            if refused is not None:
                return refused
        expected.append(expect(old))
        if status["state"] not in AGENT_LIFECYCLE.final:
            written = self._put(old.key, status, "where it stands")
            return written if isinstance(written, Refusal) else [written]
        done = f"{DONE}{old.key.removeprefix(OPEN)}"
        expected.append(Expect(done, 0, None))
        written = self._put(done, status, "result")
        return written if isinstance(written, Refusal) else [Write(DELETE, old.key, None), written]

    def _put(self, key: str, value: Json, what: str) -> Write | Refusal:
        write = write_of(self.writer, PUT, key, value)
        if isinstance(write, Invalid):
            return Invalid(f"Can't record {what} of run {self.id!r}: {write.message}")
        return write


class StepTransaction(Transaction):
    """The transaction of a step: what it wrote, and that it is finished, together or not at all."""

    recorded = True

    def __init__(self, run: RunState, path: str, payload: Mapping[str, Json]) -> None:
        super().__init__(run.writer)
        self.run = run
        self.path = path
        self.payload = {**payload}

    @property
    def changes(self) -> bool:
        """There is always something to commit: that the step is finished."""
        return True

    def is_over(self, refusal: Refusal) -> bool:
        """Whether the run was taken over, or moved by somebody else who uses it here."""
        return str(getattr(refusal, "key", "")).startswith(self.run.fence.key)

    def decision(self, op_id: str) -> Decision:
        """Return the plan, or what stands against it."""
        own = self.run.plan(op_id, {self.path: self.payload})
        return own if isinstance(own, Refusal) else super().decision(op_id)

    def plan(self, op_id: str) -> Plan:
        """Return the plan that was decided."""
        own, base = self.run.plan(op_id, {self.path: self.payload}), super().plan(op_id)
        assert isinstance(own, Plan)  # it was decided before
        return base._replace(
            expects=(*base.expects, *own.expects), writes=(*base.writes, *own.writes)
        )
