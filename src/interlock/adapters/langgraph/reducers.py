"""Reducers for the keys of a graph's state: `findings: Annotated[list, append]`.

Each is the reducer of that name of `interlock.merged`, and pure.  They take None for a value that
is not there yet, and for an update that adds nothing; only `last_writer` takes None for a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from interlock import REDUCERS, Json

T = TypeVar("T")


def append(value: Iterable[object] | None, update: object) -> Any:
    """Add to a list; a list (or tuple) adds its items, anything else is one item."""
    if update is None:
        return value
    items = update if isinstance(update, list | tuple) else [update]
    return [*(value or ()), *items]


def union(value: Iterable[object] | None, update: Iterable[object] | None) -> Any:
    """Add to a set; if neither is a Python set, to a list of JSON values without repetitions.

    A list contributes its items.  The list is sorted by the JSON of its items.
    """
    if update is None:
        return value
    if isinstance(value, set | frozenset) or isinstance(update, set | frozenset):
        return {*(value or ()), *update}
    return _fold("union", value, update)


def counter(value: Json, update: Json) -> Json:
    """Add numbers."""
    return _fold("counter", value, update)


def maximum(value: Json, update: Json) -> Json:
    """Keep the largest number.

    LangGraph begins an `int` with 0; annotate `int | None` if all may be negative.
    """
    return _fold("maximum", value, update)


def minimum(value: Json, update: Json) -> Json:
    """Keep the smallest number.

    LangGraph begins an `int` with 0; annotate `int | None`, which begins with nothing.
    """
    return _fold("minimum", value, update)


def deep_merge(value: Json, update: Json) -> Json:
    """Merge objects field by field, at every depth; of one field the later update is kept."""
    return _fold("deep_merge", value, update)


def last_writer(value: object, update: T) -> T:
    """Keep the later update, on purpose: parallel nodes overwrite each other."""
    return update


# Which reducer of `interlock.merged` each is.
OURS = {
    reducer: REDUCERS[reducer.__name__]
    for reducer in (append, union, counter, maximum, minimum, deep_merge, last_writer)
}


def _fold(name: str, value: Json, update: Json) -> Json:
    if update is None:
        return value
    return REDUCERS[name].fold([update], value, started=value is not None)
