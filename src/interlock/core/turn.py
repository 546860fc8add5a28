"""The queue in which agents take turns at a key: joining, waiting, renewing, leaving.

`update`, `transact` and leases use it: each waits with `take_turn` until nobody is ahead.

**Nobody waits for the dead.**  Tickets expire unless renewed, and an agent whose ticket ended
begins at the end of the queue.  A turn is no lock: the commit still demands that the record has not
moved, so whoever sleeps through a turn loses only its thought.

**No deadlock.**  Tickets have one order in the whole space, so two agents that wait for several
keys do not wait for each other.  If what one of them holds already closes a cycle, the store finds
it, and whoever joined last is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from interlock.core import refusals
from interlock.core.fold import ask
from interlock.core.records import Record
from interlock.core.refusals import Refusal
from interlock.core.requests import (
    LeaveTurn,
    Load,
    OutOfTime,
    Pause,
    Place,
    Steps,
    T,
    TakeTurn,
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


class Turn:
    """The place in a queue that a protocol has, or may have: the answer can still be on its way.

    `patience`: how many seconds it may wait in all (None: no limit), since `began_us` by the
    store's clock (0: not known yet).
    """

    def __init__(self, name: str = "", patience: float | None = None) -> None:
        self.name = name
        self.patience = patience
        self.ticket = 0
        self.began_us = 0

    def left(self, now_us: int) -> float | None:
        """Return the seconds that are left of its patience."""
        return None if self.patience is None else self.patience - (now_us - self.began_us) / 1e6


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
    """Protocol: `steps`; if it is interrupted or cancelled, the turn is given up at once."""
    try:
        return (yield from steps)
    except GeneratorExit:
        raise
    except BaseException:
        if turn.name:
            yield LeaveTurn(turn.ticket) if turn.ticket else LeaveTurn(0, turn.name)
        raise


def with_turn(protocol: Callable[Concatenate[Turn, P], Steps[T]]) -> Callable[P, Steps[T]]:
    """Give a protocol its Turn, which is given up if the protocol is interrupted."""

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
    begin: Callable[[Place], Steps[T | Refusal | None]],
    late: Callable[[int], Refusal],
    again: bool = False,
) -> Steps[T | Refusal]:
    """Protocol: join the queues of `keys` as `turn.name`, and `begin` when nobody is ahead.

    Returns the answer of `begin`; if that is None, the turn alone was not enough, and the wait
    goes on.  After the patience of `turn` it returns what `late` makes of the number of those
    ahead.  `again`: some of that patience has been used up.
    """
    progress, ticket, left = Progress(), 0, turn.patience
    if left is not None and again:
        left = turn.left((yield Load((), ())).time_us)
    while True:
        asked = TakeTurn(keys, name=turn.name, agent=writer.agent, ttl=progress.ttl, ticket=ticket)
        try:
            place = yield from ask(writer, asked if ticket else asked.replace(most=left))
        except OutOfTime as over:
            return late(over.ahead)
        turn.ticket = ticket = place.ticket
        now_us = place.snapshot.time_us
        turn.began_us = turn.began_us or now_us - int(place.waited * 1e6)
        if ticket and place.ahead == 0:
            answer = yield from begin(place)
            if answer is not None:
                return answer
        left = turn.left(now_us)
        pause = progress.pause(place, left)
        if not ticket:
            continue
        if place.cycle:
            yield LeaveTurn(ticket)
            return refusals.deadlock(place.cycle)
        if left is not None and left <= 0:
            yield LeaveTurn(ticket)
            return late(place.ahead)
        yield pause


def renewal(
    writer: Writer, keys: tuple[str, ...], turn: Turn, ticket: int, firm: bool = False
) -> TakeTurn:
    """Return the request that keeps a turn alive; `firm`: it was beaten, and is not to be again."""
    return TakeTurn(
        keys, name=turn.name, agent=writer.agent, ttl=TICKET_TTL, ticket=ticket, firm=firm
    )


def kept(place: Place, key: str, record: T) -> tuple[int, Record | T]:
    """Return the ticket and the fresh record after a renewal; ticket 0 if the turn was lost."""
    if place.ticket and place.ahead == 0:
        return place.ticket, place.snapshot.records[key]
    return 0, record
