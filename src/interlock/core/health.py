"""What is to be said of the health of spaces, from what a store knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from interlock.core.spaces import Finding

Level = Literal["ok", "note", "wrong"]
HANGS_AFTER = 60.0  # seconds that a lease has expired, or a clock is off by
LARGE = 10_000_000  # entries of a log that nobody trims
SKEW = 1.0  # seconds


class QueueState(NamedTuple):
    """The queue for a key: how many wait, and how many of them are dead."""

    key: str
    waiting: int
    dead: int


class GroupLag(NamedTuple):
    """A consumer group: what it has dealt the log up to, what is pending, and how much of that is
    with consumers that are dead."""

    name: str
    cursor: int
    pending: int
    dead: int


class SpaceState(NamedTuple):
    """One space: `leases` are key, holder and the seconds that are left of them (below 0: that they
    have expired for), `ahead` the seconds that its last entry is ahead of the store's clock."""

    name: str
    entries: int
    position: int
    importing: bool
    ahead: float
    leases: tuple[tuple[str, str, float], ...]
    queues: tuple[QueueState, ...]
    groups: tuple[GroupLag, ...]


def of_spaces(states: Iterable[SpaceState]) -> Iterator[Finding]:
    """Yield what is to be said of spaces."""
    for state in states:
        yield from of_space(state)


def of_space(state: SpaceState) -> Iterator[Finding]:
    """Yield what is to be said of one space."""
    name = f"space {state.name!r}"
    if state.importing:
        yield Finding(
            name,
            "wrong",
            f"an import or copy is not finished (position {state.position})",
            f"Run the same import or copy again, or: interlock spaces drop {state.name}",
        )
    if state.ahead > SKEW:
        yield Finding(
            name,
            "wrong",
            f"the last commit is {state.ahead:.0f} s ahead of the store's clock",
            "The clock has stepped back: leases and queues wait until it has caught up. Run NTP.",
        )
    for key, holder, left in state.leases:
        if left < -HANGS_AFTER:
            yield Finding(
                name,
                "wrong",
                f"the lease of {key!r} expired {-left:.0f} s ago and {holder!r} did not give it up",
                f"Its holder has died. The next one who asks gets it; to fence the holder now: "
                f"interlock reclaim {key}",
            )
    for queue in state.queues:
        if queue.dead:
            yield Finding(
                name,
                "note",
                f"{queue.dead} of {queue.waiting} in the queue for {queue.key!r} are dead",
                "Nothing to do: they are skipped.",
            )
    for group in state.groups:
        if group.dead:
            yield Finding(
                name,
                "wrong",
                f"group {group.name!r} has {group.dead} entries pending with dead consumers",
                "Start a consumer, or forget the group: interlock groups drop " + group.name,
            )
    if state.entries > LARGE:
        yield Finding(
            name,
            "note",
            f"the log keeps {state.entries:,} entries",
            "Trim it if its history is not needed: interlock trim",
        )
    live = sum(left > 0 for *_, left in state.leases)
    waiting = sum(queue.waiting - queue.dead for queue in state.queues)
    found = (
        f"{state.entries} entries up to position {state.position}, {live} leases, "
        f"{waiting} waiting in {len(state.queues)} queues, {len(state.groups)} groups"
    )
    yield Finding(name, "ok", found)


def of_skew(seconds: float) -> Finding:
    """Return what is to be said of a server's clock, so many seconds ahead of this host's."""
    found = f"{abs(seconds):.3f} s {'ahead of' if seconds > 0 else 'behind'} this host's"
    if abs(seconds) <= SKEW:
        return Finding("clock", "ok", found)
    return Finding(
        "clock",
        "wrong",
        found,
        "Commits stay safe, but times of leases and of the log are the server's. Run NTP on both.",
    )


def bytes_of(size: int) -> str:
    """Return a number of bytes for people."""
    value = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
