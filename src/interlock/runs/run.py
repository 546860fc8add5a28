"""The protocols of a run's own records: making it, taking it up, recording steps and its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from interlock.core.fold import ask
from interlock.core.keys import decode
from interlock.core.plan import PUT, Expect, expect
from interlock.core.records import Committed, Record
from interlock.core.refusals import Conflict, Invalid, Outcome
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.write import Decision, commit, records_of, write_of
from interlock.core.writer import Writer
from interlock.errors import RunFailed, raise_refusal
from interlock.runs.records import (
    AWAITING,
    COMPLETED,
    DONE,
    FAILED,
    IDLE,
    OPEN,
    PROCESSING,
    fence_key,
    own_prefix,
    step_key,
)
from interlock.runs.state import RunState, Suspended

_MOST_ATTEMPTS = 100  # at recording where a run stands, while others move it


def record(
    run: RunState,
    steps: Mapping[str, Mapping[str, Json]],
    op_id: str,
    status: Callable[[Mapping[str, Json]], Mapping[str, Json]] | None = None,
    expects: tuple[Expect, ...] = (),
) -> Steps[Committed]:
    """Record steps by path, and where the run stands, in one commit.

    `status` makes the new one out of the one before.  Raises Fenced where the run was taken over.
    """

    def decision() -> Decision:
        return run.plan(op_id, steps, None if status is None else status(run.status.value), expects)

    for _ in range(_MOST_ATTEMPTS):
        outcome = yield from commit(run.writer, decision)
        if isinstance(outcome, Conflict) and outcome.key == run.status.key:
            run.status = outcome.record  # another task of this run has moved it
            continue
        break
    if not isinstance(outcome, Committed):
        raise_refusal(outcome)
    written = {write.key: write for write in outcome.writes}
    for path in steps:
        done = written[step_key(run.id, path)]
        run.remember(path, decode(done.body), done.version, done.position)
    for made in records_of(outcome, run.writer.space):
        if made.exists and made.key.startswith((OPEN, DONE)):
            run.status = made
    return outcome


def define(
    writer: Writer,
    run_id: str,
    program: str | None,
    given: Json,
    op_id: str,
    fence: Record | None = None,
) -> Steps[Outcome]:
    """Make a run, which is Idle.  Returns Committed, or Conflict where there is one.

    `fence`: the record of the run's lease, for whoever goes on to work on it.
    """
    first = {"state": IDLE, "agent": writer.agent, "failures": 0, "waits": {}, "due_us": 0}
    key = fence_key(run_id)
    values = ((key, {"program": program, "input": given}), (f"{OPEN}{run_id}", first))

    def decision() -> Decision:
        writes = []
        for name, value in values:
            write = write_of(writer, PUT, name, value)
            if isinstance(write, Invalid):
                return write
            writes.append(write)
        never = Expect(key, 0, None) if fence is None else expect(fence)
        return writer.plan(
            op_id,
            expects=(never, Expect(f"{OPEN}{run_id}", 0, None)),
            writes=writes,
            leased=() if fence is None else (key,),
        )

    return (yield from commit(writer, decision))


def take_up(
    writer: Writer,
    run_id: str,
    fence: Record,
    program: str | None,
    given: Json,
    new: str,
    attempts: int | None = None,
) -> Steps[RunState]:
    """Go on with a run whose lease was just taken, or begin it.  Returns its RunState.

    `fence` is the record of the lease.  `attempts` is given by a worker: see `admit`.
    Raises RunFailed where the run has failed, Suspended where a worker is to leave it alone.
    """
    keys = (fence_key(run_id), f"{OPEN}{run_id}", f"{DONE}{run_id}")
    found = yield from ask(writer, Load(keys, (own_prefix(run_id),)))
    first, opened, done = (found.records[key] for key in keys)
    if not first.version:
        outcome = yield from define(writer, run_id, program, given, new, fence)
        if not isinstance(outcome, Committed):
            raise_refusal(outcome)
        first, opened = records_of(outcome, writer.space)
    fence = first._replace(epoch=fence.epoch)
    prefix = step_key(run_id, "")
    steps = {
        record.key.removeprefix(prefix): record
        for record in found.scans[own_prefix(run_id)]
        if record.key.startswith(prefix)
    }
    run = RunState(run_id, writer, fence, done if done.exists else opened, steps)
    if attempts is not None:
        admitted = admit(run, found.time_us, attempts)
        again = _again(writer) | admitted
        yield from record(run, {}, f"{new}/1", lambda status: {**status, **again})
        if run.status.value.get("parked"):
            raise Suspended
        return run
    if run.over:
        if run.status.value["state"] == FAILED:
            raise RunFailed(run.status.value["error"])
        return run
    status = run.status.value
    if status["state"] != PROCESSING or status["agent"] != writer.agent or status["waits"]:
        yield from record(run, {}, f"{new}/1", lambda status: {**status, **_again(writer)})
    return run


def _again(writer: Writer) -> dict[str, Json]:
    return {
        "state": PROCESSING,
        "agent": writer.agent,
        "waits": {},
        "due_us": 0,
        "parked": False,
    }


def is_due(status: Mapping[str, Json], now_us: int) -> bool:
    """Whether a worker is to take a run up that stands so."""
    due: int = status["due_us"]
    return 0 < due <= now_us if status["state"] == AWAITING else due <= now_us


def admit(run: RunState, now_us: int, attempts: int) -> dict[str, Json]:
    """Return what changes of where a run stands when a worker takes it up.

    A run that was being worked on and has nobody's lease was left by a worker that died.  After
    `attempts` of those with no step recorded in between it is parked, because it may have killed
    them.  Raises Suspended where the run is not due.
    """
    if run.over or not is_due(run.status.value, now_us):
        raise Suspended
    status, steps = run.status.value, len(run.steps)
    deaths = 0
    if status["state"] == PROCESSING and not status["due_us"]:
        deaths = 1 + (status.get("deaths", 0) if status.get("steps") == steps else 0)
    changes = {"deaths": deaths, "steps": steps}
    if deaths < attempts:
        return changes
    said = f"{deaths} workers died while they worked on it, with no step finished in between"
    return changes | parked(said)


def parked(error: str) -> dict[str, Json]:
    """Return what changes of where a run stands that only a person takes up again."""
    waits = {"": "resume"}
    return {"state": AWAITING, "parked": True, "waits": waits, "due_us": 0, "error": error}


def complete(run: RunState, result: Json, op_id: str) -> Steps[None]:
    """Record that the run has ended well."""
    run.check_complete(run.root)
    if not run.over:
        ended = partial(_ended, COMPLETED, {"result": result})
        yield from record(run, {}, op_id, ended)


def fail(run: RunState, reason: str, op_id: str) -> Steps[None]:
    """Record that the run has failed, once everything is undone."""
    yield from record(run, {}, op_id, partial(_ended, FAILED, {"error": reason}))


def _ended(state: str, more: Mapping[str, Json], status: Mapping[str, Json]) -> Mapping[str, Json]:
    retained = {key: status[key] for key in ("agent", "failures") if key in status}
    return {**retained, "state": state, **more}
