"""Merging: reducers that fold contributions into a value, and the three-way merge of documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

from interlock.core.struct import Json

ASSOCIATIVE, COMMUTATIVE, IDEMPOTENT = "associative", "commutative", "idempotent"
_LARGEST = 1e100
LAWS = (ASSOCIATIVE, COMMUTATIVE, IDEMPOTENT)


@dataclass(frozen=True)
class Reducer:
    """How the contributions to a merged key become its value.

    `fn(value, item)` returns the value with one more contribution, without changing its arguments;
    `initial` is the value before the first.  `claims` names the laws that it keeps, read as an
    operation on contributions: folding them in other groups, whose values are contributed in their
    place (associative), in another order (commutative) or twice (idempotent) gives the same value.
    `checked` is what `interlock.verify.laws` returned when it found the claims to hold.
    """

    name: str
    fn: Callable[[Json, Json], Json]
    initial: Json = None
    claims: tuple[str, ...] = ()
    checked: str = ""
    accepts: Callable[[Json], str | None] | None = None

    def fold(self, items: Iterable[Json], start: Json = None, started: bool = False) -> Json:
        """Return the value of `items`, going on from `start` if `started`."""
        value = start if started else deepcopy(self.initial)
        for item in items:
            value = self.fn(value, item)
            if value is None and self.initial is not None:
                raise TypeError("it returned None: is a return missing?")
        return value

    def digest(self) -> str:
        """Return what stands for the function and its claims, as `checked` names it."""
        import hashlib  # at run time only when they are used: importing them takes long
        import inspect

        try:
            body = inspect.getsource(self.fn)
        except (OSError, TypeError):
            code = getattr(self.fn, "__code__", None)
            body = repr(self.fn) if code is None else repr((code.co_code, code.co_consts))
        # What was checked for "associative" before it meant regrouping shows nothing.
        claims = sorted(f"{law}/2" if law == ASSOCIATIVE else law for law in self.claims)
        text = json.dumps([self.name, body, claims])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _append(value: Json, item: Json) -> Json:
    return [*value, item]


def _union(value: Json, item: Json) -> Json:
    items = item if isinstance(item, list) else [item]
    merged = {json.dumps(each, sort_keys=True): each for each in (*value, *items)}
    return [merged[text] for text in sorted(merged)]


def _counter(value: Json, item: Json) -> Json:
    return value + item


def _maximum(value: Json, item: Json) -> Json:
    return item if value is None or item > value else value


def _minimum(value: Json, item: Json) -> Json:
    return item if value is None or item < value else value


def _last_writer(value: Json, item: Json) -> Json:
    return item


def _deep_merge(value: Json, item: Json) -> Json:
    if not isinstance(value, dict) or not isinstance(item, dict):
        return item
    merged = dict(value)
    for key, new in item.items():
        merged[key] = _deep_merge(value[key], new) if key in value else new
    return merged


def _number(item: Json) -> str | None:
    if isinstance(item, bool) or not isinstance(item, int | float):
        return f"{item!r:.60} is not a number"
    # Sums of larger ones could overflow for whoever reads.
    return None if -_LARGEST <= item <= _LARGEST else f"a number beyond {_LARGEST:g} in size"


def _object(item: Json) -> str | None:
    return None if isinstance(item, dict) else f"{item!r:.60} is not an object"


REDUCERS: Mapping[str, Reducer] = {
    reducer.name: reducer
    for reducer in (
        Reducer("append", _append, []),
        Reducer("union", _union, [], LAWS),
        Reducer("counter", _counter, 0, (ASSOCIATIVE, COMMUTATIVE), accepts=_number),
        Reducer("maximum", _maximum, None, LAWS, accepts=_number),
        Reducer("minimum", _minimum, None, LAWS, accepts=_number),
        Reducer("last_writer", _last_writer, None, (ASSOCIATIVE, IDEMPOTENT)),
        Reducer("deep_merge", _deep_merge, {}, (IDEMPOTENT,), accepts=_object),
    )
}


def fold_items(reducer: Reducer, items: list[Json], start: Json, started: bool) -> Json:
    """Return the fold of many items; a list grows in one go instead of once an item."""
    if reducer is REDUCERS["append"]:
        return [*(start if started else []), *items]
    if reducer is REDUCERS["union"]:
        flat = [each for item in items for each in (item if isinstance(item, list) else [item])]
        return _union(start if started else [], flat)
    return reducer.fold(items, start, started)


class Clash(NamedTuple):
    """A path that both sides changed differently: what it was, and what each made of it.

    `path` is the way down as keys and list indexes.  A side that removed it has `REMOVED`.
    """

    path: tuple[str | int, ...]
    base: Json
    mine: Json
    theirs: Json


class _Removed:
    def __repr__(self) -> str:
        return "removed"


REMOVED = _Removed()


def merge3(base: Json, mine: Json, theirs: Json) -> tuple[Json, tuple[Clash, ...]]:
    """Merge two changes of one document; return it with the paths that both changed differently.

    Objects merge field by field.  A list is one value, with one exception: if both sides only
    added at its end, the additions of theirs come first, then mine.  Both may have made the same
    change, but not of a number, which each may have counted up.  With clashes the returned
    document has theirs in those places, and must not be written.
    """
    clashes: list[Clash] = []
    merged = _merge(base, mine, theirs, (), clashes)
    return merged, tuple(clashes)


def merge_patch(value: Json, changes: Json) -> Json:
    """Return `value` with a JSON Merge Patch (RFC 7396) applied, which may be any JSON value.

    None removes a field; an object changes parts of an object; anything else replaces.
    """
    if not isinstance(changes, Mapping):
        return changes
    merged = dict(value) if isinstance(value, Mapping) else {}
    for name, each in changes.items():
        if each is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), each)
    return merged


def _may_be_two(value: Json) -> bool:
    """Whether the same change on both sides may be two: 3 is what two increments of 2 write."""
    if isinstance(value, dict):
        return any(map(_may_be_two, value.values()))
    return isinstance(value, list | int | float) and not isinstance(value, bool)


def same(one: Json, other: Json) -> bool:
    """Whether two JSON values are the same: 1, 1.0 and true are three values."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _merge(
    base: Json, mine: Json, theirs: Json, path: tuple[str | int, ...], clashes: list[Clash]
) -> Json:
    if same(base, mine):
        return theirs
    if same(base, theirs):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict) and isinstance(base, dict):
        merged = {}
        for key in dict.fromkeys((*theirs, *mine)):
            value = _merge(
                base.get(key, REMOVED),
                mine.get(key, REMOVED),
                theirs.get(key, REMOVED),
                (*path, key),
                clashes,
            )
            if value is not REMOVED:
                merged[key] = value
        return merged
    if isinstance(mine, list) and isinstance(theirs, list) and isinstance(base, list):
        size = len(base)
        if same(mine[:size], base) and same(theirs[:size], base):
            return [*theirs, *mine[size:]]
    if same(mine, theirs) and not _may_be_two(mine):
        return theirs
    clashes.append(Clash(path, base, mine, theirs))
    return theirs
