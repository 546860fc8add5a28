"""The protocols of everybody but a run's worker: beginning, looking, sending, cancelling."""

from __future__ import annotations

from collections.abc import Callable

from interlock.core import write
from interlock.core.fold import ask
from interlock.core.keys import check_key, encode
from interlock.core.lease import reclaim_own_lease
from interlock.core.plan import PUT, Expect, Write, expect
from interlock.core.records import Committed, Record, Snapshot
from interlock.core.refusals import Conflict, Invalid, Refusal
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.write import Decision
from interlock.core.writer import Writer
from interlock.errors import Fenced
from interlock.runs.records import (
    DONE,
    EFFECT,
    FAILED,
    FINISHED,
    IDLE,
    OPEN,
    PROCESSING,
    STARTED,
    RunInfo,
    answer_name,
    check_run_id,
    fence_key,
    own_prefix,
    run_info,
    sent_key,
    step_key,
)
from interlock.runs.run import define, fail, record
from interlock.runs.state import RunState

_MOST_ATTEMPTS = 100
_ENDS_WITHIN_US = 60_000_000  # until a worker ends what the one who cancelled it could not


def start(
    writer: Writer, run_id: str, program: str | None, given: Json, op_id: str
) -> Steps[Refusal | None]:
    """Make a run for a worker to take up.  Returns None, Conflict where there is one, Invalid."""
    wrong = check_run_id(run_id)
    if wrong is None and program is not None and (not isinstance(program, str) or not program):
        wrong = Invalid(f"program={program!r:.60} is not a program name.")
    if wrong is not None:
        return wrong
    outcome = yield from define(writer, run_id, program, given, op_id)
    return None if isinstance(outcome, Committed) else outcome


def show(writer: Writer, run_id: str) -> Steps[RunInfo | Refusal]:
    """Return a RunInfo, or Invalid where there is no such run."""
    found = yield from _load(writer, run_id)
    if isinstance(found, Refusal):
        return found
    fence, status, snapshot = found
    records = {record.key: record for record in snapshot.scans[own_prefix(run_id)]}
    return run_info(run_id, fence, status.value, records)


def runs(writer: Writer, open_only: bool) -> Steps[dict[str, RunInfo]]:
    """Return what there is of each run without its steps: RunInfo by id."""
    prefixes = (OPEN,) if open_only else (OPEN, DONE)
    snapshot = yield from ask(writer, Load((), prefixes))
    found = {}
    for prefix in prefixes:
        for each in snapshot.scans[prefix]:
            found[each.key.removeprefix(prefix)] = each.value
    keys = tuple(fence_key(run_id) for run_id in found)
    fences = yield from ask(writer, Load(keys))
    return {
        run_id: run_info(run_id, fences.records[fence_key(run_id)], found[run_id], {})
        for run_id in sorted(found)
    }


def send(writer: Writer, run_id: str, name: str, value: Json, op_id: str) -> Steps[Refusal | None]:
    """Give a run what it waits for, or will wait for.

    Returns None, Conflict where something was sent under this name, or Invalid.
    """
    wrong = check_key(name)
    if wrong is not None or "/" in name:
        return wrong or Invalid(f"{name!r} is not the name of a signal: it contains '/'.")
    key = sent_key(run_id, name)
    body = encode(value, writer.max_value_bytes)
    if isinstance(body, Invalid):
        return body

    def plan(status: Record, fence: Record) -> Decision:
        due = encode({**status.value, "due_us": 0 if status.value.get("parked") else 1})
        assert isinstance(due, str)
        expects = (Expect(key, 0, None), expect(status))
        writes = (Write(PUT, key, body), Write(PUT, status.key, due))
        return writer.plan(op_id, expects=expects, writes=writes)

    return (yield from _change(writer, run_id, plan))


def settle(
    writer: Writer, run_id: str, path: str, happened: bool, result: Json, op_id: str
) -> Steps[Refusal | None]:
    """Say whether an effect that is in doubt has happened.  Returns None, Conflict or Invalid."""
    found = yield from _load(writer, run_id, ended=False)
    if isinstance(found, Refusal):
        return found
    if not isinstance(happened, bool):
        return Invalid(f"happened={happened!r:.60} must be True or False.")
    records = {record.key: record.value for record in found[2].scans[own_prefix(run_id)]}
    step = records.get(step_key(run_id, path), {})
    if (step.get("kind"), step.get("state")) != (EFFECT, STARTED):
        return Invalid(f"Step {path!r:.60} of run {run_id!r} is not an effect in doubt.")
    answer = {"happened": happened, "result": result}
    name = answer_name(path, step["attempt"])
    return (yield from send(writer, run_id, name, answer, op_id))


