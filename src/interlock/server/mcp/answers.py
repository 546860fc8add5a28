"""What the MCP server answers: records, log entries and refusals as JSON objects.

A refusal says what to do next in terms of the tools.
"""

from __future__ import annotations

import interlock
from interlock import Entry, InterlockError, Json, KeyInfo, Record, Refused

Answer = dict[str, Json]

_AGAIN = "Decide again from `record`, then call again with its version and epoch."
_NEXT_STEPS: dict[type[InterlockError], str] = {
    interlock.Conflict: _AGAIN,
    interlock.Held: "Wait `seconds` seconds, read the key again, then call again.",
    interlock.Deadlock: "Release the leases that you hold, then call again.",
    interlock.Contended: "Others write this key all the time. Wait a little, then call again.",
    interlock.Fenced: "Stop: somebody else took over this work. Read the key again before you do "
    "anything else with it.",
    interlock.IllegalTransition: "Read the key, decide again for its state, and choose one of "
    "`allowed`.",
    interlock.Forbidden: "Follow the rule (call about), or write another key.",
    interlock.Invalid: "Fix the arguments; retrying the same call won't help.",
    interlock.Pruned: "Start at `oldest_position` or later.",
    interlock.Unavailable: "Nothing was written. Wait a few seconds, then repeat the call.",
    interlock.Unknown: "It may have been written or not. Send the same call again with this "
    "`op_id`, which applies it once, or call outcome with it.",
}
_TELL = "Stop, and tell a person: somebody must look at the store."


class Refusal(Exception):
    """A refusal that the server itself finds, in the same form as those of the space."""

    def __init__(self, kind: str, message: str, next_step: str, /, **details: object) -> None:
        super().__init__(message)
        self.answer: Answer = {
            "kind": kind,
            "message": message,
            "retryable": kind == "Conflict",
            "next_step": next_step,
            **details,
        }


def moved(expected: int, record: Record) -> Refusal:
    """Return the refusal of a write computed from version `expected`, which is not the latest."""
    now = f"it has version {record.version} now" if record.exists else "it does not exist now"
    return Refusal(
        "Conflict",
        f"{record.key!r} changed: you read version {expected}, {now}.",
        _AGAIN,
        **_conflict(expected, record),
    )


def absent(key: str) -> Refusal:
    """Return the refusal of changing a key that does not exist."""
    return Refusal(
        "NotFound",
        f"{key!r} does not exist.",
        "Create it, or look for the right key with list_keys.",
        key=key,
    )


def refusal_of(problem: InterlockError, agent: str = "") -> Answer:
    """Return the refusal, or the fault, that was raised to an agent."""
    message, next_step = str(problem), _TELL
    retryable = isinstance(problem, interlock.Unavailable | interlock.Unknown)
    if isinstance(problem, Refused):
        message, next_step = str(problem.outcome.message), problem.next_step
        retryable = problem.retryable
    next_step = _NEXT_STEPS.get(type(problem), next_step)
    if isinstance(problem, interlock.Held) and problem.holder == agent:
        next_step = "You hold it yourself: pass the lease_id of your lease, or wait."
    return {
        "kind": type(problem).__name__,
        "message": message,
        "retryable": retryable,
        "next_step": next_step,
        **_details(problem),
    }


def _details(problem: InterlockError) -> Answer:
    match problem:
        case interlock.Conflict():
            return _conflict(problem.expected, problem.record) | {
                "clashes": [_clash(clash) for clash in problem.clashes]
            }
        case interlock.Held():
            return {"holder": problem.holder, "seconds": round(problem.seconds, 1)}
        case interlock.Contended():
            return {"attempts": problem.attempts}
        case interlock.Deadlock():
            return {"key": problem.key, "cycle": [wait._asdict() for wait in problem.cycle]}
        case interlock.Fenced():
            return {"held_epoch": problem.held, "current_epoch": problem.current}
        case interlock.Forbidden():
            return {"key": problem.key, "pattern": problem.pattern, "rule": problem.rule}
        case interlock.IllegalTransition():
            return {
                "key": problem.key,
                "state": problem.before,
                "asked": problem.after,
                "allowed": list(problem.allowed),
            }
        case interlock.Pruned():
            return {"oldest_position": problem.oldest}
        case interlock.Unknown():
            return {"op_id": problem.op_id}
    return {}


def _conflict(expected: int | None, record: Record) -> Answer:
    return {
        "key": record.key,
        "expected_version": expected,
        "actual_version": record.version,
        "record": record_answer(record),
    }


def _clash(clash: interlock.Clash) -> Answer:
    sides = {"base": clash.base, "mine": clash.mine, "theirs": clash.theirs}
    shown = {side: value for side, value in sides.items() if _is_json(value)}
    return {"path": list(clash.path), **shown}


def _is_json(value: object) -> bool:
    """Whether a side of a clash has a value: what is not there is no JSON."""
    return value is None or isinstance(value, str | int | float | bool | list | dict)


def record_answer(record: Record) -> Answer:
    """Return a record as tools answer it."""
    return {
        "key": record.key,
        "value": record.value,
        "version": record.version,
        "epoch": record.epoch,
        "exists": record.exists,
        "writer": record.writer,
        "at": record.at.isoformat() if record.at else None,
        **({"erased": True} if record.erased else {}),
    }


def key_answer(info: KeyInfo) -> Answer:
    """Return a key as tools answer it, without its value."""
    return {
        "key": info.key,
        "version": info.version,
        "epoch": info.epoch,
        "exists": True,
        "writer": info.writer,
        "at": info.at.isoformat(),
    }


def entry_answer(entry: Entry) -> Answer:
    """Return a line of the log as tools answer it."""
    return {
        "position": entry.position,
        "key": entry.key,
        "version": entry.version,
        "kind": entry.kind,
        "value": entry.value,
        "agent": entry.agent,
        "at": entry.at.isoformat(),
        **({"erased": True} if entry.erased else {}),
    }
