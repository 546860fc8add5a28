"""The protocols of leases: the exclusive, expiring right to write a key.

Every grant and every reclaim raises the epoch of the key, which each commit is checked against;
expiry only says when somebody else may ask.  Who waits stands in a queue of tickets, as for turns.
"""

from __future__ import annotations

from interlock.core import refusals
from interlock.core.fold import ask
from interlock.core.keys import check_all, check_key
from interlock.core.records import Record
from interlock.core.refusals import QUEUE, Forbidden, Held, Invalid, Refusal
from interlock.core.requests import DropLease, Place, Steps, TakeLease
from interlock.core.rules import not_its_writer
from interlock.core.turn import Turn, giving_up, take_turn
from interlock.core.writer import Writer

LONGEST_TTL = 24 * 3600.0  # seconds; of leases and of members of groups


def take_lease(
    writer: Writer, keys: tuple[str, ...], ttl: float, wait: float | None, op_id: str
) -> Steps[tuple[Record, ...] | Refusal]:
    """Take the leases of `keys` in one step, waiting at most `wait` seconds (None: no limit).

    Returns the records of the keys, whose epochs are the leases', or Held, Deadlock, Fenced,
    Forbidden where the rule of a key leaves writing it to another agent, or Invalid.
    """
    refused = check_all(keys, ()) or _not_theirs(writer, keys)
    return refused or (yield from take_own_lease(writer, keys, ttl, wait, op_id))


def _not_theirs(writer: Writer, keys: tuple[str, ...]) -> Forbidden | None:
    """Return why the rules, as far as they are known here, let another agent write one of them."""
    for key in keys:
        refused = not_its_writer(writer.agent, key, *writer.book.rules.match(key))
        if refused is not None:
            return refused
    return None


def take_own_lease(
    writer: Writer, keys: tuple[str, ...], ttl: float, wait: float | None, op_id: str
) -> Steps[tuple[Record, ...] | Refusal]:
    """The same for keys of the library's own."""
    wrong = check_seconds("ttl", ttl, 0.001, LONGEST_TTL)
    if wrong is None and wait is not None:
        wrong = check_seconds("wait", wait, 0, float("inf"))
    if wrong is not None:
        return wrong
    turn = Turn(op_id, wait)
    try:
        return (yield from giving_up(turn, _take(writer, keys, ttl, turn)))
    except GeneratorExit:
        raise
    except BaseException:
        for key in keys:  # they may have been granted, with the answer on its way
            yield DropLease(key, 0, op_id)
        raise


def _take(
    writer: Writer, keys: tuple[str, ...], ttl: float, turn: Turn
) -> Steps[tuple[Record, ...] | Refusal]:
    asked = TakeLease(
        keys, name=turn.name, agent=writer.agent, incarnation=writer.incarnation, ttl=ttl
    )
    grant = yield from ask(writer, asked)

    def begin(place: Place) -> Steps[tuple[Record, ...] | Refusal | None]:
        nonlocal grant
        grant = yield from ask(writer, asked.replace(ticket=place.ticket))
        if grant.granted:
            return grant.records
        return grant.refusal

    def late(ahead: int) -> Held:
        return refusals.leased_to(grant.key, grant.holder, grant.seconds)

    if grant.granted:
        return grant.records
    if grant.refusal is not None:
        return grant.refusal
    if turn.patience == 0:
        return late(0)
    queues = tuple(QUEUE + key for key in keys)
    return (yield from take_turn(writer, queues, turn, begin, late))


def renew_lease(writer: Writer, key: str, ttl: float, epoch: int) -> Steps[Record | Refusal]:
    """Keep a lease for another `ttl` seconds.  Returns the Record, or Fenced if it was lost."""
    wrong = check_seconds("ttl", ttl, 0.001, LONGEST_TTL)
    if wrong is not None:
        return wrong
    asked = TakeLease(
        (key,), name="", agent=writer.agent, incarnation=writer.incarnation, ttl=ttl, epoch=epoch
    )
    grant = yield from ask(writer, asked)
    if grant.granted:
        return grant.record
    return grant.refusal or refusals.fenced(key, epoch, grant.record.epoch)


def release_lease(key: str, epoch: int) -> Steps[None]:
    """Give up a lease.  Giving up one that was lost does nothing.  Returns None."""
    yield DropLease(key, epoch)


def reclaim_lease(writer: Writer, key: str, op_id: str) -> Steps[Record | Refusal]:
    """Take the lease of `key` away from whoever holds it, and fence whoever read it before.

    Returns the Record at its new epoch.
    """
    return check_key(key) or (yield from reclaim_own_lease(writer, key, op_id))


def reclaim_own_lease(writer: Writer, key: str, op_id: str) -> Steps[Record | Refusal]:
    """The same for a key of the library's own."""
    asked = TakeLease(
        (key,),
        name=op_id,
        agent=writer.agent,
        incarnation=writer.incarnation,
        ttl=0.0,
        reclaim=True,
    )
    grant = yield from ask(writer, asked)
    return grant.refusal or grant.record


def check_seconds(name: str, value: object, least: float, most: float) -> Invalid | None:
    """Return why `value` is not a number of seconds between two limits."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value <= most:  # type: ignore[operator]  # it is a number
        limit = f"from {least:g}" + (f" to {most:g}" if most != float("inf") else "")
        return Invalid(f"{name}={value!r:.40} must be a number of seconds {limit}.")
    return None
