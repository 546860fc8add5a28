"""Items of a store: their keys, how the space keeps them, how long they live.

    langgraph/store/<label>/<label>/=<key>          one item
    langgraph/refreshed/<label>/<label>/=<key>      when an item with a time to live was last read

Labels and keys are percent-encoded, so that any text is safe.  A path that is too long keeps as
many labels as fit and ends in `#` and a digest of all of it; the item itself says what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from interlock import Invalid, Json, Record
from interlock.adapters.observed import Observed, ObservedDict
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import Item, SearchItem

Path = tuple[str, ...]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_PER_MINUTE = 60_000_000
ITEMS, REFRESHED = "langgraph/store/", "langgraph/refreshed/"
_LONGEST = 480  # bytes of a path after ITEMS or REFRESHED; a key of a space has at most 512
_KEPT = 360  # bytes of labels that stay readable in a path that is too long


@lru_cache(maxsize=4096)
def item_key(namespace: tuple[str, ...], key: str) -> str:
    """Return the key of the space that an item is at."""
    path = "/".join((*map(_quoted, namespace), f"={_quoted(key)}"))
    if len(path) > _LONGEST:
        digest = hashlib.sha256(json.dumps([namespace, key]).encode()).hexdigest()
        path = "/".join((*_fitting(namespace), f"#{digest}"))
    return ITEMS + path


def refresh_key(at: str) -> str:
    """Return the key that says when the item at the key `at` was last read."""
    return REFRESHED + at.removeprefix(ITEMS)


def scan_prefix(namespace: tuple[str, ...]) -> str:
    """Return what the keys of all items under a namespace begin with, and maybe of some others."""
    return ITEMS + "".join(f"{label}/" for label in _fitting(namespace))


def _fitting(namespace: tuple[str, ...]) -> list[str]:
    """Return the first labels, as many as stay readable."""
    kept: list[str] = []
    size = 0
    for label in map(_quoted, namespace):
        size += len(label) + 1
        if size > _KEPT:
            break
        kept.append(label)
    return kept


def _quoted(text: str) -> str:
    try:
        return quote(text, safe="")
    except UnicodeEncodeError as problem:
        raise Invalid(
            f"{text!r:.60} holds a lone surrogate, which UTF-8 cannot encode"
        ) from problem


class Kept(NamedTuple):
    """An item as the space keeps it.  Times are microseconds since 1970 by the store's clock.

    `ttl`: minutes that it lives after it was last read or written; `expires` when it dies unless
    it is read; None: it lives forever.  `vectors` are texts by the path of the field.
    """

    namespace: Path
    key: str
    value: dict[str, Json]
    created: int | None = None
    ttl: float | None = None
    expires: int | None = None
    vectors: Mapping[str, str] = {}  # never changed

    def body(self) -> dict[str, Json]:
        """Return the JSON that the space keeps."""
        body: dict[str, Json] = {
            "namespace": list(self.namespace),
            "key": self.key,
            "value": self.value,
        }
        rest = {"created": self.created, "ttl": self.ttl, "expires": self.expires}
        body.update({name: given for name, given in rest.items() if given is not None})
        if self.vectors:
            body["vectors"] = dict(self.vectors)
        return body


class Found(NamedTuple):
    """An item and the record that it came with."""

    record: Record
    kept: Kept

    def item(self) -> Item:
        """Return what `get` answers: its value carries the version of the record."""
        return Item(**self._parts(self.kept.value))

    def ranked(self, score: float | None = None) -> SearchItem:
        """Return what `search` answers, with a value that may be changed: this stays as it is."""
        return SearchItem(**self._parts(plain(self.kept.value)), score=score)

    @property
    def created(self) -> int:
        """When the item was created: its first version does not say."""
        return self.record.time_us if self.kept.created is None else self.kept.created

    def _parts(self, value: Json) -> dict[str, Json]:
        return {
            "namespace": self.kept.namespace,
            "key": self.kept.key,
            "value": ObservedDict(value, Observed.of(self.record)),
            "created_at": _EPOCH + timedelta(microseconds=self.created),
            "updated_at": _EPOCH + timedelta(microseconds=self.record.time_us),
        }


def plain(value: Json) -> Json:
    """Return a copy of a value as JSON has it: a time is text, in ISO 8601."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.isoformat() if isinstance(value, date | time) else value


def found(record: Record) -> Found:
    """Return the item of a record that exists.  Raises Invalid if it holds something else."""
    body = record.value
    try:
        kept = Kept(
            tuple(body["namespace"]),
            body["key"],
            body["value"],
            body.get("created"),
            body.get("ttl"),
            body.get("expires"),
            body.get("vectors", {}),
        )
    except (TypeError, KeyError, AttributeError) as problem:
        raise Invalid(f"{record.key!r} is not an item of a LangGraph store") from problem
    return Found(record, kept)


def existing(records: Iterable[Record]) -> list[Found]:
    """Return the items of those records that exist.  Raises Invalid."""
    return [found(record) for record in records if record.exists]


# Times to live


def microseconds(time: datetime) -> int:
    """Return a time of the store in microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def until(now: int, minutes: float) -> int:
    """Return when that lives for minutes from now dies.  Raises Invalid."""
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 <= minutes < 1e9:
        raise Invalid(f"ttl={minutes!r} must be a number of minutes from 0 to 1e9.")
    return now + int(minutes * _US_PER_MINUTE)


def lives_until(mortal: Kept, refreshed: Record) -> int:
    """Return when an item that has a time to live dies, which may have been put off since.

    `refreshed` is the record of when it was last read; what it says of an earlier item at the same
    key does not count.
    """
    expires = mortal.expires or 0
    if not refreshed.exists or refreshed.value["of"] != expires:
        return expires
    put_off: int = refreshed.value["until"]
    return max(expires, put_off)
