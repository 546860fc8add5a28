"""The protocol of an effect: a call to the outside that must not be lost and not be made twice.

The intent is committed before the call and the result after it.  Where only the intent is there,
nobody here knows whether the call was made: the effect is in doubt, and its policy decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from interlock.core import read
from interlock.core.keys import check_key
from interlock.core.plan import Expect, expect
from interlock.core.records import Record
from interlock.core.refusals import Invalid, text_of
from interlock.core.requests import Steps, Think
from interlock.core.struct import Json
from interlock.errors import BreakerOpen, InDoubt, NotDone, raise_refusal, raise_refused
from interlock.errors import Invalid as InvalidError
from interlock.runs.records import (
    EFFECT,
    FINISHED,
    HELD_BACK,
    REFUSED,
    SKIPPED,
    STARTED,
    UNDOING,
    check_call,
    digest,
)
from interlock.runs.run import record
from interlock.runs.state import RunState, Undo
from interlock.runs.step import ask_about
from interlock.typed import UNTYPED, Typed, typed_call

POLICIES = ("ask", "retry", "skip")


@dataclass(frozen=True)
class Effect:
    """A call to the outside: `fn(key, *args)`, and what happens when it is in doubt."""

    name: str
    fn: Callable[..., object]
    args: tuple[object, ...]
    content: Json  # what the idempotency key is derived from
    in_doubt: str = "ask"
    check: Callable[..., object] | None = None
    compensate: Callable[..., object] | None = None
    decided_from: tuple[Expect, ...] = ()
    view: Typed[Any] = UNTYPED


def make(
    name: str,
    fn: Callable[..., object],
    args: tuple[object, ...],
    key: object,
    in_doubt: str,
    check: Callable[..., object] | None,
    compensate: Callable[..., object] | None,
    decided_from: object,
) -> Effect:
    """Return an effect as it was asked for.  Raises Invalid."""
    raise_refused(check_call(EFFECT, name, fn))
    for what, given in (("check", check), ("compensate", compensate)):
        if given is not None and not callable(given):
            raise InvalidError(f"{what}={given!r:.60} of effect {name!r} is not a function")
    if in_doubt not in POLICIES:
        raise InvalidError(f"in_doubt={in_doubt!r} is not one of {', '.join(POLICIES)}")
    if check is not None and in_doubt != "ask":
        raise InvalidError(f"effect {name!r} has both check= and in_doubt={in_doubt!r}; give one")
    view, args = typed_call(args)
    content = list(args) if key is None else key
    expected = _expected(decided_from)
    undo = None if compensate is None else view.taking(compensate, f"the result of effect {name!r}")
    return Effect(name, fn, args, content, in_doubt, check, undo, expected, view)


def _expected(records: object) -> tuple[Expect, ...]:
    if isinstance(records, Mapping):
        for key, version in records.items():
            raise_refused(check_key(key) or read.check_position(f"version of {key!r}", version))
        return tuple(Expect(key, version, None) for key, version in records.items())
    found = (records,) if isinstance(records, Record) else records
    if not isinstance(found, list | tuple) or not all(isinstance(r, Record) for r in found):
        raise InvalidError("decided_from= is a Record, several, or a mapping from keys to versions")
    return tuple(map(expect, found))


def perform(run: RunState, path: str, effect: Effect, op_id: Callable[[], str]) -> Steps[Any]:
    """Make the call once, and return its result; or the one that is recorded."""
    result = yield from _perform(run, path, effect, op_id)
    if result is None:  # skipped, perhaps
        return None
    return effect.view.value(result, f"the result of effect {effect.name!r}")


def _perform(run: RunState, path: str, effect: Effect, op_id: Callable[[], str]) -> Steps[Json]:
    what = f"effect {effect.name!r}"
    arguments, content = digest(list(effect.args), what), digest(effect.content, what)
    for wrong in (arguments, content):
        if isinstance(wrong, Invalid):
            raise_refusal(wrong)
    assert isinstance(arguments, str)
    recorded = run.recall(path, EFFECT, effect.name, arguments)
    attempt = (recorded or {}).get("attempt", 0) + 1
    if recorded is not None and recorded["state"] == HELD_BACK:
        recorded = None  # a breaker was open: the call was not made
    key = _key(run, path, effect.name, str(content))
    payload: dict[str, Json] = {"kind": EFFECT, "name": effect.name, "args": arguments, "key": key}
    payload |= {"content": effect.content, "undo": effect.compensate is not None}
    if recorded is not None and recorded["state"] != STARTED:
        return _settled(run, path, effect, recorded)
    if recorded is not None:
        happened = yield from _in_doubt(run, path, effect, recorded)
        if happened is not None:
            payload |= {"state": happened[0], "result": happened[1]}
            return (yield from _finish(run, path, effect, payload, op_id))
    intent = payload | {"state": STARTED, "attempt": attempt}
    perhaps_made = recorded is not None and effect.in_doubt == "retry"
    expects = () if perhaps_made else effect.decided_from
    yield from record(run, {path: intent}, op_id(), expects=expects)
    try:
        result = yield Think(effect.fn, (key, *effect.args))
    except BreakerOpen:
        if not perhaps_made:  # else an earlier call is still in doubt
            yield from record(run, {path: intent | {"state": HELD_BACK}}, op_id())
        raise
    except NotDone as refused:
        if path.startswith(UNDOING):
            raise  # it is still to be undone: the next attempt calls again
        payload |= {"state": REFUSED, "result": None, "error": text_of(refused)}
        yield from record(run, {path: payload}, op_id())
        raise
    except Exception as problem:
        happened = yield from _looked_up(effect, key)
        if not happened:
            raise InDoubt(effect.name, key, path, problem) from problem
        payload |= {"state": FINISHED, "result": happened[1]}
    else:
        what = f"the result of effect {effect.name!r}"
        payload |= {"state": FINISHED, "result": effect.view.json(result, what)}
    return (yield from _finish(run, path, effect, payload, op_id))


def _key(run: RunState, path: str, name: str, content: str) -> str:
    """Return the idempotency key: the same for the same action of this run, wherever it stands."""
    made = digest([run.writer.space, run.id, name, content], name)
    assert isinstance(made, str)
    first = run.keys.setdefault(made, path)
    if first != path:
        raise InvalidError(
            f"effect {name!r} with the same content is step {first} already; where both are "
            "meant, give them different key="
        )
    return made


def _settled(run: RunState, path: str, effect: Effect, recorded: Mapping[str, Json]) -> Json:
    """Return what is recorded of an effect."""
    if recorded["state"] == REFUSED:
        raise NotDone(recorded["error"])
    if recorded["state"] == FINISHED:
        _undoable(run, path, effect, recorded)
    return recorded["result"]


def _in_doubt(
    run: RunState, path: str, effect: Effect, recorded: Mapping[str, Json]
) -> Steps[tuple[str, Json] | None]:
    """Return how it ended and its result, or None where the call is to be made (again)."""
    if effect.check is not None:
        return (yield from _looked_up(effect, recorded["key"]))
    if effect.in_doubt == "retry":
        return None
    if effect.in_doubt == "skip":
        return SKIPPED, None
    return (yield from ask_about(run, path, effect.name, recorded["attempt"]))


def _looked_up(effect: Effect, key: str) -> Steps[tuple[str, Json] | None]:
    """Ask the outside whether the effect has happened; None where it has not, or nobody can say."""
    if effect.check is None:
        return None
    found = yield Think(effect.check, (key, *effect.args))
    if found is None:
        return None
    return FINISHED, effect.view.json(found, f"what check= of effect {effect.name!r} returned")


def _finish(
    run: RunState, path: str, effect: Effect, payload: dict[str, Json], op_id: Callable[[], str]
) -> Steps[Json]:
    yield from record(run, {path: payload}, op_id())
    return _settled(run, path, effect, run.steps[path].value)


def _undoable(run: RunState, path: str, effect: Effect, recorded: Mapping[str, Json]) -> None:
    if effect.compensate is not None:
        position = run.steps[path].position
        run.undo[path] = Undo(
            position, path, effect.name, recorded["key"], recorded["result"], effect.compensate
        )


def undo_all(run: RunState, op_id: Callable[[], str]) -> Steps[None]:
    """Undo the finished effects, the last one first; what was undone before is not undone again."""
    for undo in sorted(run.undo.values(), reverse=True, key=lambda undo: undo.position):
        effect = Effect(f"undo {undo.name}", undo.fn, (undo.result,), [undo.key], "retry")
        yield from perform(run, f"{UNDOING}{undo.path}", effect, op_id)
