"""Items of a store: their keys, how the space keeps them, which of them a search is about.

    langgraph/store/<label>/<label>/=<key>          one item
    langgraph/refreshed/<label>/<label>/=<key>      when an item with a time to live was last read

Labels and keys are percent-encoded, so that any text is safe.  A path that is too long keeps as
many labels as fit and ends in `#` and a digest of all of it; the item itself says what it is.

A search by meaning compares the query with every item under its namespace: no index is built, so it
is meant for thousands of items, not for millions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import mul
from typing import NamedTuple
from urllib.parse import quote

from interlock import Invalid, Json, Record
from interlock.adapters.observed import Observed, ObservedDict
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import Item, MatchCondition, SearchItem

Path = tuple[str, ...]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US_PER_MINUTE = 60_000_000
ITEMS, REFRESHED = "langgraph/store/", "langgraph/refreshed/"
_LONGEST = 480  # bytes of a path after ITEMS or REFRESHED; a key of a space has at most 512
_KEPT = 360  # bytes of labels that stay readable in a path that is too long


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
        return Item(**self._parts())

    def ranked(self, score: float | None = None) -> SearchItem:
        """Return what `search` answers."""
        return SearchItem(**self._parts(), score=score)

    @property
    def created(self) -> int:
        """When the item was created: its first version does not say."""
        return self.record.time_us if self.kept.created is None else self.kept.created

    def _parts(self) -> dict[str, Json]:
        return {
            "namespace": self.kept.namespace,
            "key": self.kept.key,
            "value": ObservedDict(self.kept.value, Observed.of(self.record)),
            "created_at": _EPOCH + timedelta(microseconds=self.created),
            "updated_at": _EPOCH + timedelta(microseconds=self.record.time_us),
        }


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


# Searching


def begins(namespace: Path, prefix: Path) -> bool:
    """Whether a namespace is under another one, or the same."""
    return namespace[: len(prefix)] == prefix


def matches(value: Mapping[str, Json], wanted: Mapping[str, Json] | None) -> bool:
    """Whether a value passes the filter of a search."""
    return all(_passes(value.get(name), each) for name, each in (wanted or {}).items())


def _passes(value: Json, wanted: Json) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            return all(_compared(value, name, other) for name, other in wanted.items())
        return isinstance(value, dict) and matches(value, wanted)
    if isinstance(wanted, list | tuple):
        same_length = isinstance(value, list) and len(value) == len(wanted)
        return same_length and all(map(_passes, value, wanted))
    return bool(value == wanted)


def _compared(value: Json, operator: str, other: Json) -> bool:
    if operator in ("$eq", "$ne"):
        return bool(value == other) is (operator == "$eq")
    if operator not in ("$gt", "$gte", "$lt", "$lte"):
        raise ValueError(f"Unsupported operator: {operator}")
    try:
        left, right = float(value), float(other)
    except (TypeError, ValueError):
        return False  # what is no number is neither larger nor smaller
    if left == right:
        return operator.endswith("e")
    return (left > right) is operator.startswith("$g")


# Listing


def listed(
    namespaces: Iterable[Path], conditions: Iterable[MatchCondition], max_depth: int | None
) -> list[Path]:
    """Return the namespaces that meet all conditions, cut to a depth, each once and in order."""
    wanted = tuple(conditions)
    return sorted({each[:max_depth] for each in namespaces if all(_meets(each, c) for c in wanted)})


def literal_prefix(conditions: Iterable[MatchCondition]) -> Path:
    """Return what every namespace that meets the conditions begins with, as far as they say."""
    best: Path = ()
    for condition in conditions:
        if condition.match_type != "prefix":
            continue
        path = tuple(condition.path)
        literal = path[: path.index("*")] if "*" in path else path
        best = max(best, literal, key=len)
    return best


def _meets(namespace: Path, condition: MatchCondition) -> bool:
    path = tuple(condition.path)
    if condition.match_type not in ("prefix", "suffix"):
        raise ValueError(f"Unsupported match type: {condition.match_type}")
    if len(namespace) < len(path):
        return False
    if condition.match_type == "suffix":
        namespace = namespace[len(namespace) - len(path) :]
    return all(label in ("*", own) for own, label in zip(namespace, path, strict=False))


with needs("LangGraph", "langgraph"):
    from langgraph.store.base import (
        IndexConfig,
        Op,
        PutOp,
        SearchItem,
        SearchOp,
        ensure_embeddings,
        get_text_at_path,
        tokenize_path,
    )

Vectors = Mapping[str, Sequence[float]]  # by text


class Index:
    """How the items of a store are embedded.  `config` is LangGraph's `IndexConfig`."""

    def __init__(self, config: IndexConfig) -> None:
        self.embeddings = ensure_embeddings(config.get("embed"))
        self._dims = config["dims"]
        self._fields = config.get("fields") or ["$"]

    def texts(self, op: PutOp) -> dict[str, str]:
        """Return the texts of an item that are embedded, by their paths."""
        if op.value is None or op.index is False:
            return {}
        found: dict[str, str] = {}
        for path in self._fields if op.index is None else op.index:
            texts = get_text_at_path(op.value, "$" if path == "$" else tokenize_path(path))
            names = [path] if len(texts) == 1 else [f"{path}.{n}" for n in range(len(texts))]
            found.update(zip(names, texts, strict=True))
        return found

    def embed(self, ops: Iterable[Op]) -> Embedded:
        """Return the vectors of what operations write and ask for.  Raises Invalid."""
        texts, queries = self._asked(ops)
        vectors = self.embeddings.embed_documents(texts) if texts else []
        asked = [self.embeddings.embed_query(query) for query in queries]
        return Embedded(self, self._checked(texts, vectors), self._checked(queries, asked))

    async def aembed(self, ops: Iterable[Op]) -> Embedded:
        """Return the vectors of what operations write and ask for, like `embed`."""
        texts, queries = self._asked(ops)
        vectors = await self.embeddings.aembed_documents(texts) if texts else []
        asked = [await self.embeddings.aembed_query(query) for query in queries]
        return Embedded(self, self._checked(texts, vectors), self._checked(queries, asked))

    def _asked(self, ops: Iterable[Op]) -> tuple[list[str], list[str]]:
        texts: dict[str, None] = {}
        queries: dict[str, None] = {}
        for op in ops:
            if isinstance(op, PutOp):
                texts.update(dict.fromkeys(self.texts(op).values()))
            elif isinstance(op, SearchOp) and op.query:
                queries[op.query] = None
        return list(texts), list(queries)

    def _checked(self, texts: list[str], vectors: Sequence[Sequence[float]]) -> Vectors:
        if len(vectors) != len(texts) or any(len(each) != self._dims for each in vectors):
            sizes = sorted({len(each) for each in vectors})
            raise Invalid(
                f"embedding {len(texts)} texts gave {len(vectors)} vectors of {sizes} numbers; "
                f"the index has dims={self._dims}"
            )
        return dict(zip(texts, vectors, strict=True))


