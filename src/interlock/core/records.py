"""What reading and writing return: records, log entries, snapshots of one moment, commits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

from interlock.core.struct import Json, plain

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    V_co = TypeVar("V_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    V_co = TypeVar("V_co", covariant=True)

_SHOWN = 60  # characters of a value in a repr
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SWEEP = "$expired/"  # what the operation ids of commits begin with that delete expired keys


def as_datetime(time_us: int) -> datetime:
    """Return a time of the store (microseconds since 1970, UTC) as an aware datetime, exactly."""
    return _EPOCH + timedelta(microseconds=time_us)


class Record(NamedTuple, Generic[V_co]):
    """One key as it was at one moment; `Record[T]` where it was read as a type `T`.

    `version` counts the writes of the key and never restarts; it is 0 for a key that was never
    written.  `epoch` is the key's fencing number.  `value` is None when `exists` is False.
    `position` is the place in the space's log of the entry that made this version.  `body` is the
    value's JSON text as it was read, which stays what it was when `value` is changed in place;
    None for a merged key, whose value is a fold.  `expires_us`: when the store's clock will find,
    or has found, that the value has expired (0: it does not expire).  `tag` is what a guard
    compares in place of a version: of data outside a space `version` is 0 where the data does not
    count its writes.  `erased`: this version had a
    value, which was erased; it then does not exist.
    """

    key: str
    value: V_co
    version: int
    epoch: int
    writer: str | None
    time_us: int
    position: int
    exists: bool
    space: str
    body: str | None = None
    expires_us: int = 0
    tag: object = None
    erased: bool = False

    @property
    def at(self) -> datetime | None:
        """When the store wrote this version (store's clock, UTC); None if it was never written."""
        return as_datetime(self.time_us) if self.version else None

    @property
    def expires_at(self) -> datetime | None:
        """When the value expires, or expired (store's clock, UTC); None if it does not."""
        return as_datetime(self.expires_us) if self.expires_us else None

    @property
    def expired(self) -> bool:
        """Whether the key does not exist because its value has expired."""
        return self.expires_us > 0 and not self.exists

    def __bool__(self) -> bool:
        """Whether the key exists.  A missing record is `None`: compare with that."""
        return self.exists

    def __repr__(self) -> str:
        what = _shown(self.value) if self.exists else "does not exist"
        return f"<Record {self.key!r} version {self.version}: {what}>"

    def to_dict(self) -> dict[str, Json]:
        """Return the record as a dict of JSON values; times are ISO 8601."""
        return {
            "key": self.key,
            "value": plain(self.value),
            "version": self.version,
            "epoch": self.epoch,
            "writer": self.writer,
            "at": None if self.at is None else self.at.isoformat(),
            "exists": self.exists,
            **({"expires_at": self.expires_at.isoformat()} if self.expires_at else {}),
            **({"erased": True} if self.erased else {}),
        }


class KeyInfo(NamedTuple):
    """What is known of a key that exists, without its value."""

    key: str
    version: int
    epoch: int
    writer: str
    time_us: int
    position: int

    @property
    def at(self) -> datetime:
        """When the store wrote this version (store's clock, UTC)."""
        return as_datetime(self.time_us)


class Entry(NamedTuple, Generic[V_co]):
    """One line of a space's log: one write of one commit; `Entry[T]` where it was read as `T`.

    `kind` is `put`, `delete` or `append` (`value` is then the
    contribution).  `op_id` is the operation id that the whole commit shares.
    `reads` names what else the commit was computed from: versions by key, scanned prefixes; empty
    for a transaction that read nothing else, None for a single write.  `trace` is the context of
    the writer's span as a W3C `traceparent`, None where it was not traced.  `expires_us`: when the
    value expires (store's clock; 0: it does not).  `erased`: its value was erased, and is None.
    """

    position: int
    key: str
    version: int
    epoch: int
    kind: str
    value: V_co
    agent: str
    time_us: int
    op_id: str
    reads: Mapping[str, Json] | None
    trace: str | None = None
    expires_us: int = 0
    erased: bool = False

    @property
    def at(self) -> datetime:
        """When the store committed it (store's clock, UTC)."""
        return as_datetime(self.time_us)

    @property
    def expired(self) -> bool:
        """Whether it deletes a key whose value had expired: `agent` has trimmed."""
        return self.op_id.startswith(SWEEP)

    def record(self, space: str) -> Record[V_co]:
        """Return the record that it made of its key, which is no merged one."""
        return Record(
            key=self.key,
            value=self.value,
            version=self.version,
            epoch=self.epoch,
            writer=self.agent,
            time_us=self.time_us,
            position=self.position,
            exists=self.kind != "delete" and not self.erased,
            space=space,
            expires_us=self.expires_us,
            erased=self.erased,
        )

    def to_dict(self) -> dict[str, Json]:
        """Return the entry as a dict of JSON values; times are ISO 8601."""
        return {
            "position": self.position,
            "key": self.key,
            "version": self.version,
            "epoch": self.epoch,
            "kind": self.kind,
            "value": plain(self.value),
            "agent": self.agent,
            "at": self.at.isoformat(),
            "op_id": self.op_id,
            "reads": None if self.reads is None else dict(self.reads),
            "trace": self.trace,
            **({"erased": True} if self.erased else {}),
        }


class Tail(NamedTuple):
    """What a merged key's value is folded from, in place of a value: JSON texts.

    `base` is the fold up to some entry, None if there is none; `items` an array of the
    contributions since, `length` of them.  `rules` is the version of the rules at that moment,
    `erasures` the number of steps in which values of the space were erased (None: not known).
    """

    base: str | None
    items: str
    length: int
    rules: int = 0
    erasures: int | None = None


class Leaseholder(NamedTuple):
    """Who holds the lease of a key, at which epoch, and for how many seconds unless renewed."""

    holder: str
    epoch: int
    seconds: float


class Waiter(NamedTuple):
    """Who waits for a key: for its lease, or else for a turn to think (the first one has it).

    `silent`: seconds since its last sign of life.
    """

    agent: str
    for_lease: bool
    silent: float


class Queue(NamedTuple):
    """Who has the lease of a key, None where nobody has, and who waits, first come first served."""

    key: str
    lease: Leaseholder | None
    waiters: tuple[Waiter, ...]


class Written(NamedTuple):
    """One write of a commit: the key's new version and epoch, and its place in the log.

    `expires_us`: when its value expires, 0 where it does not.  `tag` is that of the new record.
    """

    key: str
    kind: str
    version: int
    epoch: int
    position: int
    body: str | None
    expires_us: int = 0
    tag: object = None

    @property
    def erased(self) -> bool:
        """Whether its value was erased."""
        return self.body is None and self.kind != "delete"


class Committed(NamedTuple):
    """The plan was applied.  `replayed`: by an earlier sending of the same operation id."""

    position: int
    time_us: int
    agent: str
    writes: tuple[Written, ...]
    replayed: bool = False


class Snapshot(NamedTuple):
    """Records of one consistent moment, as a backend answers a Load.

    `position` is the log position of that moment (0: empty log), `time_us` the store's time,
    `queued` how many agents wait or think in the queue of each loaded key that has one.
    `leases` are the live leases of the loaded keys.  `applied` is the commit that the asked
    operation id already made, if any.
    """

    position: int
    time_us: int
    records: Mapping[str, Record]
    scans: Mapping[str, tuple[Record, ...]]
    queued: Mapping[str, int]
    applied: Committed | None = None
    leases: Mapping[str, Leaseholder] = {}  # never changed


def _shown(value: object) -> str:
    """Return what a value looks like, in at most 60 characters however large it is."""
    import reprlib  # few who read or write ever show a record

    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 3, 60, 60
    text = brief.repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def absent(key: str, space: str, epoch: int = 0) -> Record:
    """Return the record of a key that was never written."""
    value: Json = None
    return Record(key, value, 0, epoch, None, 0, 0, False, space)
