"""What an erasure takes out of the records of runs and breakers, which stay."""

from __future__ import annotations

from interlock.core.erase import Erasure, Own, Progress, erase, selection
from interlock.core.refusals import Refusal
from interlock.core.requests import Steps
from interlock.core.struct import Json
from interlock.errors import Invalid, accepted
from interlock.runs.records import DONE, OPEN
from interlock.session import BaseSession


def erasing(
    session: BaseSession,
    key: object,
    prefix: object,
    where: object,
    dry_run: bool,
    vacuum: bool,
    progress: Progress | None,
) -> Steps[Erasure | Refusal]:
    """Return the protocol that erases, of runs that are over, too.  Raises Invalid."""
    chosen = accepted(selection(key, prefix, where, ERASABLE))
    session.check_write(chosen.key)
    if progress is not None and not callable(progress):
        raise Invalid(f"progress={progress!r:.60} must be a function of two numbers.")
    return erase(session.writer, chosen, dry_run, vacuum, session.draw, progress)


def _blanked(key: str, value: Json) -> Json:
    """Return a record of a run, or of a breaker, without what the program gave."""
    if not isinstance(value, dict) or "/sent/" in key:
        return None
    blank = {"input": None, "result": None, "error": None, "ending": None, "reason": ""}
    return {name: blank.get(name, each) for name, each in value.items()}


def _in_use(key: str) -> str | None:
    """Return the key that exists as long as a run is not over; None for a breaker's."""
    if not key.startswith(("$run/", OPEN, DONE)):
        return None
    return OPEN + key.split("/")[2 if key.startswith("$runs/") else 1]


ERASABLE = Own(("$run/", OPEN, DONE, "$breaker/"), _blanked, _in_use)
