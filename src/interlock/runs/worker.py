"""Working on runs: which of them are due, waiting for them, and how the work on one ends.

A run is complete, or has failed and is undone, or is to be taken up again.  What a worker knows of
which runs are due may be old: whoever has the lease of a run looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from interlock.core.fold import ask
from interlock.core.refusals import Pruned, repr_of, text_of
from interlock.core.requests import Load, Pause, ReadLog, Steps
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.errors import (
    BreakerOpen,
    Fault,
    Fenced,
    InDoubt,
    InterlockError,
    ProgramChanged,
    RunFailed,
)
from interlock.runs.effect import undo_all
from interlock.runs.records import AWAITING, EFFECT, FINISHED, OPEN, STARTED, fence_key
from interlock.runs.run import complete, fail, is_due, parked, record
from interlock.runs.state import RunState, Suspended

_FENCES_AT_ONCE = 100
_BETWEEN_LOOKS = 0.02  # seconds: a busy store does not have its workers read all the time
_LONGEST_PAUSE = 0.25  # seconds, until a worker sees that it is to stop
_HANDED_OVER = 0.05  # seconds until a run that somebody is just leaving is looked at again
_FIRST_RETRY = 1.0  # seconds until a run that failed is taken up again
_LONGEST_RETRY = 60.0
_LONGEST_ERROR = 2000  # characters


class Due(NamedTuple):
    """Runs to take up, as (id, program), of log `position`; more may be due after `seconds`."""

    runs: list[tuple[str, str]]
    position: int
    seconds: float


def find(
    writer: Writer, programs: Collection[str], busy: Collection[str], most: int, poll: float
) -> Steps[Due]:
    """Return the runs to take up, the longest due first, at most `most` of them: a Due.

    A run that somebody has the lease of is left out, and so are those in `busy`.
    """
    snapshot = yield from ask(writer, Load((), (OPEN,)))
    due, found, seconds = [], [], poll
    for status in snapshot.scans[OPEN]:
        at_us = status.value["due_us"]
        if is_due(status.value, snapshot.time_us):
            woken = status.value["state"] == AWAITING
            due.append((at_us, status.position, status.key.removeprefix(OPEN), woken))
        elif at_us:
            seconds = min(seconds, (at_us - snapshot.time_us) / 1e6)
    due.sort()
    for first in range(0, len(due), _FENCES_AT_ONCE):
        part = due[first : first + _FENCES_AT_ONCE]
        fences = yield from ask(writer, Load(tuple(fence_key(run[2]) for run in part)))
        for _, _, run_id, woken in part:
            key = fence_key(run_id)
            program = fences.records[key].value.get("program")
            if program not in programs:
                continue
            if run_id not in busy and key not in fences.leases:
                found.append((run_id, program))
            elif woken:
                seconds = min(seconds, _HANDED_OVER)
            elif key in fences.leases:
                seconds = min(seconds, max(fences.leases[key].seconds, _HANDED_OVER))
        if len(found) >= most:
            break
    return Due(found[:most], snapshot.position, seconds)


def wait(due: Due, stopping: Callable[[], bool]) -> Steps[None]:
    """Wait until a run may be due: one has moved since, or `due.seconds` have passed."""
    snapshot = yield from Load(())
    ends_us, position = snapshot.time_us + int(due.seconds * 1e6), due.position
    while (left := (ends_us - snapshot.time_us) / 1e6) > 0 and not stopping():
        yield Pause(min(left, _LONGEST_PAUSE), position)
        page = yield from ReadLog(after=position, prefix=OPEN, limit=1)
        if isinstance(page, Pruned) or page.entries:
            return
        if page.upto > position:
            yield Pause(_BETWEEN_LOOKS)
        position, snapshot = page.upto, (yield from Load(()))


class Worked(NamedTuple):
    """A run that a worker is done with for now.

    `how`: completed, failed, waits (for an answer or a time), again (it is to be taken up after a
    pause), parked, left (the worker stops) or lost (another has taken it over, or the store is
    away).  `error` says why, where there is something to say.
    """

    id: str
    program: str
    how: str
    error: str | None


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
                yield from complete(run, result, op_id())
        except (Exception, Suspended) as found:
            failure = found
    if run.stopped:
        yield from record(run, {}, op_id(), lambda status: {**status, "due_us": 1})
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
        yield from record(run, {}, op_id(), lambda status: {**status, "ending": reason})
    reason = str(run.ending)
    _check_can_be_undone(run)
    yield from undo_all(run, op_id)
    yield from fail(run, reason, op_id())
    if problem is None:
        raise RunFailed(reason)


def _check_nothing_in_doubt(run: RunState, only_undone: bool = False) -> None:
    for path, step in run.steps.items():
        value = step.value
        doubt = value["kind"] == EFFECT and value["state"] == STARTED
        if doubt and (value["undo"] or not only_undone):
            raise InDoubt(value["name"], value["key"], path, None)


def _check_can_be_undone(run: RunState) -> None:
    """Raise where there is something to undo that the program has not come to, or is in doubt."""
    _check_nothing_in_doubt(run, only_undone=True)
    for path, step in run.steps.items():
        value = step.value
        if value.get("undo") and value["state"] == FINISHED and path not in run.undo:
            raise ProgramChanged(
                f"effect {value['name']!r} (step {path} of run {run.id!r}) must be undone, but "
                "the program ended before asking for it"
            )


def _park(run: RunState, failure: BreakerOpen, op_id: str) -> Steps[None]:
    """Record that the run is to be taken up again once the breaker lets a call through."""
    now = yield from ask(run.writer, Load(()))
    due_us = now.time_us + int(failure.seconds * 1e6)
    waits = {"state": AWAITING, "due_us": due_us, "error": str(failure)[:_LONGEST_ERROR]}
    waits["waits"] = {"": f"breaker {failure.name}"}
    yield from record(run, {}, op_id, lambda status: {**status, **waits})


def _count_failure(run: RunState, problem: Exception, attempts: int, op_id: str) -> Steps[None]:
    now = yield from ask(run.writer, Load(()))
    said = text_of(problem) if isinstance(problem, InterlockError) else repr_of(problem)

    def status(before: Mapping[str, Json]) -> Mapping[str, Json]:
        failures = before["failures"] + 1
        pause = min(_FIRST_RETRY * 2 ** (failures - 1), _LONGEST_RETRY)
        after = {**before, "failures": failures, "error": said[:_LONGEST_ERROR]}
        if failures < attempts:
            return {**after, "due_us": now.time_us + int(pause * 1e6)}
        return {**after, **parked(said[:_LONGEST_ERROR])}

    yield from record(run, {}, op_id, status)
