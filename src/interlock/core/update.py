"""`update`: read, think, commit; think again in turn.

**Optimistic once.**  The function of an `update` thinks about a record, which may take minutes.
The commit demands that the record has not moved.  Mostly it has not, and there is no queue.

**Then in turn.**  Agents that only tried again would refuse each other forever: with n agents at
one key, n - 1 thoughts of every n are lost.  So an agent that was refused joins the queue of the
key, waits until nobody is ahead, and thinks once more while every other `update` gives way
(`Held`): it has lost one thought.  A write that does not go through `update` gives way only to an
agent that was beaten in its turn once (`firm`): the second thought in turn counts.

**Unless thinking is cheap.**  Handing over a turn takes longer than a function that only counts, so
while a function takes no more than milliseconds its update tries again after a short random pause,
and gives way to nobody but who was beaten.  It joins the queue with half of its attempts left.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

from interlock.core import refusals
from interlock.core.fold import ask
from interlock.core.keys import DELETE
from interlock.core.pace import Pace, pause_before
from interlock.core.records import Committed, Record, Snapshot
from interlock.core.refusals import Conflict, Contended, Fenced, Held, Invalid, Outcome, Refusal
from interlock.core.requests import LeaveTurn, Load, Pause, Place, Steps, Think
from interlock.core.struct import Json
from interlock.core.turn import Turn, kept, renewal, take_turn, with_turn
from interlock.core.write import (
    applied_before,
    commit,
    forgot_return,
    plan_delete,
    put,
    records_of,
)
from interlock.core.writer import Writer


class Limits(NamedTuple):
    """How long an update may go on: thoughts, and seconds in all (None: no limit)."""

    attempts: int
    patience: float | None
    turns: str


def wait_turn(
    writer: Writer, keys: tuple[str, ...], turn: Turn, attempts: int
) -> Steps[Place | Refusal]:
    """Protocol: wait for the turn at `keys` of an update or a transaction."""

    def begin(place: Place) -> Steps[Place]:
        yield from ()
        return place

    def late(ahead: int) -> Contended:
        return Contended(
            f"Gave up on {keys[0]!r} after {turn.patience:g} s: {ahead} ahead in the queue, "
            f"{attempts} attempts made",
            keys[0],
            attempts,
            limit="patience",
        )

    return take_turn(writer, keys, turn, begin, late, again=attempts > 0)


@with_turn
def update(
    turn: Turn,
    writer: Writer,
    key: str,
    fn: Callable[[Any], Any],
    default: Json,
    limits: Limits,
    op_id: str,
    resumable: bool,
    touch: bool = True,
    expires: float | None = None,
    pace: Pace | None = None,
) -> Steps[Record | Refusal]:
    """Read, think, commit; think again on the fresh record.  Returns a Record or a Refusal.

    Optimistic once; after a conflict, or if a queue exists, in turn, unless `pace` says that `fn`
    is quick.  `resumable`: the caller chose `op_id`, so the operation may already have been
    applied.
    """
    wrong = writer.check_key(key) or check_limits(limits)
    if wrong is not None:
        return wrong
    ticket = attempts = 0
    turn.patience = limits.patience
    in_turn = limits.turns == "always"
    if resumable or not in_turn:  # who waits for its turn anyway reads the key then
        snapshot = yield from ask(writer, Load((key,), (), op_id if resumable else None))
        if snapshot.applied is not None:
            return applied_before(writer, key, op_id, snapshot.applied)
        turn.began_us, record = snapshot.time_us, snapshot.records[key]
        held = _leased(key, snapshot)
        in_turn = in_turn or (
            limits.turns == "auto" and key in snapshot.queued and not _is_quick(pace, limits)
        )
    while True:
        if in_turn and not ticket:
            turn.name = f"{op_id}/{attempts}"
            place = yield from wait_turn(writer, (key,), turn, attempts)
            if isinstance(place, Refusal):
                return place
            ticket, record = place.ticket, place.snapshot.records[key]
            held = _leased(key, place.snapshot)
        if held is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return held
        attempts += 1
        renew = renewal(writer, (key,), turn, ticket) if ticket else None
        given = record.value if record.exists else deepcopy(default)  # `fn` may change it
        value = yield Think(fn, (given,), renew)
        quick = not ticket and _is_quick(pace, limits)
        outcome = yield from _commit_value(
            *(writer, record, value, op_id, ticket),
            gives_way=limits.turns != "never" and not quick,
            touch=touch,
            expires=expires,
        )
        if isinstance(outcome, Committed):
            if outcome.replayed or outcome.writes[0].version != record.version:
                return applied_before(writer, key, op_id, outcome)
            if ticket:  # nothing was written, which would have given it up
                yield LeaveTurn(ticket)
            return records_of(outcome, writer.space)[0]
        give_up = final_refusal(key, outcome, limits, attempts) or _raised(writer, key, outcome)
        if give_up is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return give_up
        again = quick and attempts < limits.attempts // 2
        in_turn = limits.turns != "never" and not again
        if again:
            yield Pause(seconds=pause_before(op_id, attempts))
        if again or isinstance(outcome, Fenced):  # somebody had the key to himself meanwhile
            snapshot = yield from ask(writer, Load((key,)))
            record, held = snapshot.records[key], _leased(key, snapshot)
        elif isinstance(outcome, Conflict):
            record = outcome.record
        if isinstance(outcome, Held):
            ticket = 0  # no turn yet, or lost by sleeping through it: join the queue
        elif ticket:
            place = yield from ask(writer, renewal(writer, (key,), turn, ticket, firm=True))
            ticket, record = kept(place, key, record)


def _commit_value(
    writer: Writer,
    record: Record,
    value: Json,
    op_id: str,
    ticket: int,
    gives_way: bool,
    touch: bool,
    expires: float | None,
) -> Steps[Outcome]:
    """Commit what the function of an update returned.  Returns Committed or a Refusal."""
    if value is None:
        what = f"The function for {record.key!r}"
        text = f"{forgot_return(what)} To delete, return interlock.DELETE."
        return Invalid(text, record.key)
    if value is DELETE:
        decision = partial(plan_delete, writer, record, op_id)
        return (yield from commit(writer, decision, False, ticket, gives_way))
    return (
        yield from put(
            *(writer, record, value, op_id),
            ticket=ticket,
            gives_way=gives_way,
            touch=touch,
            expires=expires,
        )
    )


def check_limits(limits: Limits) -> Invalid | None:
    """Return what is wrong with the limits of an update or a transaction."""
    if limits.turns not in ("auto", "always", "never"):
        return Invalid(f"turns={limits.turns!r} must be 'auto', 'always' or 'never'.")
    if isinstance(limits.attempts, bool) or not isinstance(limits.attempts, int):
        return Invalid(f"attempts={limits.attempts!r} must be a whole number.")
    if limits.attempts < 1:
        return Invalid(f"attempts={limits.attempts!r} must be at least 1.")
    patience = 0 if limits.patience is None else limits.patience
    if not isinstance(patience, int | float) or not patience >= 0:
        return Invalid(f"patience={limits.patience!r} must be a number of seconds from 0.")
    return None


def _raised(writer: Writer, key: str, outcome: Outcome) -> Conflict | None:
    """Return a conflict that the rule of the key says to raise rather than to think again."""
    if not isinstance(outcome, Conflict):
        return None
    return outcome if writer.book.rules.match(key)[1].on_conflict == "raise" else None


def _is_quick(pace: Pace | None, limits: Limits) -> bool:
    return pace is not None and limits.turns == "auto" and pace.is_quick


def _leased(key: str, snapshot: Snapshot) -> Held | None:
    """Return the refusal of thinking about a key that somebody has the lease of."""
    lease = snapshot.leases.get(key)
    return None if lease is None else refusals.leased_to(key, lease.holder, lease.seconds)


def final_refusal(key: str, outcome: Outcome, limits: Limits, attempts: int) -> Refusal | None:
    """Return the refusal to end with, or None if thinking again may help."""
    assert isinstance(outcome, Refusal)
    if isinstance(outcome, Fenced) and not outcome.key:
        return outcome  # this process was replaced, not only its reading
    if not isinstance(outcome, Conflict | Held | Fenced) or getattr(outcome, "lease", False):
        return outcome
    if isinstance(outcome, Conflict) and outcome.expected is None:
        return outcome  # `create` of a key that exists: thinking again meets it again
    if attempts >= limits.attempts:
        return Contended(
            f"Gave up on {key!r} after {attempts} attempt{'s' if attempts > 1 else ''}",
            key,
            attempts,
            outcome,
        )
    return None
