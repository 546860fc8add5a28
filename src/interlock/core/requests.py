"""The requests that protocols yield.  A backend answers them, but `Think` is the driver's: it runs
the caller's function.  The driver also answers a `Pause` while others of this process wait ahead.

Every request is safe to send twice: after a lost answer the driver resubmits it as it is.

A request names the type of its answer, `Request[Snapshot]`, and a protocol the type of what it
returns, `Steps[Record]`:

    def latest(key: str) -> Steps[Record]:
        snapshot = yield from Load((key,))  # a Snapshot, for the type checker, too
        return snapshot.records[key]
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NamedTuple, TypeVar

from interlock.core.conflict_report import RefusalNote
from interlock.core.group import Deliveries, GroupInfo
from interlock.core.plan import Plan
from interlock.core.records import Entry, KeyInfo, Record, Snapshot, Waiter
from interlock.core.refusals import Outcome, Pruned, Refusal, Wait
from interlock.core.struct import Struct

PROJECTIONS = "$projection/"  # what the names begin with that projections are kept under
NEAR = 16  # tickets ahead up to which a backend counts exactly
RENEWALS_PER_TTL = 3  # how often a ticket, a lease or a place in a group is renewed in its ttl
LOOKED_AT = 1000  # tickets ahead up to which a backend may count at all
A_co = TypeVar("A_co", covariant=True)
T = TypeVar("T")


class Request(Struct, Generic[A_co]):
    """Something that is answered by an `A_co`."""

    def __iter__(self) -> Generator[Request[object], Any, A_co]:
        """The shortest protocol: `yield from` a request returns its answer."""
        answer: A_co = yield self
        return answer


Steps = Generator[Request[object], Any, T]


class Load(Request[Snapshot]):
    """A consistent set of records and scanned prefixes.  Answered by a `Snapshot`.

    `op_id`, if given, also asks whether that operation was already applied.
    """

    keys: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    op_id: str | None = None


class ListKeys(Request[tuple[KeyInfo, ...]]):
    """At most `limit` existing keys that begin with `prefix` and come after `after` ("": any), in
    order, without their values.  Answered by a tuple of `KeyInfo`.

    `deleted`: those that do not exist any more, too.
    """

    prefix: str
    after: str
    limit: int
    deleted: bool = False


class ListWaiters(Request[tuple[Waiter, ...]]):
    """At most `limit` live tickets in the queue of a key and in that of its lease, in their order.
    Answered by a tuple of `Waiter`."""

    key: str
    limit: int


class ListExpired(Request[tuple[KeyInfo, ...]]):
    """At most `limit` keys whose values have expired and that nobody has the lease of, those that
    expired first before the others.  Answered by a tuple of `KeyInfo`."""

    limit: int


class LoadAt(Request[Snapshot | Pruned]):
    """The same, as of log position `position`, or as of the store's time `time_us`.

    Answered by a `Snapshot`, or by `Pruned`.
    """

    position: int | None
    time_us: int | None
    keys: tuple[str, ...]
    prefixes: tuple[str, ...] = ()


class Commit(Request[Outcome]):
    """One plan.  Answered by an `Outcome`."""

    plan: Plan


class ReadLog(Request["LogPage | Pruned"]):
    """At most `limit` entries after position `after`, of one key or of a prefix, oldest first.

    `after` -1: from the oldest that is kept.  Answered by a `LogPage`, or by `Pruned`.  A page ends
    early, but not before its first entry, once its values reach `PAGE_BYTES`, or where `PAGE_SPAN`
    entries were looked at for a prefix.
    """

    after: int
    limit: int
    prefix: str = ""
    key: str | None = None


PAGE_SPAN = 20_000  # functions.sql has it, too
PAGE_BYTES = 4 << 20  # of the values of a LogPage, beside the last; functions.sql has it, too


class LogPage(NamedTuple):
    """Entries in commit order; `upto` is the position that the page is complete up to.

    The log has no more if `upto` is not below `head`; that the page is short says nothing.
    `erasures`: the number of steps in which values of the space were erased.
    """

    entries: list[Entry]
    upto: int
    head: int
    erasures: int = 0


class ReadValues(Request["ValuePage | Pruned"]):
    """The values alone of at most `limit` entries of a key after position `after`, oldest first.

    What is `after` and where a page ends is as with ReadLog.  Answered by a `ValuePage`, or by
    `Pruned`.
    """

    after: int
    limit: int
    key: str

    prefix = ""


class ValuePage(NamedTuple):
    """The values of entries as JSON texts, one a line, without those that have none; the rest is
    as in a LogPage."""

    lines: str
    upto: int
    head: int
    erasures: int = 0


class TakeTurn(Request["Place"]):
    """Join the queues of `keys` (`ticket` 0), or renew `ticket` and ask for its place.

    `name` makes joining safe to send twice.  `ttl` is in seconds.  `firm` asks that every
    other writer waits while this ticket is first.  `holding` names the leases and turns that the
    asker's call chain has while it waits; the driver fills it in.  Answered by a `Place`.
    `most` is the driver's: seconds that who joins may wait before the store is asked (None: no
    limit), because enough others of its process stand in the queue; `OutOfTime` is raised then.
    """

    keys: tuple[str, ...]
    name: str
    agent: str
    ttl: float
    ticket: int = 0
    firm: bool = False
    holding: tuple[str, ...] = ()
    most: float | None = None


class OutOfTime(Exception):
    """The driver's answer to who waited for `most` seconds, `ahead` of it others of its process."""

    def __init__(self, ahead: int) -> None:
        super().__init__(ahead)
        self.ahead = ahead


