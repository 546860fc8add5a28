"""Reducers for the keys of a graph's state: `findings: Annotated[list, append]`.

Each is the reducer of that name of `interlock.merged`, and pure.  They take None for a value that
is not there yet, and for an update that adds nothing; only `last_writer` takes None for a value.
"""

from __future__ import annotations

from typing import Any

from interlock import REDUCERS


def append(value: Any, update: Any) -> Any:
    """Add to a list; a list (or tuple) adds its items, anything else is one item."""
    if update is None:
        return value
    items = update if isinstance(update, list | tuple) else [update]
    return [*(value or ()), *items]


def union(value: Any, update: Any) -> Any:
    """Add to a set; if neither is a Python set, to a list of JSON values without repetitions.

    A list contributes its items.  The list is sorted by the JSON of its items.
    """
    if update is None:
        return value
    if isinstance(value, set | frozenset) or isinstance(update, set | frozenset):
        return {*(value or ()), *update}
    return _fold("union", value, update)


def counter(value: Any, update: Any) -> Any:
    """Add numbers."""
    return _fold("counter", value, update)


def maximum(value: Any, update: Any) -> Any:
    """Keep the largest number.

    LangGraph begins an `int` with 0; annotate `int | None` if all may be negative.
    """
    return _fold("maximum", value, update)


def minimum(value: Any, update: Any) -> Any:
    """Keep the smallest number.

    LangGraph begins an `int` with 0; annotate `int | None`, which begins with nothing.
    """
    return _fold("minimum", value, update)


def deep_merge(value: Any, update: Any) -> Any:
    """Merge objects field by field, at every depth; of one field the later update is kept."""
    return _fold("deep_merge", value, update)


def last_writer(value: Any, update: Any) -> Any:
    """Keep the later update, on purpose: parallel nodes overwrite each other."""
    return update


# Which reducer of `interlock.merged` each is.
OURS = {
    reducer: REDUCERS[reducer.__name__]
    for reducer in (append, union, counter, maximum, minimum, deep_merge, last_writer)
}


def _fold(name: str, value: Any, update: Any) -> Any:
    if update is None:
        return value
    return REDUCERS[name].fold([update], value, started=value is not None)