def resume(writer: Writer, run_id: str, op_id: str) -> Steps[Refusal | None]:
    """Have a run that was parked, or pauses after a failure, taken up again at once.

    Returns None, or Invalid.
    """

    def plan(status: Record, fence: Record) -> Decision:
        value = {**status.value, "failures": 0, "parked": False, "due_us": 1}
        if value.get("waits", {}).pop("", None) and not value["waits"]:
            value["state"] = PROCESSING
        body = encode(value)
        assert isinstance(body, str)
        return writer.plan(op_id, expects=(expect(status),), writes=(Write(PUT, status.key, body),))

    return (yield from _change(writer, run_id, plan))


def reclaim(writer: Writer, run_id: str, op_id: str) -> Steps[Refusal | None]:
    """Take a run away from whoever works on it.  Returns None, or Invalid."""
    wrong = check_run_id(run_id)
    if wrong is not None:
        return wrong
    fence = yield from reclaim_own_lease(writer, fence_key(run_id), op_id)
    return fence if isinstance(fence, Refusal) else None


def cancel(writer: Writer, run_id: str, reason: str, op_id: str) -> Steps[bool | Refusal]:
    """Have a run fail, whoever works on it; what it did is undone when it is taken up next.

    Returns whether it has failed by now: it has, where there is nothing to undo.  Or Invalid.
    """
    if not isinstance(reason, str) or not reason:
        return Invalid(f"reason={reason!r:.60} must be a text.")
    for attempt in range(_MOST_ATTEMPTS):
        found = yield from _load(writer, run_id)
        if isinstance(found, Refusal):
            return found
        status = found[1]
        if attempt and status.value["state"] == FAILED:
            return True  # by a worker that has taken it up meanwhile
        if status.key.startswith(DONE):
            return _has_ended(run_id, status)
        try:
            return (yield from _cancel(writer, run_id, reason, f"{op_id}/{attempt}"))
        except Fenced as problem:
            if problem.outcome.key != fence_key(run_id):
                raise
            fenced = problem
    raise fenced


def _cancel(writer: Writer, run_id: str, reason: str, op_id: str) -> Steps[bool | Refusal]:
    """The same.  Raises Fenced where a worker has taken the run up meanwhile."""
    fence = yield from reclaim_own_lease(writer, fence_key(run_id), op_id)
    if isinstance(fence, Refusal):
        return fence
    found = yield from _load(writer, run_id, ended=False)
    if isinstance(found, Refusal):
        return found
    first, status, snapshot = found
    run = RunState(run_id, writer, first._replace(epoch=fence.epoch), status, {})
    prefix = step_key(run_id, "")
    nothing = not any(
        record.value.get("undo") and record.value["state"] in (STARTED, FINISHED)
        for record in snapshot.scans[own_prefix(run_id)]
        if record.key.startswith(prefix)
    )
    if not nothing or status.value["state"] == IDLE:
        due_us = snapshot.time_us + _ENDS_WITHIN_US if nothing else 1
        awake = {"state": PROCESSING, "ending": reason, "due_us": due_us}
        awake |= {"parked": False, "waits": {}}
        yield from record(run, {}, f"{op_id}/1", lambda status: {**status, **awake})
    if nothing:
        yield from fail(run, reason, f"{op_id}/2")
    return nothing


def _has_ended(run_id: str, status: Record) -> Invalid:
    return Invalid(f"Run {run_id!r} has ended: it is {status.value['state']}.")


def _change(
    writer: Writer, run_id: str, plan: Callable[[Record, Record], Decision]
) -> Steps[Refusal | None]:
    """Commit a change of an unfinished run; plan it again where the run has moved on."""
    for _ in range(_MOST_ATTEMPTS):
        found = yield from _load(writer, run_id, ended=False)
        if isinstance(found, Refusal):
            return found
        fence, status, _ = found
        outcome = yield from write.commit(writer, lambda: plan(status, fence))  # noqa: B023  # it is called before the loop goes on
        if not isinstance(outcome, Conflict) or outcome.key != status.key:
            break
    return None if isinstance(outcome, Committed) else outcome


def _load(
    writer: Writer, run_id: str, ended: bool = True
) -> Steps[tuple[Record, Record, Snapshot] | Invalid]:
    """Return a run's first record, where it stands, and the snapshot; Invalid where it is not."""
    wrong = check_run_id(run_id)
    if wrong is not None:
        return wrong
    keys = (fence_key(run_id), f"{OPEN}{run_id}", f"{DONE}{run_id}")
    snapshot = yield from ask(writer, Load(keys, (own_prefix(run_id),)))
    fence, opened, done = (snapshot.records[key] for key in keys)
    if not fence.exists:
        return Invalid(f"There is no run {run_id!r} in this space.")
    if done.exists and not ended:
        return _has_ended(run_id, done)
    return fence, done if done.exists else opened, snapshot
