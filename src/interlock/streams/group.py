"""The protocols of consumer groups, each written once as a generator that yields requests."""

from __future__ import annotations

from dataclasses import dataclass

from interlock.core.group import END, MOST_TAKEN, Deliveries, Delivery, GroupInfo
from interlock.core.keys import check_name, check_prefix
from interlock.core.lease import LONGEST_TTL, check_seconds
from interlock.core.read import check_position
from interlock.core.refusals import Invalid, Pruned
from interlock.core.requests import (
    RENEWALS_PER_TTL,
    AckGroup,
    DropGroup,
    GroupState,
    ListGroups,
    Pause,
    ReadGroup,
    Steps,
)

_LONGEST_PAUSE = 1.0  # seconds
_STARTS = {"beginning": 0, "now": END}


@dataclass(frozen=True)
class Membership:
    """One consumer's place in one group, as it asks for entries."""

    group: str
    consumer: str
    prefix: str
    start: int
    ttl: float


def membership(
    group: str, consumer: str, prefix: str, start: object, ttl: float
) -> Membership | Invalid:
    """Return the place of a consumer in a group, or what is malformed."""
    wrong = (
        check_name("group", group)
        or check_name("consumer", consumer)
        or check_prefix(prefix)
        or check_seconds("ttl", ttl, 0.001, LONGEST_TTL)
    )
    if wrong is not None:
        return wrong
    if isinstance(start, str):
        if start not in _STARTS:
            return Invalid(f"start={start!r} must be 'beginning', 'now' or a position of the log.")
        return Membership(group, consumer, prefix, _STARTS[start], ttl)
    wrong = check_position("start", start)
    if wrong is not None:
        return wrong
    assert isinstance(start, int)
    return Membership(group, consumer, prefix, start, ttl)


def take(
    member: Membership, limit: int, wait: float | None, resume: bool, op_id: str
) -> Steps[Deliveries | Invalid | Pruned]:
    """Take at most `limit` entries, waiting for the first at most `wait` seconds (None: without
    limit).  Returns Deliveries, Invalid or Pruned."""
    wrong = _check_limit(limit)
    if wrong is None and wait is not None:
        wrong = check_seconds("wait", wait, 0, float("inf"))
    if wrong is not None:
        return wrong
    asked = ReadGroup(
        member.group,
        consumer=member.consumer,
        prefix=member.prefix,
        start=member.start,
        limit=limit,
        ttl=member.ttl,
        resume=resume,
    )
    start_us = count = 0
    while True:
        answer = yield from asked.replace(name=f"{op_id}/{count}")
        if isinstance(answer, Pruned):
            return answer
        if answer.prefix != member.prefix:
            return _other_prefix(member, answer.prefix)
        if answer.items:
            return answer
        asked, count = asked.replace(resume=False), count + 1
        if answer.upto < answer.head:
            continue
        start_us = start_us or answer.time_us
        waited = max(answer.time_us - start_us, 0) / 1e6
        if wait is not None and waited >= wait:
            return answer
        pause = min(_LONGEST_PAUSE, member.ttl / RENEWALS_PER_TTL)
        yield Pause(pause if wait is None else min(pause, wait - waited), answer.head)


def acknowledge(member: Membership, deliveries: tuple[object, ...]) -> Steps[int | Invalid]:
    """Say that entries are done.  Returns how many of them were this consumer's, or Invalid."""
    positions, counts = [], []
    for delivery in deliveries:
        if not isinstance(delivery, Delivery):
            return Invalid(
                f"{delivery!r:.60} is not a Delivery. Acknowledge what take() or the loop gave."
            )
        positions.append(delivery.entry.position)
        counts.append(delivery.deliveries)
    if not positions:
        return 0
    return (
        yield from AckGroup(
            member.group,
            consumer=member.consumer,
            positions=tuple(positions),
            deliveries=tuple(counts),
        )
    )


def renew(member: Membership, ttl: float) -> Steps[None]:
    """Give a sign of life; with `ttl` 0 let others have what is pending.  Returns None."""
    yield ReadGroup(
        member.group,
        consumer=member.consumer,
        prefix=member.prefix,
        ttl=ttl,
    )


def state(group: str) -> Steps[GroupInfo | Invalid]:
    """Look at a group.  Returns a GroupInfo, or Invalid where there is none."""
    wrong = check_name("group", group)
    if wrong is not None:
        return wrong
    info = yield from GroupState(group)
    return info if info is not None else (yield from _missing(group))


def drop(group: str) -> Steps[Invalid | None]:
    """Forget a group.  Returns None, or Invalid where there is none."""
    wrong = check_name("group", group)
    if wrong is not None:
        return wrong
    if (yield from GroupState(group)) is None:
        return (yield from _missing(group))
    yield DropGroup(group)
    return None


def names() -> Steps[tuple[str, ...]]:
    """Return the names of the space's groups."""
    return (yield from ListGroups())


def _missing(group: str) -> Steps[Invalid]:
    names = yield from ListGroups()
    there = f"the space has {', '.join(map(repr, names))}" if names else "the space has none"
    return Invalid(f"There is no group {group!r} ({there}). Reading a group creates it.")


def _check_limit(limit: object) -> Invalid | None:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_TAKEN:
        return Invalid(f"limit={limit!r:.40} must be a whole number from 1 to {MOST_TAKEN}.")
    return None


def _other_prefix(member: Membership, prefix: str) -> Invalid:
    return Invalid(
        f"Group {member.group!r} reads keys under {prefix!r}, not {member.prefix!r}. "
        f"Open it with prefix={prefix!r}, or give the new group another name."
    )
