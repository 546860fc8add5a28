"""Which items a search finds, and which namespaces a listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import ge, gt, le, lt
from typing import Any

from interlock import Json
from interlock.adapters.langgraph.items import Path
from interlock.extras import needs

with needs("LangGraph", "langgraph"):
    from langgraph.store.base import MatchCondition

_ORDERS: dict[str, Callable[[Json, Json], Any]] = {
    "$gt": gt,
    "$gte": ge,
    "$lt": lt,
    "$lte": le,
}


def begins(namespace: Path, prefix: Path) -> bool:
    """Whether a namespace is under another one, or the same."""
    return namespace[: len(prefix)] == prefix


def matches(value: Json, wanted: Mapping[str, Json] | None) -> bool:
    """Whether a value passes the filter of a search.  Raises ValueError for an operator that is
    none.

    A field is named by its key, or by the keys on the way to it, with dots between: `user.name`.
    """
    return all(_passes(_at(value, name), each) for name, each in (wanted or {}).items())


def _at(value: Json, name: str) -> Json:
    while isinstance(value, dict):
        if name in value:
            return value[name]
        first, dot, name = name.partition(".")
        if not dot:
            return None
        value = value.get(first)
    return None


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
    if operator not in _ORDERS:
        raise ValueError(f"Unsupported operator: {operator}")
    try:
        return bool(_ORDERS[operator](float(value), float(other)))
    except OverflowError:
        return bool(_ORDERS[operator](value, other))  # whole numbers that no float can hold
    except (TypeError, ValueError):  # texts are compared as such; a text and a number are not
        texts = isinstance(value, str) and isinstance(other, str)
        return texts and bool(_ORDERS[operator](value, other))


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
