"""How a run is kept in the space: the keys of its records, and what their values hold.

`$run/ID` holds what the run is, and is leased by whoever works on it: its epoch fences every commit
of the run.  `$run/ID/step/PATH` holds one step each, `$run/ID/sent/NAME` what was sent to the run.
`$runs/open/ID` says where a run stands, `$runs/done/ID` how it ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import NamedTuple

from interlock.core.keys import check_key, decode, encode
from interlock.core.records import Record
from interlock.core.refusals import Invalid
from interlock.core.struct import Json

OPEN = "$runs/open/"
DONE = "$runs/done/"

# What a step can be, and how it can stand.
STEP, EFFECT, WAIT, SLEEP = "step", "effect", "wait", "sleep"
UNDOING = "undo."  # what the path of an effect begins with that undoes another one
STARTED, FINISHED, REFUSED, SKIPPED, TIMED_OUT, HELD_BACK = (
    "started",
    "finished",
    "refused",
    "skipped",
    "timed out",
    "held back",
)

IDLE, PROCESSING, AWAITING, COMPLETED, FAILED = (
    "Idle",
    "Processing",
    "AwaitingInput",
    "Completed",
    "Failed",
)


def fence_key(run_id: str) -> str:
    """The key that whoever works on the run has the lease of."""
    return f"$run/{run_id}"


def own_prefix(run_id: str) -> str:
    """The prefix of everything that a run has recorded."""
    return f"$run/{run_id}/"


def step_key(run_id: str, path: str) -> str:
    """The key of a step, by its place in the program: `2`, and `2.1` for the first inside it."""
    return f"$run/{run_id}/step/{path}"


def sent_key(run_id: str, name: str) -> str:
    """The key of what was sent to a run under a name."""
    return f"$run/{run_id}/sent/{name}"


def answer_name(path: str, attempt: int) -> str:
    """The name under which it is said whether an attempt at an effect has happened."""
    return f"effect-{path}-{attempt}"


def check_call(kind: str, name: object, fn: object) -> Invalid | None:
    """Return why something is not a step's name and function."""
    if not isinstance(name, str) or not name:
        return Invalid(f"{name!r:.60} is not a step name.")
    if not callable(fn):
        return Invalid(f"{kind} {name!r:.60} needs a function, not {fn!r:.60}.")
    return None


def check_run_id(run_id: object) -> Invalid | None:
    """Return why `run_id` cannot name a run."""
    wrong = check_key(run_id)
    if wrong is None and "/" in str(run_id):
        return Invalid(f"Run id {run_id!r} contains '/': use '-' instead.")
    if wrong is not None:
        return Invalid(wrong.message.replace("Key", "Run id", 1).replace(" key", " run id", 1))
    return None


def digest(arguments: object, what: str) -> str | Invalid:
    """Return what stands for a step's arguments: equal for equal JSON."""
    body = encode(arguments)
    if isinstance(body, Invalid):
        return Invalid(
            f"The arguments of {what} are recorded, so they must be JSON: {body.message}"
        )
    import hashlib  # at run time only where it is used: importing it takes long

    text = json.dumps(decode(body), sort_keys=True)  # typed arguments as JSON has them
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class StepInfo(NamedTuple):
    """A step as it is recorded: its place, kind and name, how it stands, and its result."""

    path: str
    kind: str
    name: str
    state: str
    result: Json
    position: int
    details: Mapping[str, Json]


class RunInfo(NamedTuple):
    """A run as it stands.

    `state`: Idle, Processing, AwaitingInput, Completed or Failed.  `program`: what a worker calls
    for it.  `failures`: how often it failed since it was last resumed; `parked` when that was too
    often.  `waits`: what it waits for, by name.  `in_doubt`: effects that nobody knows of whether
    they happened.
    """

    id: str
    state: str
    program: str | None
    agent: str
    input: Json
    result: Json
    error: str | None
    failures: int
    parked: bool
    waits: tuple[str, ...]
    in_doubt: tuple[str, ...]
    steps: tuple[StepInfo, ...]
    sent: Mapping[str, Json]


def place_of(path: str) -> tuple[tuple[int, str], ...]:
    """Return what sorts paths as the program has them: `2` before `10`, undoing at the end."""
    parts = path.split(".")
    return tuple((int(part), "") if part.isdigit() else (sys.maxsize, part) for part in parts)


def steps_of(run_id: str, records: Mapping[str, Record]) -> tuple[StepInfo, ...]:
    """Return the recorded steps of a run in the program's order."""
    prefix = step_key(run_id, "")
    found = []
    for key, record in records.items():
        if key.startswith(prefix) and record.exists:  # what it was before may be erased
            value = record.value
            common = ("kind", "name", "state", "result")
            details = {name: each for name, each in value.items() if name not in common}
            path = key[len(prefix) :]
            found.append(
                StepInfo(
                    path,
                    value["kind"],
                    value["name"],
                    value["state"],
                    value.get("result"),
                    record.position,
                    details,
                )
            )
    return tuple(sorted(found, key=lambda step: place_of(step.path)))


def run_info(
    run_id: str, fence: Record, status: Mapping[str, Json], records: Mapping[str, Record]
) -> RunInfo:
    """Return a run as it stands, from its records of one moment."""
    steps = steps_of(run_id, records)
    prefix = sent_key(run_id, "")
    begun = fence.value or {}
    return RunInfo(
        run_id,
        status["state"],
        begun.get("program"),
        status["agent"],
        begun.get("input"),
        status.get("result"),
        status.get("error"),
        status.get("failures", 0),
        status.get("parked", False),
        tuple(sorted(status.get("waits", {}).values())),
        tuple(s.name for s in steps if s.kind == EFFECT and s.state == STARTED),
        steps,
        {key[len(prefix) :]: r.value for key, r in records.items() if key.startswith(prefix)},
    )
