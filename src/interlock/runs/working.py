"""The protocols of a worker: which runs are due, waiting for them, and taking one up.

What a worker knows may be old: whoever has the lease of a run looks again whether it is due.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from interlock.core.fold import ask
from interlock.core.refusals import Pruned
from interlock.core.requests import Load, Pause, ReadLog, Steps
from interlock.core.struct import Json
from interlock.core.writer import Writer
from interlock.runs.records import AWAITING, OPEN, PROCESSING, fence_key
from interlock.runs.state import RunState, Suspended

_FENCES_AT_ONCE = 100
_BETWEEN_LOOKS = 0.02  # seconds: a busy store does not have its workers read all the time
_LONGEST_PAUSE = 0.25  # seconds, until a worker sees that it is to stop
_HANDED_OVER = 0.05  # seconds until a run that somebody is just leaving is looked at again


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
    for record in snapshot.scans[OPEN]:
        at_us = record.value["due_us"]
        if is_due(record.value, snapshot.time_us):
            woken = record.value["state"] == AWAITING
            due.append((at_us, record.position, record.key.removeprefix(OPEN), woken))
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
