"""The steps of a run: a function that runs in a transaction, and waiting for an answer or a time.

A worker of many runs does not wait: it leaves the run (`Suspended`), and comes back when what the
run waits for has come.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from interlock.core import refusals, transact
from interlock.core.fold import ask
from interlock.core.keys import decode, encode
from interlock.core.lease import check_seconds
from interlock.core.records import Snapshot
from interlock.core.refusals import Invalid as InvalidOutcome
from interlock.core.refusals import Refusal
from interlock.core.requests import Load, Pause, Steps
from interlock.core.struct import Json
from interlock.core.transact import Stopped, Transaction
from interlock.core.update import Limits
from interlock.errors import Invalid, RunFailed, TimedOut, raise_refusal, raise_refused
from interlock.runs.records import (
    AWAITING,
    FINISHED,
    PROCESSING,
    SLEEP,
    STARTED,
    STEP,
    TIMED_OUT,
    WAIT,
    answer_name,
    check_call,
    digest,
    sent_key,
)
from interlock.runs.run import record
from interlock.runs.state import Frame, RunState, StepTransaction, Suspended, inside
from interlock.session import Thought
from interlock.settings import DEFAULT_ATTEMPTS, WATCH_PAUSE
from interlock.typed import Typed

_LIMITS = Limits(DEFAULT_ATTEMPTS, None, "auto")
_LONGEST_SLEEP = 10 * 366 * 24 * 3600.0


def check_attempts(attempts: object) -> None:
    """Raise Invalid where something is no number of failures after which a run is parked."""
    if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
        raise Invalid(f"attempts={attempts!r} must be a whole number from 1.")


def check_wait(name: object, timeout: float | None) -> None:
    """Raise Invalid where a run cannot wait for something of this name, or for so long."""
    if not isinstance(name, str) or not name or "/" in name:
        raise Invalid(f"{name!r:.60} is not the name of a signal: no '/', not empty.")
    check_timeout(timeout)


def make(
    name: str, fn: object, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> dict[str, Json]:
    """Return what will be recorded of a step, without its result.  Raises Invalid."""
    raise_refused(check_call(STEP, name, fn))
    made = digest([list(args), kwargs], f"step {name!r}")
    if isinstance(made, InvalidOutcome):
        raise_refusal(made)
    return {"kind": STEP, "name": name, "args": made, "state": FINISHED}


def recalled(run: RunState, path: str, step: dict[str, Json]) -> tuple[Json] | None:
    """Return the recorded result of a step, in a tuple; None where it is to be done."""
    recorded = run.recall(path, STEP, step["name"], step["args"])
    return None if recorded is None else (recorded["result"],)


def perform(
    run: RunState,
    path: str,
    step: dict[str, Json],
    fn: Callable[[Frame], Json],
    thought: Thought,
    tx_of: Callable[[Transaction], object],
    op_id: str,
) -> Steps[tuple[Json] | Refusal]:
    """Protocol: run a step, whose function is `fn`.  Returns its result as it is recorded."""
    frame = Frame(run, path)

    def begin(state: StepTransaction) -> Frame:
        frame.begin(tx_of(state), state.payload)
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
    body = encode(frame.payload, run.writer.max_value_bytes)
    run.remember(path, decode(str(body)), 1, 0)  # as it will be read again
    found = recalled(run, path, step)
    assert found is not None  # it was just recorded
    return found


def framed(
    run: RunState,
    fn: Callable[..., Json],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    view: Typed[Any],
) -> Callable[[Frame], Json]:
    """Return a function of a frame that runs a step's function inside it, and keeps its result."""

    def ended(frame: Frame, result: Json) -> Json:
        run.check_complete(frame)
        frame.payload["result"] = view.json(result, f"the result of step {frame.payload['name']!r}")
        return result

    async def finish(frame: Frame, result: Awaitable[Json]) -> Json:
        with inside(frame):
            return ended(frame, await result)

    def think(frame: Frame) -> Json:
        with inside(frame):
            result = fn(*args, **kwargs)
            return finish(frame, result) if inspect.isawaitable(result) else ended(frame, result)

    async def think_async(frame: Frame) -> Json:
        with inside(frame):
            return ended(frame, await fn(*args, **kwargs))

    return think_async if inspect.iscoroutinefunction(fn) else think


def wait_for(
    run: RunState, path: str, name: str, timeout: float | None, op_id: Callable[[], str]
) -> Steps[Json]:
    """Return what was sent to the run as `name`, once it was.  Raises TimedOut."""
    payload: dict[str, Json] = {"kind": WAIT, "name": name, "args": _no_arguments()}
    recorded = run.recall(path, WAIT, name, _no_arguments())
    if recorded is not None and recorded["state"] != STARTED:
        return _answer(run, name, recorded)
    key = sent_key(run.id, name)
    now = yield from ask(run.writer, Load((key,)))
    until_us = (recorded or {}).get("until_us", 0)
    if not now.records[key].exists:
        _check_goes_on(run)
        new = {}
        if recorded is None:
            until_us = 0 if timeout is None else now.time_us + int(timeout * 1e6)
            new = {path: payload | {"state": STARTED, "until_us": until_us}}
        yield from record(run, new, op_id(), _waiting(path, name, until_us))
        now = yield from _until(run, key, until_us, now)
    sent = now.records[key]
    ended = {"state": FINISHED, "result": sent.value} if sent.exists else {"state": TIMED_OUT}
    payload |= {"until_us": until_us, "result": None} | ended
    yield from record(run, {path: payload}, op_id(), _no_longer_waiting(path))
    return _answer(run, name, run.steps[path].value)


