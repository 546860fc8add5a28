"""Checks the laws that a reducer claims, with Hypothesis, and names the one that fails."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from interlock.core.merges import (
    ASSOCIATIVE,
    COMMUTATIVE,
    IDEMPOTENT,
    LAWS,
    Reducer,
    same,
)
from interlock.core.showing import described
from interlock.core.values import encode
from interlock.errors import InterlockError
from interlock.extras import needs

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


_NO_LIMIT = 1 << 30


class LawBroken(InterlockError):
    """A reducer does not keep a law that it claims: `law`, and the contributions that show it."""

    def __init__(self, law: str, message: str, items: list[Any]) -> None:
        super().__init__(message)
        self.law = law
        self.items = items


def laws(reducer: Reducer, strategy: SearchStrategy[Any], *, examples: int = 200) -> str:
    """Check the laws that `reducer` claims, and that it behaves as a reducer at all.

    `strategy` draws contributions; `examples` is how many are tried for each law.  Returns what
    to declare the reducer with as `checked=`.  Raises LawBroken, with the smallest example found.

    The laws are read as laws of folding, where order and grouping are what may vary:
    associative: contributions that are folded by themselves first, and their value contributed
    instead of them, change nothing (so a value must be a contribution, too);
    commutative: two neighbouring contributions may change places;
    idempotent: a contribution that comes twice counts once.
    """
    with needs("Hypothesis", "verify"):
        from hypothesis import find, settings
        from hypothesis import strategies as st
        from hypothesis.errors import NoSuchExample
    quick = settings(max_examples=examples, deadline=None, database=None)
    for law in ("deterministic", *(law for law in LAWS if law in reducer.claims)):
        try:
            items = find(
                st.lists(strategy, min_size=1, max_size=6),
                partial(_broken, reducer, law),
                settings=quick,
            )
        except NoSuchExample:
            continue
        raise LawBroken(
            law,
            f"reducer {reducer.name!r} is not {law}: {_breaks(reducer, law, items)}",
            items,
        )
    return reducer.digest()


def _broken(reducer: Reducer, law: str, items: list[Any]) -> bool:
    return _breaks(reducer, law, items) is not None


def _breaks(reducer: Reducer, law: str, items: list[Any]) -> str | None:
    """Say how folding `items` breaks a law, None where it does not."""
    if law == "deterministic":
        return _unsound(reducer, items)
    value = reducer.fold(items)
    if law == COMMUTATIVE:
        for index in range(len(items) - 1):
            turned = [*items]
            turned[index : index + 2] = [items[index + 1], items[index]]
            if not same(value, reducer.fold(turned)):
                return f"{items!r} gives {value!r}, {turned!r} gives {reducer.fold(turned)!r}"
    elif law == IDEMPOTENT:
        for index in range(len(items)):
            doubled = [*items[: index + 1], *items[index:]]
            if not same(value, reducer.fold(doubled)):
                return f"{items!r} gives {value!r}, {doubled!r} gives {reducer.fold(doubled)!r}"
    elif law == ASSOCIATIVE:
        for index in range(len(items)):
            broken = _regrouped(reducer, items[:index], items[index:], value)
            if broken is not None:
                return broken
    return None


def _regrouped(reducer: Reducer, first: list[Any], rest: list[Any], value: Any) -> str | None:
    """Say how contributing the fold of `rest` is not contributing each, None where it is.

    Going on from the fold of `first` alone would show nothing: that is how every fold goes on.
    """
    part = reducer.fold(rest)
    refused = reducer.accepts(part) if reducer.accepts is not None else None
    try:
        grouped = reducer.fold([part], reducer.fold(first), started=True)
    except Exception as problem:
        refused = described(problem)
    if refused is not None:
        return f"{rest!r} gives {part!r}, which cannot be contributed itself: {refused}"
    if same(value, grouped):
        return None
    return (
        f"{[*first, *rest]!r} gives {value!r} one by one, but {grouped!r} where {rest!r} are "
        f"folded first, into {part!r}"
    )


def _unsound(reducer: Reducer, items: list[Any]) -> str | None:
    given = deepcopy(items)
    value = reducer.fold(given)
    if not same(given, items):
        return f"it changes the contributions that it is given: {items!r} to {given!r}"
    text = encode(value, _NO_LIMIT)
    if not isinstance(text, str):
        return f"{items!r} gives {value!r}, which is not JSON"
    again = encode(reducer.fold(items), _NO_LIMIT)
    if text != again:
        return f"{items!r} gives {text} once and {again} another time"
    return None
