"""The queue for a key: how a protocol takes its turn, and how often a waiter asks.

An agent whose optimistic write was refused joins the queue of the key, waits until nobody is
ahead, and thinks once more with every other `update` held back.  Tickets expire unless renewed,
so an agent that dies is passed over.  The order of tickets is one for the whole space, so two
agents that wait for several keys can never wait for each other.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from interlock.core.decide import Writer
from interlock.core.folding import Steps, ask
from interlock.core.outcome import Contended
from interlock.core.requests import LeaveTurn, Pause, Place, TakeTurn

TICKET_TTL = 6.0  # seconds that a dead agent can hold the others up
_SHARE_OF_WAIT = 0.03  # asking this often delays the hand-over by at most this share of a turn
_SHORTEST, _LONGEST = 0.001, 0.25  # seconds


class Limits(NamedTuple):
    """How long an update may go on: thoughts, and seconds in all (None: no limit)."""

    attempts: int
    patience: float | None
    turns: str


class Turn:
    """The place in a queue that a protocol has, or may have: the answer can still be on its way."""

    def __init__(self) -> None:
        self.name = ""
        self.ticket = 0


def giving_up(turn: Turn, steps: Steps) -> Steps:
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
    soon = max(_SHORTEST, waited * _SHARE_OF_WAIT)
    return min(soon + (ahead - 1) * turn / 2, _LONGEST)


def take_turn(
    writer: Writer,
    keys: tuple[str, ...],
    turn: Turn,
    limits: Limits,
    start_us: int,
    attempts: int,
) -> Generator[Any, Any, Place | Contended]:
    """Protocol: join the queues of `keys` as `turn.name` and wait until nobody is ahead."""
    ticket, ahead, joined_us, since_us, passed = 0, -1, 0, 0, 0
    while True:
        place: Place = yield from ask(
            writer, TakeTurn(keys, turn.name, writer.agent, TICKET_TTL, ticket)
        )
        turn.ticket = place.ticket
        if place.ticket and place.ahead == 0:
            return place
        now_us = place.snapshot.time_us
        if place.ticket != ticket:  # joined, or the ticket had expired: join again, at the end
            ticket, ahead, joined_us, since_us, passed = (
                place.ticket,
                place.ahead,
                now_us,
                now_us,
                0,
            )
            if not ticket:
                continue
        elif place.ahead != ahead:
            passed += ahead - place.ahead
            ahead, since_us = place.ahead, now_us
        if limits.patience is not None and now_us - start_us >= limits.patience * 1e6:
            yield LeaveTurn(ticket)
            return Contended(
                f"gave up {keys[0]!r} after {limits.patience} s of patience, {ahead} agents ahead "
                f"in the queue and {attempts} attempts made",
                keys[0],
                attempts,
            )
        each = max(now_us - joined_us, 0) / 1e6 / max(passed, 1)
        yield Pause(pause_for(ahead, each, max(now_us - since_us, 0) / 1e6))