def _answer(run: RunState, name: str, recorded: Mapping[str, Json]) -> Json:
    if recorded["state"] == TIMED_OUT:
        raise TimedOut(f"Nobody sent {name!r} to run {run.id!r} in time.")
    return recorded["result"]


def ask_about(run: RunState, path: str, name: str, attempt: int) -> Steps[tuple[str, Json] | None]:
    """Have a person say whether this attempt at an effect, which is in doubt, has happened.

    Returns how it ended and its result, or None where it has not happened.
    """
    sent = answer_name(path, attempt)
    key = sent_key(run.id, sent)
    now = yield from ask(run.writer, Load((key,)))
    if not now.records[key].exists:
        op_id = f"{run.fence.key}/{run.fence.epoch}/{sent}"
        yield from record(run, {}, op_id, _waiting(path, sent, 0))
        now = yield from _until(run, key, 0, now)
        yield from record(run, {}, f"{op_id}/said", _no_longer_waiting(path))
    said = now.records[key].value
    if not isinstance(said, dict) or not isinstance(said.get("happened"), bool):
        raise_refusal(
            InvalidOutcome(
                f"{sent!r} of run {run.id!r} must say whether effect {name!r} happened, as in "
                f'{{"happened": true, "result": ...}}; it is {said!r:.80}'
            )
        )
    return (FINISHED, said.get("result")) if said["happened"] else None


def sleep(run: RunState, path: str, seconds: float, op_id: Callable[[], str]) -> Steps[None]:
    """Wait until `seconds` after this was first asked for, whoever runs the program then."""
    arguments = digest([seconds], "sleep")
    recorded = run.recall(path, SLEEP, "sleep", str(arguments))
    now = yield from ask(run.writer, Load(()))
    if recorded is None:
        until_us = now.time_us + int(seconds * 1e6)
        recorded = {"kind": SLEEP, "name": "sleep", "args": arguments, "state": FINISHED}
        recorded |= {"until_us": until_us, "result": None}
        yield from record(run, {path: recorded}, op_id())
    until_us = recorded["until_us"]
    if until_us > now.time_us:
        _check_goes_on(run)
    if run.suspends and until_us > now.time_us:
        yield from record(run, {}, op_id(), _waiting(path, "sleep", until_us))
    yield from _until(run, None, until_us, now)


def _check_goes_on(run: RunState) -> None:
    """Raise RunFailed where the run is ending, and so waits for nothing any more."""
    if run.ending is not None:
        raise RunFailed(run.ending)


def _until(run: RunState, key: str | None, until_us: int, now: Snapshot) -> Steps[Snapshot]:
    """Wait for `key` to exist, or for a time (0: forever).  Returns the last Snapshot.

    Raises Fenced where the run was taken over meanwhile.
    """
    fence = run.fence
    keys = (fence.key,) if key is None else (fence.key, key)
    while True:
        left = (until_us - now.time_us) / 1e6 if until_us else WATCH_PAUSE
        if left <= 0 or (key is not None and now.records[key].exists):
            return now
        if run.suspends:
            raise Suspended
        yield Pause(min(left, WATCH_PAUSE), None if key is None else now.position)
        now = yield from ask(run.writer, Load(keys))
        epoch = now.records[fence.key].epoch
        if epoch != fence.epoch:
            raise_refusal(refusals.fenced(fence.key, fence.epoch, epoch))


def _waiting(
    path: str, name: str, until_us: int
) -> Callable[[Mapping[str, Json]], Mapping[str, Json]]:
    def status(before: Mapping[str, Json]) -> Mapping[str, Json]:
        waits = {**before["waits"], path: name}
        due = min((due for due in (before["due_us"], until_us) if due), default=0)
        return {**before, "state": AWAITING, "waits": waits, "due_us": due}

    return status


def _no_longer_waiting(path: str) -> Callable[[Mapping[str, Json]], Mapping[str, Json]]:
    def status(before: Mapping[str, Json]) -> Mapping[str, Json]:
        waits = {place: name for place, name in before["waits"].items() if place != path}
        return {**before, "state": AWAITING if waits else PROCESSING, "waits": waits, "due_us": 0}

    return status


def _no_arguments() -> str:
    return str(digest([], "wait"))


def check_timeout(timeout: object) -> None:
    """Raise Invalid where something is neither None nor a number of seconds."""
    if timeout is not None:
        check_sleep(timeout, "timeout")


def check_sleep(seconds: object, name: str = "seconds") -> None:
    """Raise Invalid where something is not a number of seconds that a run may wait."""
    wrong = check_seconds(name, seconds, 0, _LONGEST_SLEEP)
    if wrong is not None:
        raise_refusal(wrong)
