"""What a run knows, with either façade."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from typing import Any

from interlock import reentry
from interlock.core import protocol
from interlock.core.decide import Writer
from interlock.core.folding import ask
from interlock.core.outcome import Invalid as InvalidOutcome
from interlock.core.records import Record
from interlock.core.requests import Load, Steps
from interlock.core.turns import Limits
from interlock.errors import Invalid, raise_refusal, raise_refused
from interlock.runs import recording, waiting
from interlock.runs.records import FINISHED, STEP, check_call, digest
from interlock.runs.state import Frame, RunState, StepTransaction, inside
from interlock.settings import DEFAULT_ATTEMPTS

ATTEMPTS = 5  # failures, after which a run is parked
TTL = 30.0  # seconds

_LIMITS = Limits(DEFAULT_ATTEMPTS, None, "auto")


class RunHandle:
    """A run that is worked on here; `Run` and `AsyncRun` add how one waits for the store."""

    def __init__(
        self,
        driver: Any,
        writer: Writer,
        run_id: str,
        op_id: Callable[[str | None], str],
        *,
        program: str | None = None,
        given: Any = None,
        ttl: float = TTL,
        wait: float | None = None,
        attempts: int = ATTEMPTS,
        stopping: Callable[[], bool] | None = None,
    ) -> None:
        check_attempts(attempts)
        self._driver = driver
        self._writer = writer
        self._id = run_id
        self._op_id = op_id
        self._program = program
        self._given = given
        self._ttl = ttl
        self._wait = wait
        self._attempts = attempts
        self._stopping = stopping
        self._known: RunState | None = None
        self.result: Any = None

    @property
    def id(self) -> str:
        """The name of the run in its space."""
        return self._id

    @property
    def input(self) -> Any:
        """What the run was begun with."""
        return self._state.fence.value["input"]

    @property
    def state(self) -> str:
        """Where it stands: Processing, AwaitingInput, Completed or Failed."""
        return str(self._state.status.value["state"])

    @property
    def epoch(self) -> int:
        """The fencing number of this attempt.  Pass it on to whatever else must be fenced."""
        return self._state.fence.epoch

    @property
    def tx(self) -> Any:
        """The transaction of the step that runs: what is written in it commits with the step.

        Raises Invalid outside of a step.
        """
        tx = self._state.frame.tx
        if tx is None:
            raise Invalid(
                "run.tx is the transaction of a step, and no step runs here; "
                "use run.step(name, fn), and run.tx inside fn"
            )
        return tx

    def __repr__(self) -> str:
        return f"<interlock.{type(self).__name__} {self._id!r}>"

    @property
    def _state(self) -> RunState:
        if self._known is None:
            raise Invalid(f"run {self._id!r} is not worked on here; use it in a with block")
        if self._known.pid != os.getpid():
            raise Invalid(
                f"run {self._id!r} belongs to the process that works on it, not to one that was "
                "forked from it"
            )
        return self._known

    def _take_up(self, fence: Record) -> Steps[Any]:
        """Protocol: go on with the run, or begin it, once its lease is taken."""
        attempts = None if self._stopping is None else self._attempts
        given, new = self._given, self._draw()
        run = yield from recording.take_up(
            self._writer, self._id, fence, self._program, given, new, attempts
        )
        if self._stopping is not None:
            run.suspends, run.stopping = True, self._stopping
        return run

    def _draw(self) -> str:
        return self._op_id(None)

    def _told(self, name: str, fn: object, arguments: Any) -> dict[str, Any]:
        raise_refused(check_call(STEP, name, fn))
        made = digest(arguments, f"step {name!r}")
        if isinstance(made, InvalidOutcome):
            raise_refusal(made)
        return {"kind": STEP, "name": name, "args": made, "state": FINISHED}

    def _recalled(self, path: str, told: dict[str, Any]) -> tuple[Any] | None:
        """Return the recorded result of a step, in a tuple; None where it is to be done."""
        known = self._state.recall(path, STEP, told["name"], told["args"])
        return None if known is None else (known["result"],)

    def _step_steps(
        self, tx_of: Callable[..., Any], path: str, told: dict[str, Any], think: Callable[..., Any]
    ) -> Steps[Any]:
        """Protocol: run a step in a transaction.  Returns its result as it is recorded."""
        run, op_id = self._state, self._draw()
        frame, thought = Frame(run, path), reentry.Thought(self._writer.space)

        def begin(state: StepTransaction) -> Any:
            frame.begin(tx_of(self._driver, state, op_id), state.told)
            return thought.begin(state, frame)

        answer = yield from protocol.transact(
            self._writer,
            begin,  # type: ignore[arg-type]  # it is given what `new` makes
            thought.marked(think),
            _LIMITS,
            op_id,
            False,
            lambda writer: StepTransaction(run, path, told),
        )
        if isinstance(answer, protocol.Stopped):
            raise_refusal(answer.refusal)
        run.remember(path, json.loads(json.dumps(frame.told)), 1, 0)  # as it will be read again
        return self._recalled(path, told)

    def _time_us(self) -> Steps[Any]:
        """Protocol: the store's time."""
        return (yield from ask(self._writer, Load(()))).time_us

    def _checked_wait(self, name: str, timeout: float | None) -> str:
        if not isinstance(name, str) or not name or "/" in name:
            raise Invalid(f"{name!r:.60} is not a name of what a run waits for")
        waiting.check_timeout(timeout)
        return self._state.frame.next_path()


def check_attempts(attempts: object) -> None:
    """Raise Invalid where something is no number of failures after which a run is parked."""
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise Invalid(f"attempts={attempts!r} is not a number of failures from 1")


def thought(run: RunState, fn: Callable[..., Any], args: Any, kwargs: Any) -> Callable[..., Any]:
    """Return a function of a frame that runs a step's function inside it, and keeps its result."""

    def ended(frame: Frame, result: Any) -> Any:
        run.check_complete(frame)
        frame.told["result"] = result
        return result

    async def finish(frame: Frame, result: Any) -> Any:
        with inside(frame):
            return ended(frame, await result)

    def think(frame: Frame) -> Any:
        with inside(frame):
            result = fn(*args, **kwargs)
            return finish(frame, result) if inspect.isawaitable(result) else ended(frame, result)

    async def think_async(frame: Frame) -> Any:
        with inside(frame):
            return ended(frame, await fn(*args, **kwargs))

    return think_async if inspect.iscoroutinefunction(fn) else think
