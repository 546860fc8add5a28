"""An export: a space as lines of JSON, the same lines whatever store it comes from.

    header   {"interlock": "export", "version": 1, "space": ..., "digest": "sha256", ...}
    body     {"space": {"position": ..., "floor": ...}}        where the log ends, and is cut
             {"base": {...}}                                   a key as it was at the cut, by key
             {"entry": {...}}                                  the log, in order
             {"epoch": ...} {"agent": ...} {"group": ...} {"pending": ...} {"projection": ...}
    trailer  {"end": {"lines": ..., "digest": ...}}            of the body

Lines are printable ASCII.  Values are encoded anew, so the digest tells whether two spaces hold the
same, not how a store wrote it down.  It is about the body alone: the header names the space and the
time of the export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from interlock.core.keys import MAX_KEY_BYTES
from interlock.core.plan import APPEND, DELETE, PUT
from interlock.core.refusals import Invalid
from interlock.core.struct import Json
from interlock.core.transfer import FOLD, Dumped, GroupAt, Parts, Pending, Row, text_of

FORMAT = 1
ALGORITHM = "sha256"
MOST_LINES = 1000  # rows of one Restore
MOST_BYTES = 4 << 20
MOST_TEXT = 1000  # bytes of a name
_LARGEST = 2**63

_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def _encode(told: Mapping[str, Json]) -> str:
    """Return a line: printable ASCII, so that no terminal, pipe or editor changes it."""
    return _encoder.encode(told).replace("\x7f", "\\u007f")


class Header(NamedTuple):
    """What an export says about itself: the space that it is of, and how long its log is."""

    space: str
    position: int
    floor: int
    heads_only: bool


def header_line(header: Header, exported_at: str) -> str:
    """Return the first line of an export."""
    return _encode(
        {
            "interlock": "export",
            "version": FORMAT,
            "space": header.space,
            "digest": ALGORITHM,
            "position": header.position,
            "floor": header.floor,
            "heads_only": header.heads_only,
            "exported_at": exported_at,
        }
    )


def trailer_line(lines: int, digest: str) -> str:
    """Return the last line of an export."""
    return _encode({"end": {"lines": lines, "digest": digest}})


def space_line(found: Dumped) -> str:
    """Return the first line of the body."""
    return _encode({"space": {"position": found.position, "floor": found.floor}})


def row_line(row: Row) -> str:
    """Return the line of an entry, or of a base row."""
    name = "entry" if row.op_id else "base"
    told = {
        "position": row.position,
        "key": row.key,
        "version": row.version,
        "epoch": row.epoch,
        "kind": row.kind,
        "value": None if row.body is None else json.loads(row.body),
        "agent": row.agent,
        "time_us": row.time_us,
    }
    if row.expires_us:
        told["expires_us"] = row.expires_us
    if name == "entry":
        told["op_id"] = row.op_id
        told["reads"] = None if row.reads is None else json.loads(row.reads)
    if row.body is None and row.kind != DELETE:
        told["erased"] = True
    return _encode({name: told})


def parts_lines(parts: Parts) -> Iterable[str]:
    """Return the lines of what stands beside the log."""
    for key, epoch in parts.epochs:
        yield _encode({"epoch": {"key": key, "epoch": epoch}})
    for agent, incarnation in parts.agents:
        yield _encode({"agent": {"agent": agent, "incarnation": incarnation}})
    for group in parts.groups:
        yield _encode({"group": group._asdict()})
    for pending in parts.pending:
        yield _encode({"pending": pending._asdict()})
    for name, position, body in parts.projections:
        told = {"name": name, "position": position, "value": json.loads(body)}
        yield _encode({"projection": told})


class Malformed(Exception):
    """A line that is not one of an export; says why."""


def read_header(line: str) -> Header | Invalid:
    """Return what the first line says, or Invalid."""
    try:
        told = _parsed(line)
        if told.get("interlock") != "export":
            return Invalid("This is not an export of Interlock: its first line is another one.")
        if told.get("version") != FORMAT or told.get("digest") != ALGORITHM:
            return Invalid(
                f"The export has format {told.get('version')!r:.20} and digest "
                f"{told.get('digest')!r:.20}. This Interlock reads format {FORMAT} with "
                f"{ALGORITHM}: upgrade it with `pip install -U interlock`."
            )
        position = _number(told, "position")
        floor = _number(told, "floor")
        if floor > position:
            raise Malformed("its log ends before it begins")
        name = _text(told, "space", MOST_TEXT)
        return Header(name, position, floor, told.get("heads_only") is True)
    except Malformed as problem:
        return Invalid(f"Line 1 of the export is malformed: {problem}.")


class Body:
    """The body of an export as it is read, line after line.

    `base` and `rows` are what was read and not taken yet; `parts` is complete at the trailer.
    """

    def __init__(self) -> None:
        self.base: list[Row] = []
        self.rows: list[Row] = []
        self.size = 0
        self.lines = 0
        self.end: tuple[int, str] | None = None
        self._space: tuple[int, int] | None = None
        self._parts: list[list[Any]] = [[] for _ in Parts()]

    @property
    def parts(self) -> Parts:
        """What stands beside the log."""
        return Parts(*map(tuple, self._parts))

    @property
    def is_full(self) -> bool:
        """Whether what was read is enough for one request."""
        return len(self.base) + len(self.rows) >= MOST_LINES or self.size >= MOST_BYTES

    def take(self) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """Return the base rows and the entries that were read, and begin anew."""
        found = tuple(self.base), tuple(self.rows)
        self.base, self.rows, self.size = [], [], 0
        return found

    def read(self, line: str) -> bool | Invalid:
        """Read a line.  Returns whether it is of the body, False at the trailer, or Invalid."""
        number = self.lines + 2
        try:
            told = _parsed(line)
            if len(told) != 1:
                raise Malformed("it is not an object of one field")
            ((name, fields),) = told.items()
            if not isinstance(fields, dict):
                raise Malformed(f"{name!r:.40} is not an object")
            if name == "end":
                self.end = _number(fields, "lines"), _text(fields, "digest", MOST_TEXT)
                return False
            if name not in _READERS:
                raise Malformed(f"nothing in an export is called {name!r:.40}")
            _READERS[name](self, fields)
        except Malformed as problem:
            return Invalid(f"Line {number} of the export is malformed: {problem}.")
        self.size += len(line)
        self.lines += 1
        return True

    def check(self, header: Header, position: int, digest: str) -> Invalid | None:
        """Return what is wrong with an export that was read, whose rows came to `position`."""
        if self.end != (self.lines, digest):
            return Invalid(
                "The export was changed or damaged: its digest is not that of its lines. Export it "
                "again."
            )
        if self._space != (header.position, header.floor) or position != header.position:
            return Invalid("The export does not hold what its first line says. Export it again.")
        return None

    def _add_row(self, fields: Mapping[str, Json]) -> None:
        row = _row(fields, (PUT, DELETE, APPEND))
        op_id = _text(fields, "op_id", MOST_TEXT)
        reads = fields.get("reads")
        if not isinstance(reads, dict | None):
            raise Malformed("'reads' is not an object")
        text = None if reads is None else text_of(reads)
        self.rows.append(row._replace(op_id=op_id, reads=text))

    def _add_base(self, fields: Mapping[str, Json]) -> None:
        if self.rows:
            raise Malformed("a base row stands behind an entry")
        row = _row(fields, (PUT, DELETE, FOLD))
        if self._space is None or not 0 < row.position <= self._space[1]:
            raise Malformed("a base row stands after the cut")
        self.base.append(row)

    def _add_epoch(self, fields: Mapping[str, Json]) -> None:
        self._parts[0].append((_text(fields, "key", MAX_KEY_BYTES), _number(fields, "epoch")))

    def _add_agent(self, fields: Mapping[str, Json]) -> None:
        told = _text(fields, "agent", MOST_TEXT), _number(fields, "incarnation")
        self._parts[1].append(told)

    def _add_group(self, fields: Mapping[str, Json]) -> None:
        name = _text(fields, "group", MOST_TEXT)
        prefix = _text(fields, "prefix", MAX_KEY_BYTES, least=0)
        self._parts[2].append(GroupAt(name, prefix, _number(fields, "cursor")))

    def _add_pending(self, fields: Mapping[str, Json]) -> None:
        self._parts[3].append(
            Pending(
                _text(fields, "group", MOST_TEXT),
                _number(fields, "position"),
                _text(fields, "key", MAX_KEY_BYTES),
                _text(fields, "consumer", MOST_TEXT),
                _number(fields, "deliveries"),
            )
        )

    def _add_projection(self, fields: Mapping[str, Json]) -> None:
        name = _text(fields, "name", MAX_KEY_BYTES)
        self._parts[4].append((name, _number(fields, "position"), _json(fields)))

    def _add_space(self, fields: Mapping[str, Json]) -> None:
        if self.lines:
            raise Malformed("the line about the space is not the first one")
        self._space = _number(fields, "position"), _number(fields, "floor")


_READERS: Mapping[str, Callable[[Body, Mapping[str, Json]], None]] = {
    "space": Body._add_space,
    "base": Body._add_base,
    "entry": Body._add_row,
    "epoch": Body._add_epoch,
    "agent": Body._add_agent,
    "group": Body._add_group,
    "pending": Body._add_pending,
    "projection": Body._add_projection,
}


def _row(fields: Mapping[str, Json], kinds: tuple[str, ...]) -> Row:
    kind = fields.get("kind")
    if kind not in kinds:
        raise Malformed(f"its kind is {kind!r:.20}, not one of {', '.join(kinds)}")
    return Row(
        _number(fields, "position"),
        _text(fields, "key", MAX_KEY_BYTES),
        _number(fields, "version"),
        _number(fields, "epoch"),
        kind,
        None if kind == DELETE or fields.get("erased") is True else _json(fields),
        _text(fields, "agent", MOST_TEXT),
        _number(fields, "time_us"),
        expires_us=_number(fields, "expires_us") if "expires_us" in fields else 0,
    )


def _parsed(line: str) -> dict[str, Json]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as problem:
        raise Malformed(f"it is not JSON ({problem})") from None
    if not isinstance(told, dict):
        raise Malformed("it is not an object")
    return told


def _json(fields: Mapping[str, Json]) -> str:
    if "value" not in fields:
        raise Malformed("it has no 'value'")
    try:
        return text_of(fields["value"])
    except ValueError:  # NaN, a lone surrogate
        raise Malformed("its value is not one of a store") from None


def _number(fields: Mapping[str, Json], name: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _LARGEST:
        raise Malformed(f"{name!r} is not a whole number from 0")
    return value


def _text(fields: Mapping[str, Json], name: str, most: int, least: int = 1) -> str:
    value = fields.get(name)
    try:
        if isinstance(value, str) and least <= len(value.encode()) <= most and "\0" not in value:
            return value
    except UnicodeEncodeError:
        pass
    raise Malformed(f"{name!r} is not a text of {least} to {most} bytes")
