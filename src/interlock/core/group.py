"""Consumer groups: what a store answers about them, and the limits that every store keeps.

The log is dealt out to the consumers of a group.  Every entry that was dealt and is not yet
acknowledged is *pending* with one consumer; all pending entries of one key are with the same one,
so a key's entries are handled in order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Generic, NamedTuple

from interlock.core.records import Entry, V_co, as_datetime

SCANNED = 500  # log positions that one read of a group looks at, at most
MOST_TAKEN = 1000  # entries, at once
LISTED = 1000  # pending entries that a look at a group shows, at most
END = -1  # where a group begins that is about what comes from now on
FORGOTTEN_AFTER = 24 * 3600.0  # seconds after which a dead consumer with nothing pending goes


class Delivery(NamedTuple, Generic[V_co]):
    """An entry handed to a consumer; `deliveries` counts how often it was handed to anybody."""

    entry: Entry[V_co]
    deliveries: int


class Deliveries(NamedTuple):
    """What a consumer was handed, in log order.

    The group has dealt the log up to position `upto`; the log ends at `head`.  `time_us` is the
    store's time and `prefix` the group's; if it is not the one asked for, nothing was done.
    """

    items: tuple[Delivery, ...]
    upto: int
    head: int
    time_us: int
    prefix: str


class GroupConsumer(NamedTuple):
    """One consumer of a group: how many entries are pending with it, and its last sign of life.

    If it is not `alive`, others may claim what is pending with it.
    """

    name: str
    pending: int
    time_us: int
    alive: bool

    @property
    def at(self) -> datetime:
        """When the store last heard of it (store's clock, UTC)."""
        return as_datetime(self.time_us)


class GroupPending(NamedTuple):
    """One entry that is not acknowledged: whose it is, and how often it was delivered (0: not
    yet)."""

    position: int
    key: str
    consumer: str
    deliveries: int


class GroupInfo(NamedTuple):
    """A group as it is: the log is dealt up to position `cursor`, and ends at `head`.

    `pending` lists the first 1,000 entries that are not acknowledged; `consumers` count them all.
    """

    name: str
    prefix: str
    cursor: int
    head: int
    consumers: tuple[GroupConsumer, ...]
    pending: tuple[GroupPending, ...]
