"""A space on its way from one store to another: its requests, and how it is read and written.

What travels is the log as it is (positions, versions, epochs, times, operation ids), and what the
log does not say: the `Parts`.  Where the log was trimmed, or is left behind (`heads_only`), each
key's state at the cut travels as a *base* row instead.

Reading is of one moment, though others go on writing: `Dump` names a position, and the entries up
to there never change.  A trim in between is noticed by the cut that each page tells.

Writing is fenced: only a space that was opened for an import takes a `Restore`, nobody else can
open it, and a batch is taken only where the log has come exactly so far.  So the end of the log is
the mark of how far an import got, and whoever begins again asks for it and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from interlock.core import read
from interlock.core.keys import encode
from interlock.core.plan import APPEND, DELETE
from interlock.core.records import Entry
from interlock.core.refusals import Invalid, Pruned, Refusal
from interlock.core.requests import ReadLog, Request, Steps
from interlock.core.struct import Json
from interlock.core.writer import Writer

FOLD = "fold"  # the kind of a base row that holds the fold of a merged key
BASE_PAGE = 500  # rows
LOG_PAGE = 1000  # entries
_NO_LIMIT = 1 << 60  # bytes of a value: it was within the limit when it was written
_TRIMMED = "The log was trimmed meanwhile, so the space is not that of one moment. Start again."


class Importing(NamedTuple):
    """What a space is opened for: `source` tells one import from others; `floor` is the position up
    to which the log of a space is cut that is made for it."""

    source: str
    floor: int


class Pending(NamedTuple):
    """An entry that a group has dealt to a consumer and that is not acknowledged."""

    group: str
    position: int
    key: str
    consumer: str
    deliveries: int


class GroupAt(NamedTuple):
    """A consumer group: which keys it is about, and what it has dealt the log up to."""

    group: str
    prefix: str
    cursor: int


class Parts(NamedTuple):
    """What a space holds beside its log.

    `epochs`: keys whose epoch is above that of their last entry; those of leased keys are raised
    by one, as a reclaim raises them, because leases do not travel: their holders are fenced.
    `agents`: the incarnations.  `projections`: name, position, JSON text.
    """

    epochs: tuple[tuple[str, int], ...] = ()
    agents: tuple[tuple[str, int], ...] = ()
    groups: tuple[GroupAt, ...] = ()
    pending: tuple[Pending, ...] = ()
    projections: tuple[tuple[str, int, str], ...] = ()

    def ordered(self) -> Parts:
        """Return the same in one order, whatever store they come from."""
        return Parts(
            tuple(sorted(self.epochs)),
            tuple(sorted(self.agents)),
            tuple(sorted(self.groups)),
            tuple(sorted(self.pending)),
            tuple(sorted(self.projections)),
        )

    def after(self, floor: int) -> Parts:
        """Return what of them is about the log after a position."""
        groups = (g._replace(cursor=max(g.cursor, floor)) for g in self.groups)
        return self._replace(
            groups=tuple(groups),
            pending=tuple(each for each in self.pending if each.position > floor),
            projections=tuple(each for each in self.projections if each[1] >= floor),
        )


class Dumped(NamedTuple):
    """A moment of a space: the end of its log, where the log is cut, and its parts."""

    position: int
    floor: int
    parts: Parts


class Dump(Request[Dumped]):
    """Answered by the `Dumped` of now, all of it of one moment."""


class Row(NamedTuple):
    """One row of a log as it is written: an entry, or a base row (`op_id` "" then, and `kind` may
    be FOLD).  `body` and `reads` are JSON texts; `reads` is an object, or an array of the trace and
    that (or null)."""

    position: int
    key: str
    version: int
    epoch: int
    kind: str
    body: str | None
    agent: str
    time_us: int
    op_id: str = ""
    reads: str | None = None
    expires_us: int = 0


class ReadBase(Request["BasePage"]):
    """At most `limit` keys after `after` ("": any), in order, each with its last entry up to
    `position`, which is not below where the log is cut; deleted ones, too.

    A merged key has the kind `append` and no body, unless the row is a FOLD.
    """

    after: str
    limit: int
    position: int


class BasePage(NamedTuple):
    """Base rows, and where the log is cut."""

    rows: tuple[Row, ...]
    floor: int


class Mark(Request["Marked"]):
    """Answered by how far a space is, that is being imported."""


class Marked(NamedTuple):
    """Where the log of a space ends, and where it is cut.

    Base rows are not counted: as long as `position` is `floor`, some may be missing.
    """

    position: int
    floor: int


class Restore(Request[int]):
    """Write `base` rows, or `rows` after `position`, into a space that is being imported.

    All or none.  Rows are taken where the log ends at `position`, each at the next position and the
    next version of its key, and base rows while there are no others.  Sending it twice is harmless.
    Answered by the position where the log ends then.
    """

    position: int
    base: tuple[Row, ...] = ()
    rows: tuple[Row, ...] = ()


class Finish(Request[bool]):
    """Write the parts of a space that is being imported up to `position`, and let others open it.

    Answered by whether it is finished: its log ends there.
    """

    position: int
    parts: Parts


class Copied(NamedTuple):
    """What an import or a copy brought into a space.

    The log ends at `position`, and `entries` were written by this call: fewer than there are where
    it went on with what was begun before.
    """

    space: str
    position: int
    entries: int


def moment(heads_only: bool) -> Steps[Dumped]:
    """Protocol: return what to copy."""
    found = yield from Dump()
    floor = found.position if heads_only else found.floor
    return Dumped(found.position, floor, found.parts.after(floor).ordered())


def base_page(writer: Writer, after: str, floor: int) -> Steps[tuple[Row, ...] | Refusal]:
    """Protocol: return the next base rows as of `floor`, folded; none where there are no more."""
    if not floor:
        return ()
    page = yield from ReadBase(after=after, limit=BASE_PAGE, position=floor)
    if page.floor > floor:
        return Invalid(_TRIMMED)
    merged = tuple(row.key for row in page.rows if row.kind == APPEND)
    values: dict[str, Json] = {}
    if merged:
        snapshot = yield from read.load_at(writer, floor, None, merged)
        if isinstance(snapshot, Refusal):
            return snapshot
        values = {key: record.value for key, record in snapshot.records.items()}
    return tuple(
        row._replace(kind=FOLD, body=text_of(values[row.key])) if row.key in values else row
        for row in page.rows
    )


def log_page(after: int, upto: int) -> Steps[list[Entry] | Refusal]:
    """Protocol: return the next entries after a position, none where `upto` is reached."""
    if after >= upto:
        return []
    page = yield from ReadLog(after=after, limit=min(LOG_PAGE, upto - after))
    if isinstance(page, Pruned):
        return Invalid(_TRIMMED)
    return page.entries


def rows_of(entries: Sequence[Entry]) -> tuple[Row, ...]:
    """Return entries as they are written."""
    return tuple(
        Row(
            *entry[:5],
            None if entry.kind == DELETE or entry.erased else text_of(entry.value),
            *entry[6:9],
            _reads_text(entry),
            entry.expires_us,
        )
        for entry in entries
    )


def _reads_text(entry: Entry) -> str | None:
    """Return what an entry was computed from as stores keep it, with its trace if it has one."""
    if entry.trace is not None:
        return text_of([entry.trace, entry.reads])
    return None if entry.reads is None else text_of(entry.reads)


def restored(position: int, base: tuple[Row, ...], rows: tuple[Row, ...]) -> Steps[int | Invalid]:
    """Protocol: write rows, and return where the log ends then."""
    end = yield from Restore(position=position, base=base, rows=rows)
    wanted = rows[-1].position if rows else position
    if end == wanted:
        return end
    return Invalid(
        f"The rows up to position {wanted} don't follow what is there: the log ends at {end}, or a "
        "version does not follow. Somebody else may be importing into the same space."
    )


def text_of(value: Json) -> str:
    """Return the JSON text of a value that was read."""
    text = encode(value, _NO_LIMIT)
    if isinstance(text, Invalid):
        raise ValueError(text.message)
    return text