class Place(NamedTuple):
    """A place in the queue: `ahead` live tickets come first.  `ticket` 0: it expired; join again.

    `ahead` is exact up to `NEAR`, beyond that an estimate.  `snapshot` holds the records of the
    keys as soon as nobody is ahead.  `cycle` is not empty if the asker waits for itself, through
    others who joined before: they go on waiting, and the asker is to be refused.  `waited` is the
    driver's: seconds in which the store was not asked yet.
    """

    ticket: int
    ahead: int
    snapshot: Snapshot
    cycle: tuple[Wait, ...] = ()
    waited: float = 0.0


class LeaveTurn(Request[None]):
    """Give up a ticket, or (`ticket` 0) the one that was joined as `name`.  Answered by None."""

    ticket: int
    name: str = ""


class Enter(Request["Entered"]):
    """Come into a space as `agent`; `exclusive` raises the incarnation of the name, once for each
    `name`.

    Answered by an `Entered`.
    """

    agent: str
    exclusive: bool
    name: str


class Entered(NamedTuple):
    """The incarnation of the agent's name, and the record of the rules in force."""

    incarnation: int
    rules: Record


class TakeLease(Request["Grant"]):
    """Take the leases of `keys` for `ttl` seconds, all or none, or renew one (`epoch` above 0), or
    take one away from whoever holds it (`reclaim`).

    `name` makes taking safe to send twice.  They are granted if nobody holds any of them and
    nobody waits for any before `ticket`, and the epoch of each key is raised.  Answered by a
    `Grant`.
    """

    keys: tuple[str, ...]
    name: str
    agent: str
    incarnation: int
    ttl: float
    epoch: int = 0
    ticket: int = 0
    reclaim: bool = False


class Grant(NamedTuple):
    """`granted` says whether the leases are the asker's now, at the epochs of `records`, which are
    in the order of the keys.

    Otherwise `holder` has that of `key` for `seconds` (0: waits for it before the asker), or it was
    lost.  `refusal` is set if the asker was replaced.
    """

    granted: bool
    records: tuple[Record, ...]
    holder: str = ""
    seconds: float = 0.0
    refusal: Refusal | None = None
    key: str = ""

    @property
    def record(self) -> Record:
        """The record of the only key."""
        return self.records[0]


class DropLease(Request[None]):
    """Give up the lease of `key` held at `epoch`, or (`epoch` 0) the one that was taken as `name`.

    Answered by None.
    """

    key: str
    epoch: int
    name: str = ""


class SaveFold(Request[None]):
    """Keep the fold of a merged key as of log `position`: a cache.  Answered by None.

    Nothing is kept if the rules are not at version `rules` any more, or if values were erased
    since the space had seen `erasures` such steps.
    """

    key: str
    position: int
    body: str
    rules: int
    erasures: int = 0


class Trim(Request["Floor"]):
    """Cut the log up to position `upto`, the end of a commit, if no consumer group and no kept
    projection needs what is cut.

    `folds` holds, for each merged key that was appended to last in what is cut, its fold at `upto`
    as JSON.  What every key was at `upto` is kept, so that any moment from there on can be read.
    Answered by a `Floor`; with `upto` 0 nothing is cut, nor where values were erased since the
    space had seen `erasures` such steps.
    """

    upto: int
    folds: tuple[tuple[str, str], ...]
    erasures: int = 0


class Floor(NamedTuple):
    """The log is cut up to `position`, of which this request has cut `cut` entries.  `by` still
    needs the entry at `needed` (None: nobody does) and those after it: a group, or a projection,
    whose name begins with `PROJECTIONS`.  `erasures`: steps in which values were erased."""

    position: int
    needed: int | None = None
    by: str = ""
    cut: int = 0
    erasures: int = 0


