"""The protocol of leaving a run: it is complete, has failed and is undone, or is to be taken up."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from interlock.core.fold import ask
from interlock.core.refusals import repr_of, text_of
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.errors import (
    BreakerOpen,
    Fault,
    Fenced,
    InDoubt,
    InterlockError,
    ProgramChanged,
    RunFailed,
)
from interlock.runs import recording, working
from interlock.runs.effects import undo_all
from interlock.runs.records import AWAITING, EFFECT, FINISHED, STARTED
from interlock.runs.state import RunState, Suspended

_FIRST_PAUSE = 1.0  # seconds until a run that failed is taken up again
_LONGEST_PAUSE = 60.0
_LONGEST_ERROR = 2000  # characters


def leave(
    run: RunState,
    problem: BaseException | None,
    result: Json,
    attempts: int,
    op_id: Callable[[], str],
) -> Steps[None]:
    """Record how the program ended: well, or with `problem`.

    A failure for good is undone first, and raised where nothing else was (RunFailed).  Other
    failures are counted: the run is to be taken up again, and after `attempts` of them it is
    parked.  One that its worker leaves because it stops is due at once.
    """
    if run.over:
        return
    failure = problem
    if problem is None or isinstance(problem, Exception):  # others stop a process, or leave a run
        try:
            if isinstance(problem, RunFailed) or run.ending is not None:
                yield from _end_badly(run, problem, op_id)
            elif problem is None and not run.stopped:
                _check_nothing_in_doubt(run)
                yield from recording.complete(run, result, op_id())
        except (Exception, Suspended) as found:
            failure = found
    if run.stopped:
        yield from recording.record(run, {}, op_id(), lambda status: {**status, "due_us": 1})
    if isinstance(failure, BreakerOpen) and not run.over:
        yield from _park(run, failure, op_id())
    elif isinstance(failure, Exception) and not run.over and not is_outside(run, failure):
        yield from _count_failure(run, failure, attempts, op_id())
    if failure is not None and failure is not problem:
        raise failure


def is_outside(run: RunState, problem: Exception) -> bool:
    """Whether the program is not to blame: the store is away, or the run was taken over."""
    return isinstance(problem, Fault) or (
        isinstance(problem, Fenced) and problem.outcome.key in (run.fence.key, "")
    )


def _end_badly(
    run: RunState, problem: BaseException | None, op_id: Callable[[], str]
) -> Steps[None]:
    if run.ending is None:
        assert problem is not None
        reason = problem.outcome.message if isinstance(problem, RunFailed) else text_of(problem)
        yield from recording.record(run, {}, op_id(), lambda status: {**status, "ending": reason})
    reason = str(run.ending)
    _check_can_be_undone(run)
    yield from undo_all(run, op_id)
    yield from recording.fail(run, reason, op_id())
    if problem is None:
        raise RunFailed(reason)


def _check_nothing_in_doubt(run: RunState, only_undone: bool = False) -> None:
    for path, record in run.steps.items():
        value = record.value
        doubt = value["kind"] == EFFECT and value["state"] == STARTED
        if doubt and (value["undo"] or not only_undone):
            raise InDoubt(value["name"], value["key"], path, None)


def _check_can_be_undone(run: RunState) -> None:
    """Raise where there is something to undo that the program has not come to, or is in doubt."""
    _check_nothing_in_doubt(run, only_undone=True)
    for path, record in run.steps.items():
        value = record.value
        if value.get("undo") and value["state"] == FINISHED and path not in run.undo:
            raise ProgramChanged(
                f"effect {value['name']!r} (step {path} of run {run.id!r}) must be undone, but "
                "the program ended before asking for it"
            )


def _park(run: RunState, failure: BreakerOpen, op_id: str) -> Steps[None]:
    """Record that the run is to be taken up again once the breaker lets a call through."""
    now = yield from ask(run.writer, Load(()))
    due_us = now.time_us + int(failure.seconds * 1e6)
    parked = {"state": AWAITING, "due_us": due_us, "error": str(failure)[:_LONGEST_ERROR]}
    parked["waits"] = {"": f"breaker {failure.name}"}
    yield from recording.record(run, {}, op_id, lambda status: {**status, **parked})


def _count_failure(run: RunState, problem: Exception, attempts: int, op_id: str) -> Steps[None]:
    now = yield from ask(run.writer, Load(()))
    said = text_of(problem) if isinstance(problem, InterlockError) else repr_of(problem)

    def status(before: Mapping[str, Json]) -> Mapping[str, Json]:
        failures = before["failures"] + 1
        pause = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
        after = {**before, "failures": failures, "error": said[:_LONGEST_ERROR]}
        if failures < attempts:
            return {**after, "due_us": now.time_us + int(pause * 1e6)}
        return {**after, **working.parked(said[:_LONGEST_ERROR])}

    yield from recording.record(run, {}, op_id, status)
