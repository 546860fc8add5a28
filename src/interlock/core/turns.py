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
from interlock.core.outcome import Contended
from interlock.core.requests import LeaveTurn, Pause, Place, TakeTurn

TICKET_TTL = 6.0  # seconds that a dead agent can hold the others up
_SHARE_OF_WAIT = 0.03  # asking this often costs the hand-over at most this share of a turn
_SHORTEST, _LONGEST = 0.001, 0.25  # seconds


class Limits(NamedTuple):
    """How long an update may go on: thoughts, and seconds in all (None: no limit)."""

    attempts: int
    patience: float | None
    turns: str


def pause_for(ahead: int, waited: float) -> float:
    """Return seconds until the next question: a share of the wait so far, longer far back."""
    return min(max(_SHORTEST * ahead, waited * _SHARE_OF_WAIT * ahead), _LONGEST)


def take_turn(
    writer: Writer, keys: tuple[str, ...], name: str, limits: Limits, start_us: int, attempts: int
) -> Generator[Any, Any, Place | Contended]:
    """Protocol: join the queues of `keys` and wait until nobody is ahead."""
    ticket, ahead, since_us = 0, -1, 0
    while True:
        request = TakeTurn(keys, name, writer.agent, TICKET_TTL, ticket)
        place: Place = yield request
        if place.ticket and place.ahead == 0:
            return place
        ticket = place.ticket
        now_us = place.snapshot.time_us
        if not ticket:
            continue  # the ticket had expired: join again, at the end
        if place.ahead != ahead:
            ahead, since_us = place.ahead, now_us
        if limits.patience is not None and now_us - start_us >= limits.patience * 1e6:
            yield LeaveTurn(ticket)
            return Contended(
                f"gave up {keys[0]!r} after {limits.patience} s of patience with {ahead} agents "
                f"ahead and {attempts} attempts made",
                keys[0],
                attempts,
            )
        waited = max(now_us - since_us, 0) / 1e6
        yield Pause(pause_for(ahead, waited))
