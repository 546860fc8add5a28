"""A step of a run: what is recorded of it, and its function, run in a transaction."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from interlock.core import transact
from interlock.core.refusals import Invalid as InvalidOutcome
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps
from interlock.core.transact import Stopped, Transaction
from interlock.core.update import Limits
from interlock.errors import Invalid, raise_refusal, raise_refused
from interlock.runs import waiting
from interlock.runs.records import FINISHED, STEP, check_call, digest
from interlock.runs.state import Frame, RunState, StepTransaction, inside
from interlock.session import Thought
from interlock.settings import DEFAULT_ATTEMPTS

_LIMITS = Limits(DEFAULT_ATTEMPTS, None, "auto")


def check_attempts(attempts: object) -> None:
    """Raise Invalid where something is no number of failures after which a run is parked."""
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise Invalid(f"attempts={attempts!r} must be a whole number from 1.")


def check_wait(name: object, timeout: float | None) -> None:
    """Raise Invalid where a run cannot wait for something of this name, or for so long."""
    if not isinstance(name, str) or not name or "/" in name:
        raise Invalid(f"{name!r:.60} is not the name of a signal: no '/', not empty.")
    waiting.check_timeout(timeout)


def make(name: str, fn: object, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return what will be recorded of a step, without its result.  Raises Invalid."""
    raise_refused(check_call(STEP, name, fn))
    made = digest([list(args), kwargs], f"step {name!r}")
    if isinstance(made, InvalidOutcome):
        raise_refusal(made)
    return {"kind": STEP, "name": name, "args": made, "state": FINISHED}


def recalled(run: RunState, path: str, step: dict[str, Any]) -> tuple[Any] | None:
    """Return the recorded result of a step, in a tuple; None where it is to be done."""
    recorded = run.recall(path, STEP, step["name"], step["args"])
    return None if recorded is None else (recorded["result"],)


def perform(
    run: RunState,
    path: str,
    step: dict[str, Any],
    fn: Callable[[Frame], Any],
    thought: Thought,
    tx_of: Callable[[Transaction], Any],
    op_id: str,
) -> Steps[tuple[Any] | Refusal]:
    """Protocol: run a step, whose function is `fn`.  Returns its result as it is recorded."""
    frame = Frame(run, path)

    def begin(state: StepTransaction) -> Any:
        frame.begin(tx_of(state), state.told)
        return thought.begin(state, frame)

    answer = yield from transact.transact(
        run.writer,
        begin,  # type: ignore[arg-type]  # it is given what `new` makes
        thought.marked(fn),
        _LIMITS,
        op_id,
        False,
        lambda writer: StepTransaction(run, path, step),
    )
    if isinstance(answer, Stopped):
        return answer.refusal
    run.remember(path, json.loads(json.dumps(frame.told)), 1, 0)  # as it will be read again
    found = recalled(run, path, step)
    assert found is not None  # it was just recorded
    return found


def framed(run: RunState, fn: Callable[..., Any], args: Any, kwargs: Any) -> Callable[[Frame], Any]:
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
