"""The queue for a key: how a protocol takes its turn, and how often a waiter asks.

An agent whose optimistic write was refused joins the queue of the key, waits until nobody is
ahead, and thinks once more with every other `update` held back.  Tickets expire unless renewed,
so an agent that dies is passed over.  The order of tickets is one for the whole space, so two
agents that wait for several keys cannot wait for each other; where what one of them holds already
closes a cycle, the store finds it, and whoever joined last is refused.
"""

from __future__ import annotations

from typing import NamedTuple

from interlock.core import decide
from interlock.core.decide import Writer
from interlock.core.folding import ask
from interlock.core.outcome import Contended, Deadlock
from interlock.core.requests import LeaveTurn, Load, OutOfTime, Pause, Place, Steps, T, TakeTurn

TICKET_TTL = 6.0  # seconds that a dead agent can hold the others up
_LONGEST_TTL = 60.0  # seconds that the ticket of somebody far back lives
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
        self.ttl = min(max(TICKET_TTL, max(seconds, slept) * _TTL_IN_PAUSES), _LONGEST_TTL)
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
            return decide.deadlock(place.cycle)
        if left is not None and left <= 0:
            yield LeaveTurn(ticket)
            return _out_of_patience(keys[0], limits, place.ahead, attempts)
        yield pause


def _out_of_patience(key: str, limits: Limits, ahead: int, attempts: int) -> Contended:
    return Contended(
        f"Gave up on {key!r} after {limits.patience:g} s: {ahead} agents ahead in the queue, "
        f"{attempts} attempts made",
        key,
        attempts,
        limit="patience",
    )
