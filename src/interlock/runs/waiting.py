"""The protocols of waiting: for somebody's word, or for a time.

A worker of many runs does not wait: it leaves the run (`Suspended`), and comes back when what the
run waits for has come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from interlock.core import refusals
from interlock.core.fold import ask
from interlock.core.lease import check_seconds
from interlock.core.records import Snapshot
from interlock.core.refusals import Invalid
from interlock.core.requests import Load, Pause, Steps
from interlock.core.struct import Json
from interlock.errors import RunFailed, TimedOut, raise_refusal
from interlock.runs import recording
from interlock.runs.records import (
    AWAITING,
    FINISHED,
    PROCESSING,
    SLEEP,
    STARTED,
    TIMED_OUT,
    WAIT,
    answer_name,
    digest,
    sent_key,
)
from interlock.runs.state import RunState, Suspended
from interlock.settings import WATCH_PAUSE

_LONGEST_SLEEP = 10 * 366 * 24 * 3600.0


def wait_for(
    run: RunState, path: str, name: str, timeout: float | None, op_id: Callable[[], str]
) -> Steps[Json]:
    """Return what was sent to the run as `name`, once it was.  Raises TimedOut."""
    told: dict[str, Json] = {"kind": WAIT, "name": name, "args": _no_arguments()}
    known = run.recall(path, WAIT, name, _no_arguments())
    if known is not None and known["state"] != STARTED:
        return _answer(run, name, known)
    key = sent_key(run.id, name)
    now = yield from ask(run.writer, Load((key,)))
    until_us = (known or {}).get("until_us", 0)
    if not now.records[key].exists:
        _check_goes_on(run)
        new = {}
        if known is None:
            until_us = 0 if timeout is None else now.time_us + int(timeout * 1e6)
            new = {path: told | {"state": STARTED, "until_us": until_us}}
        yield from recording.record(run, new, op_id(), _waiting(path, name, until_us))
        now = yield from _until(run, key, until_us, now)
    sent = now.records[key]
    ended = {"state": FINISHED, "result": sent.value} if sent.exists else {"state": TIMED_OUT}
    told |= {"until_us": until_us, "result": None} | ended
    yield from recording.record(run, {path: told}, op_id(), _no_longer_waiting(path))
    return _answer(run, name, run.steps[path].value)


def _answer(run: RunState, name: str, known: Mapping[str, Json]) -> Json:
    if known["state"] == TIMED_OUT:
        raise TimedOut(f"Nobody sent {name!r} to run {run.id!r} in time.")
    return known["result"]


def ask_about(run: RunState, path: str, name: str, attempt: int) -> Steps[tuple[str, Json] | None]:
    """Have a person say whether this attempt at an effect, which is in doubt, has happened.

    Returns how it ended and its result, or None where it has not happened.
    """
    sent = answer_name(path, attempt)
    key = sent_key(run.id, sent)
    now = yield from ask(run.writer, Load((key,)))
    if not now.records[key].exists:
        op_id = f"{run.fence.key}/{run.fence.epoch}/{sent}"
        yield from recording.record(run, {}, op_id, _waiting(path, sent, 0))
        now = yield from _until(run, key, 0, now)
        yield from recording.record(run, {}, f"{op_id}/said", _no_longer_waiting(path))
    said = now.records[key].value
    if not isinstance(said, dict) or not isinstance(said.get("happened"), bool):
        raise_refusal(
            Invalid(
                f"{sent!r} of run {run.id!r} must say whether effect {name!r} happened, as in "
                f'{{"happened": true, "result": ...}}; it is {said!r:.80}'
            )
        )
    return (FINISHED, said.get("result")) if said["happened"] else None


def sleep(run: RunState, path: str, seconds: float, op_id: Callable[[], str]) -> Steps[None]:
    """Wait until `seconds` after this was first asked for, whoever runs the program then."""
    arguments = digest([seconds], "sleep")
    known = run.recall(path, SLEEP, "sleep", str(arguments))
    now = yield from ask(run.writer, Load(()))
    if known is None:
        until_us = now.time_us + int(seconds * 1e6)
        known = {"kind": SLEEP, "name": "sleep", "args": arguments, "state": FINISHED}
        known |= {"until_us": until_us, "result": None}
        yield from recording.record(run, {path: known}, op_id())
    until_us = known["until_us"]
    if until_us > now.time_us:
        _check_goes_on(run)
    if run.suspends and until_us > now.time_us:
        yield from recording.record(run, {}, op_id(), _waiting(path, "sleep", until_us))
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