class SaveProjection(Request[None]):
    """Keep a projection as of log position `position`, never over a later one.  Answered by None.

    It is kept beside the log, without an entry or a version, and may be lost.  Nothing is kept
    if the log is cut beyond `position` or ends before it, or if values were erased since the space
    had seen `erasures` such steps (None: the value is made of no entry); as long as it is kept,
    Trim cuts nothing after it.
    """

    name: str
    position: int
    body: str
    erasures: int | None = 0


class LoadProjection(Request["Kept | None"]):
    """Ask what is kept of a projection.  Answered by a `Kept`, or None."""

    name: str


class Kept(NamedTuple):
    """A projection as of log position `position`, as it was saved, when the space had seen
    `erasures` steps in which values were erased."""

    position: int
    body: str
    erasures: int = 0


class DropProjection(Request[None]):
    """Forget what is kept of a projection.  Answered by None."""

    name: str


class Redact(Request["Redacted"]):
    """Take away the values of the entries at `positions`, of the keys `keys`, in one atomic step.

    Their rows stay; what is kept of projections that include any of them goes, too.  `bases`: key,
    position and new value (JSON, None: none) of what a key was where the log is cut.  `folds`: the
    merged keys among them, whose folds begin anew, without what was taken away; their epochs are
    raised, so that nothing is committed that was computed from the fold before.  Done before, it
    changes no value.  Answered by a `Redacted`.
    """

    keys: tuple[str, ...]
    positions: tuple[int, ...]
    bases: tuple[tuple[str, int, str | None], ...] = ()
    folds: tuple[str, ...] = ()


class Redacted(NamedTuple):
    """How many values of entries and stored folds a Redact took away, and which projections."""

    entries: int = 0
    folds: int = 0
    projections: tuple[str, ...] = ()


class Scrub(Request["Scrubbed"]):
    """Have the store's own files forget what Redact took away, one step of it.

    `vacuum`: have the server rewrite its files, too, which may hold others up.  Answered by a
    `Scrubbed`; to be sent again until nothing is left.
    """

    vacuum: bool = False


class Scrubbed(NamedTuple):
    """`left`: how much is left to do, 0 when all is done.  `done` says what was done, `remains`
    where values may still be that the store cannot reach: sentences."""

    left: int
    done: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()


class Noted(Request[None]):
    """Keep a refusal that was decided without asking the store.  Answered by None."""

    refusal: Refusal
    agent: str


class ReadRefusals(Request[list[RefusalNote]]):
    """The last refusals, at most `limit`, newest first.  Answered by a list of `RefusalNote`."""

    limit: int


class ReadGroup(Request[Deliveries | Pruned]):
    """Take at most `limit` entries for `consumer` of a group.  Answered by `Deliveries`.

    `start` and `prefix` make the group if there is none: which keys it is about, and the
    position that it reads after (0: before the oldest that is kept, `group.END`: the end of the
    log); `Pruned` if what follows was cut.  `ttl`: seconds without a sign of life (this request,
    or an AckGroup) after which others may claim what is pending with the consumer.  `resume`
    delivers again what it was given before and has not acknowledged.
    An answer ends early once its values reach `PAGE_BYTES`.
    `name` makes it safe to send twice: the same name gets the same entries.  With `limit` 0 it is
    a sign of life and nothing else.
    """

    group: str
    consumer: str
    prefix: str
    ttl: float
    start: int = 0
    limit: int = 0
    resume: bool = False
    name: str = ""


class AckGroup(Request[int]):
    """Entries are done.  Answered by how many of `positions` were this consumer's and are done.

    `deliveries` says of each which delivery it was that is done: an entry that was delivered again
    since is being handled again, and remains pending.
    """

    group: str
    consumer: str
    positions: tuple[int, ...]
    deliveries: tuple[int, ...]


class GroupState(Request[GroupInfo | None]):
    """Look at a group.  Answered by a `GroupInfo`, None if there is no such group."""

    group: str


class ListGroups(Request[tuple[str, ...]]):
    """Answered by the names of the space's groups, in order, as a tuple."""


class DropGroup(Request[None]):
    """Forget a group, with all that is pending in it.  Answered by None."""

    group: str


class Pause(Request[None]):
    """Wait `seconds`, or less if `position` is given and the log grows past it first.

    If others of the same process wait in the queue before `ticket`, up to `most` seconds, or
    until they have all gone; that is the driver's.
    """

    seconds: float
    position: int | None = None
    ticket: int = 0
    most: float = 0.0


class Think(Request[object]):
    """Run the caller's function.  `renew` is kept alive meanwhile, so that the turn is not lost;
    its name is that of the turn, which the function holds."""

    fn: Callable[..., Any]
    args: tuple[object, ...]
    renew: TakeTurn | None = None
