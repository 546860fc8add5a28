"""The history of keys: who read and wrote what, in the order in which it took effect.

One line of JSON per event is also the format of files: what `interlock record` writes, and what
any system can write of its own data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

from interlock import Json
from interlock.core.records import as_datetime
from interlock.forensics.operations import BadTrace

__all__ = ["Event", "as_datetime", "read_history"]

PUT, FIELDS, DELETE, READ = "put", "fields", "delete", "read"
ADD, REMOVE, CHANGE = "add", "remove", "change"  # the store's own atomic steps
KINDS = (PUT, FIELDS, ADD, REMOVE, CHANGE, DELETE, READ)
NOTHING = object()  # a value that was not recorded
_LATEST = 253_402_300_800  # seconds since 1970 that are in the year 10000
# What the lines of other programs call the same things; the first name that is there counts.
_NAMES = {
    "agent": ("agent", "agent_id", "writer", "by", "author", "client"),
    "time": ("time", "ts", "timestamp", "at", "time_us"),
    "value": ("value", "data", "content", "new_value", "state"),
    "size": ("size", "value_size", "bytes", "length"),
    "base": ("base", "base_version", "read_version", "expected_version", "based_on"),
    "read_time": ("read_time", "read_ts", "read_at"),
    "read_value": ("read_value", "old_value"),
    "kind": ("kind", "op", "operation"),
    "version": ("version",),
    "key": ("key",),
}
_NAMED = {each: (rank, name) for name, names in _NAMES.items() for rank, each in enumerate(names)}
_KINDS = {"set": PUT, "write": PUT, "update": PUT, "insert": PUT, "append": ADD, "del": DELETE}
_KINDS |= {kind: kind for kind in KINDS}


class Event(NamedTuple):
    """One event of one key.

    `kind`: `put` replaces the value, `fields` sets fields of an object, `delete`, `read`.  What a
    store does in an atomic step of its own can lose nothing: `add` adds items to a list, text to a
    text or a number to a number, `remove` takes items or fields out, `change` has the whole new
    value.  `agent` is empty where it is not known.  `position`
    counts the events of a source from 1.  `version` is the one that a write says it made, `base`
    the one that it was computed from (0: there was nothing), `read_us` when its writer had read,
    `read_value` what.  `size` stands for a value that was not recorded.
    """

    key: str
    time_us: int
    kind: str
    value: Any = None
    agent: str = ""
    position: int = 0
    version: int | None = None
    base: int | None = None
    read_us: int | None = None
    read_value: Any = NOTHING
    size: int | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the event as the object of its line; what is not known is left out."""
        shown: dict[str, Json] = {"key": self.key, "time": self.time_us / 1e6, "kind": self.kind}
        if self.value is not NOTHING and self.kind not in (DELETE, READ):
            shown["value"] = self.value
        optional = {
            "agent": self.agent or None,
            "version": self.version,
            "base": self.base,
            "read_time": None if self.read_us is None else self.read_us / 1e6,
            "size": self.size,
        }
        shown |= {name: each for name, each in optional.items() if each is not None}
        return shown if self.read_value is NOTHING else shown | {"read_value": self.read_value}


def read_history(file: IO[bytes], name: str) -> Iterator[Event]:
    """Yield the events of JSONL.  Raises BadTrace, which says where and what."""
    from msgspec import DecodeError
    from msgspec.json import Decoder

    decode = Decoder().decode
    for number, line in enumerate(file, 1):
        if line.isspace():
            continue
        try:
            found = decode(line)
        except (DecodeError, UnicodeDecodeError, RecursionError) as problem:
            if not line.endswith(b"\n"):
                return  # it is still being written, or whoever wrote it was killed
            step = "write one JSON object per line"
            raise BadTrace(name, number, "", line, f"is not JSON ({problem})", step) from problem
        yield event_of(found, number, name)


def event_of(given: Any, number: int, name: str, key: str | None = None) -> Event:
    """Return the event that an object stands for, `key` being the one that it need not name.

    Raises BadTrace.
    """
    if not isinstance(given, dict):
        raise BadTrace(name, number, "", given, "is not a JSON object", "write objects")
    found = _named(given)
    key = found.get("key", key)
    if type(key) is not str or not key:
        raise BadTrace(name, number, "key", key, "is not a text", "name the key of each event")
    said = found.get("kind", PUT)
    kind = _KINDS.get(said) if type(said) is str else None
    if kind is None:
        raise BadTrace(name, number, "kind", said, "is not a kind", f"use {', '.join(KINDS)}")
    agent, at, read_at = found.get("agent", ""), found.get("time"), found.get("read_time")
    return Event(
        key,
        round(at * 1e6)
        if type(at) is float and 0 < at < _LATEST
        else _time_us(at, "time", name, number),
        kind,
        found.get("value", NOTHING),
        agent if type(agent) is str else str(agent),
        number,
        _count(found, "version", name, number),
        _count(found, "base", name, number),
        None if read_at is None else _time_us(read_at, "read_time", name, number),
        found.get("read_value", NOTHING),
        _count(found, "size", name, number),
    )


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an object has under any of its names, by the name that we use."""
    found: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    for each, value in given.items():
        if each in _NAMED:
            rank, name = _NAMED[each]
            if rank <= ranks.get(name, rank):
                found[name], ranks[name] = value, rank
    return found


def keys_like(events: Iterable[Event], pattern: str | None) -> Iterator[Event]:
    """Yield the events of the keys that match a pattern with `*`, all if there is none."""
    if pattern is None:
        yield from events
        return
    from fnmatch import translate
    from re import compile

    matches = compile(translate(pattern)).match
    yield from (event for event in events if matches(event.key))


def _count(found: Mapping[str, Any], name: str, file: str, number: int) -> int | None:
    count = found.get(name)
    if count is None or (type(count) is int and count >= 0):
        return count
    raise BadTrace(file, number, name, count, "is not a whole number", "count from 0")


def _time_us(value: Any, field: str, file: str, number: int) -> int:
    """Return a time (Unix seconds, milliseconds or microseconds, or ISO 8601) in microseconds."""
    if isinstance(value, str):
        try:
            when = datetime.fromisoformat(value)
        except ValueError:
            value = None
        else:
            aware = when if when.tzinfo else when.replace(tzinfo=UTC)
            return round(aware.timestamp() * 1e6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        step = "write Unix seconds, or ISO 8601"
        raise BadTrace(file, number, field, value, "is not a time", step)
    for scale in (1e6, 1e3, 1):
        if abs(value) < _LATEST * 1e6 / scale:
            return round(value * scale)
    raise BadTrace(file, number, field, value, "is not a time", "write Unix seconds")
