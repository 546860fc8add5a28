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

Test = Callable[[Json], bool]
_ORDERS: dict[str, Callable[[Json, Json], Any]] = {
    "$gt": gt,
    "$gte": ge,
    "$lt": lt,
    "$lte": le,
}


def passes(wanted: Mapping[str, Json] | None) -> Test:
    """Return whether a value passes the filter of a search.  Raises ValueError for an operator that
    is none.

    A field is named by its key, or by the keys on the way to it, with dots between: `user.name`.
    """
    tests = [_field(name, _test(each)) for name, each in (wanted or {}).items()]
    return tests[0] if len(tests) == 1 else lambda value: all(test(value) for test in tests)


def _field(name: str, test: Test) -> Test:
    return lambda value: test(value[name] if name in value else _at(value, name))


def _at(value: Json, name: str) -> Json:
    """Return the field that is on a way of keys; None if there is none."""
    first, dot, rest = name.partition(".")
    inner = value.get(first)
    if not dot or not isinstance(inner, dict):
        return None
    return inner[rest] if rest in inner else _at(inner, rest)


def _test(wanted: Json) -> Test:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            tests = [_compared(name, other) for name, other in wanted.items()]
            return lambda value: all(test(value) for test in tests)
        inner = passes(wanted)
        return lambda value: isinstance(value, dict) and inner(value)
    if isinstance(wanted, list | tuple):
        each = [_test(item) for item in wanted]
        return lambda value: (
            isinstance(value, list)
            and len(value) == len(each)
            and all(test(item) for test, item in zip(each, value, strict=True))
        )
    return lambda value: bool(value == wanted)


def _compared(operator: str, other: Json) -> Test:
    if operator in ("$eq", "$ne"):
        return lambda value: bool(value == other) is (operator == "$eq")
    if operator not in _ORDERS:
        raise ValueError(f"Unsupported operator: {operator}")
    compare, number = _ORDERS[operator], _number(other)

    def compared(value: Json) -> bool:
        found = _number(value)
        if found is not None and number is not None:
            return bool(compare(found, number))
        # Texts are compared as such; a text and a number are not.
        return isinstance(value, str) and isinstance(other, str) and bool(compare(value, other))

    return compared


def _number(value: Json) -> int | float | None:
    """Return the number that a value is, or says; None if it is none."""
    if type(value) is int or type(value) is float:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


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