class Embedded(NamedTuple):
    """The vectors of some operations: of the texts that they write, and of their queries."""

    by: Index | None
    texts: Vectors
    queries: Vectors

    def of(self, op: PutOp) -> dict[str, str]:
        """Return the vectors of an item as they are kept, by the paths of its texts."""
        texts = {} if self.by is None else self.by.texts(op)
        return {path: _packed(self.texts[text]) for path, text in texts.items()}


NOT_EMBEDDED = Embedded(None, {}, {})


def _packed(vector: Sequence[float]) -> str:
    """Return a vector as text: numbers of 32 bits, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def ranked(query: Sequence[float], candidates: Iterable[Found]) -> list[SearchItem]:
    """Return items by how near their nearest vector is to a query, those without one last."""
    scored: list[SearchItem] = []
    unscored: list[SearchItem] = []
    for found in candidates:
        vectors = [_unpacked(text) for text in found.kept.vectors.values()]
        if vectors:
            scored.append(found.ranked(max(_cosine(query, vector) for vector in vectors)))
        else:
            unscored.append(found.ranked())
    return [*sorted(scored, key=_score, reverse=True), *unscored]


def _unpacked(text: str) -> Sequence[float]:
    data = base64.b64decode(text)
    return struct.unpack(f"<{len(data) // 4}f", data)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    norms = math.hypot(*one) * math.hypot(*other)
    return sum(map(mul, one, other)) / norms if norms else 0.0


def _score(item: SearchItem) -> float:
    return item.score or 0.0
