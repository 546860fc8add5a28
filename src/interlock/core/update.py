"""`update`: read, think, commit; and the queue where agents take turns at a key.

**Optimistic once.**  The function of an `update` thinks about a record, which may take minutes.
The commit demands that the record has not moved.  Mostly it has not, and there is no queue.

**Then in turn.**  Agents that only tried again would refuse each other forever: with n agents at
one key, n - 1 thoughts of every n are lost.  So an agent that was refused joins the queue of the
key, waits until nobody is ahead, and thinks once more while every other `update` gives way
(`Held`): it has lost one thought.  A write that does not go through `update` gives way only to an
agent that was beaten in its turn once (`firm`): the second thought in turn counts.

**Nobody waits for the dead.**  Tickets expire unless renewed, and an agent whose ticket ended
begins at the end of the queue.  A turn is no lock: the commit still
demands that the record has not moved, so whoever sleeps through a turn loses only its thought.

**No deadlock.**  Tickets have one order in the whole space, so two agents that wait for several
keys do not wait for each other.  Where what one of them holds already closes a cycle, the store
finds it, and whoever joined last is refused.

`transact` and leases use the same queue.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

from interlock.core import refusals
from interlock.core.fold import ask
from interlock.core.keys import DELETE, check_key
from interlock.core.records import Committed, Record, Snapshot
from interlock.core.refusals import (
    Conflict,
    Contended,
    Deadlock,
    Fenced,
    Held,
    Invalid,
    Outcome,
    Refusal,
)
from interlock.core.requests import (
    LeaveTurn,
    Load,
    OutOfTime,
    Pause,
    Place,
    Steps,
    T,
    TakeTurn,
    Think,
)
from interlock.core.struct import Json
from interlock.core.write import (
    applied_before,
    commit,
    forgot_return,
    plan_delete,
    put,
    records_of,
)
from interlock.core.writer import Writer

P = ParamSpec("P")

TICKET_TTL = 6.0  # seconds that a dead agent can hold the others up
_LONGEST_TICKET_TTL = 60.0  # seconds that the ticket of somebody far back lives
_SHARE_OF_TTL = 0.6  # nobody sleeps for longer than this
_TTL_IN_PAUSES = 4  # so long it lives that it is asked for in time, and seldom written
_SHARE_OF_WAIT = 0.03  # asking this often delays the hand-over by at most this share of a turn
_SHORTEST, _LONGEST = 0.001, 0.25  # seconds between two questions near the head
_FURTHEST = 20.0  # seconds, at the end of the longest queue
_FASTEST_TURN = 0.003  # seconds: nobody sleeps longer than the turns ahead could take


class Limits(NamedTuple):
    """How long an update may go on: thoughts, and seconds in all (None: no limit)."""

    attempts: int
    patience: float | None
    turns: str


class Turn:
    """The place in a queue that a protocol has, or may have: the answer can still be on its way.

    `began_us` is when its patience began, by the store's clock (0: not known yet).
    """

    def __init__(self) -> None:
        self.name = ""
        self.ticket = 0
        self.began_us = 0


class Progress:
    """How a queue moves, as one waiter sees it: when to ask next, and how long the ticket lives.

    A waiter far back asks seldom and needs a longer ticket; once it is near, the ticket is short
    again, so that its death is noticed soon.
    """

    def __init__(self) -> None:
        self.ttl = TICKET_TTL
        self._ticket = self._ahead = self._passed = 0
        self._joined_us = self._since_us = self._asked_us = 0

    def pause(self, place: Place, left: float | None = None) -> Pause:
        """Return the wait until the next question, for at most `left` seconds."""
        now_us = place.snapshot.time_us
        slept = max(now_us - self._asked_us, 0) / 1e6 if place.ticket == self._ticket else 0.0
        self._asked_us = now_us
        if place.ticket != self._ticket:  # joined, or the ticket had expired: again, at the end
            self._ticket, self._ahead, self._passed = place.ticket, place.ahead, 0
            self._joined_us = self._since_us = now_us
        elif place.ahead != self._ahead:
            self._passed += self._ahead - place.ahead
            self._ahead, self._since_us = place.ahead, now_us
        elapsed = max(now_us - self._joined_us, 0) / 1e6
        each = elapsed / max(self._passed, 1)
        seconds = pause_for(place.ahead, each, max(now_us - self._since_us, 0) / 1e6)
        # Not longer than it has been watched: how fast the queue moves is not known any better.
        seconds = min(seconds, max(elapsed, _SHORTEST), self.ttl * _SHARE_OF_TTL)
        most = self.ttl * _SHARE_OF_TTL
        self.ttl = min(max(TICKET_TTL, max(seconds, slept) * _TTL_IN_PAUSES), _LONGEST_TICKET_TTL)
        if left is not None:
            seconds, most = min(seconds, left), min(most, left)
        return Pause(seconds=seconds, position=None, ticket=place.ticket, most=most)


def giving_up(turn: Turn, steps: Steps[T]) -> Steps[T]:
    """Protocol: `steps`; where it is interrupted or cancelled, the turn is given up at once."""
    try:
        return (yield from steps)
    except GeneratorExit:
        raise
    except BaseException:
        if turn.name:
            yield LeaveTurn(turn.ticket) if turn.ticket else LeaveTurn(0, turn.name)
        raise


def with_turn(protocol: Callable[Concatenate[Turn, P], Steps[T]]) -> Callable[P, Steps[T]]:
    """Give a protocol its Turn, which is given up where the protocol is interrupted."""

    @wraps(protocol)
    def steps(*args: P.args, **kwargs: P.kwargs) -> Steps[T]:
        turn = Turn()
        return giving_up(turn, protocol(turn, *args, **kwargs))

    return steps


def pause_for(ahead: int, turn: float, waited: float) -> float:
    """Return seconds until the next question.

    `turn` is how long a turn takes as far as is known, `waited` the time at this place.  Who is
    next asks often; who is further back sleeps through half of what the turns before should take.
    """
    soon = min(max(_SHORTEST, waited * _SHARE_OF_WAIT), _LONGEST)
    most = min(max(_LONGEST, ahead * _FASTEST_TURN), _FURTHEST)
    return min(soon + max(ahead - 1, 0) * turn / 2, most)


def take_turn(
    writer: Writer,
    keys: tuple[str, ...],
    turn: Turn,
    limits: Limits,
    attempts: int,
) -> Steps[Place | Contended | Deadlock]:
    """Protocol: join the queues of `keys` as `turn.name` and wait until nobody is ahead."""
    progress, ticket, left = Progress(), 0, limits.patience
    if left is not None and attempts:  # how much of it did the attempts take?
        left -= ((yield Load((), ())).time_us - turn.began_us) / 1e6
    while True:
        asked = TakeTurn(keys, name=turn.name, agent=writer.agent, ttl=progress.ttl, ticket=ticket)
        try:
            place = yield from ask(writer, asked if ticket else asked.replace(most=left))
        except OutOfTime as over:
            return _out_of_patience(keys[0], limits, over.ahead, attempts)
        turn.ticket = ticket = place.ticket
        now_us = place.snapshot.time_us
        turn.began_us = turn.began_us or now_us - int(place.waited * 1e6)
        if ticket and place.ahead == 0:
            return place
        if limits.patience is not None:
            left = limits.patience - (now_us - turn.began_us) / 1e6
        pause = progress.pause(place, left)
        if not ticket:
            continue
        if place.cycle:
            yield LeaveTurn(ticket)
            return refusals.deadlock(place.cycle)
        if left is not None and left <= 0:
            yield LeaveTurn(ticket)
            return _out_of_patience(keys[0], limits, place.ahead, attempts)
        yield pause


def _out_of_patience(key: str, limits: Limits, ahead: int, attempts: int) -> Contended:
    return Contended(
        f"Gave up on {key!r} after {limits.patience:g} s: {ahead} ahead in the queue, "
        f"{attempts} attempts made",
        key,
        attempts,
        limit="patience",
    )


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
) -> Steps[Record | Refusal]:
    """Read, think, commit; think again on the fresh record.  Returns a Record or a Refusal.

    Optimistic once; after a conflict, or where a queue exists, in turn.  `resumable`: the caller
    chose `op_id`, so the operation may already have been applied.  `touch`: a value that is what
    the key has already is written, too.
    """
    wrong = check_key(key) or check_limits(limits)
    if wrong is not None:
        return wrong
    ticket = attempts = 0
    in_turn = limits.turns == "always"
    if resumable or not in_turn:  # who waits for its turn anyway reads the key then
        snapshot = yield from ask(writer, Load((key,), (), op_id if resumable else None))
        if snapshot.applied is not None:
            return applied_before(writer, key, op_id, snapshot.applied)
        turn.began_us, record = snapshot.time_us, snapshot.records[key]
        held = _leased(key, snapshot)
        in_turn = in_turn or (limits.turns == "auto" and key in snapshot.queued)
    while True:
        if in_turn and not ticket:
            turn.name = f"{op_id}/{attempts}"
            place = yield from take_turn(writer, (key,), turn, limits, attempts)
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
        outcome = yield from _commit_value(
            writer, record, value, op_id, ticket, limits.turns != "never", touch
        )
        if isinstance(outcome, Committed):
            if outcome.replayed or outcome.writes[0].version != record.version:
                return applied_before(writer, key, op_id, outcome)
            if ticket:  # nothing was written, which would have given it up
                yield LeaveTurn(ticket)
            return records_of(outcome, writer.space)[0]
        give_up = final_refusal(key, outcome, limits, attempts)
        if give_up is None and writer.book.rules.match(key)[1].on_conflict == "raise":
            give_up = outcome if isinstance(outcome, Conflict) else None
        if give_up is not None:
            if ticket:
                yield LeaveTurn(ticket)
            return give_up
        in_turn = limits.turns != "never"
        if isinstance(outcome, Conflict):
            record = outcome.record
        elif isinstance(outcome, Fenced):  # somebody had the key to himself meanwhile
            snapshot = yield from ask(writer, Load((key,)))
            record, held = snapshot.records[key], _leased(key, snapshot)
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
            writer, record, value, op_id, ticket=ticket, gives_way=gives_way, touch=touch
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


def _leased(key: str, snapshot: Snapshot) -> Held | None:
    """Return the refusal of thinking about a key that somebody has the lease of."""
    lease = snapshot.leases.get(key)
    return None if lease is None else refusals.leased_to(key, lease.holder, lease.seconds)


def renewal(
    writer: Writer, keys: tuple[str, ...], turn: Turn, ticket: int, firm: bool = False
) -> TakeTurn:
    """Return the request that keeps a turn alive; `firm`: it was beaten, and is not to be again."""
    return TakeTurn(
        keys, name=turn.name, agent=writer.agent, ttl=TICKET_TTL, ticket=ticket, firm=firm
    )


def kept(place: Place, key: str, record: T) -> tuple[int, Record | T]:
    """Return the ticket and the fresh record after a renewal; ticket 0 where the turn was lost."""
    if place.ticket and place.ahead == 0:
        return place.ticket, place.snapshot.records[key]
    return 0, record


def final_refusal(key: str, outcome: Outcome, limits: Limits, attempts: int) -> Refusal | None:
    """Return the refusal to end with, or None where thinking again may help."""
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
