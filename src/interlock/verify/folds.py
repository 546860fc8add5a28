"""Checks what reducers and projections of one's own must keep, and names what fails.

A reducer claims laws, which Hypothesis tries.  The fold of a projection is pure: it gives the same
from the beginning and from snapshots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Protocol

from interlock import Json
from interlock.core.fold import LARGEST
from interlock.core.keys import decode, encode
from interlock.core.merge import ASSOCIATIVE, COMMUTATIVE, IDEMPOTENT, LAWS, Reducer, same
from interlock.core.records import Entry
from interlock.core.refusals import described
from interlock.errors import InterlockError
from interlock.extras import needs

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


_NO_LIMIT = 1 << 30


class LawBroken(InterlockError):
    """A reducer does not keep a law that it claims: `law`, and the contributions that show it."""

    def __init__(self, law: str, message: str, items: list[Json]) -> None:
        super().__init__(message)
        self.law = law
        self.items = items


def laws(reducer: Reducer, strategy: SearchStrategy[Json], *, examples: int = 200) -> str:
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
            law, f"reducer {reducer.name!r} is not {law}: {_breaks(reducer, law, items)}", items
        )
    return reducer.digest()


def _broken(reducer: Reducer, law: str, items: list[Json]) -> bool:
    return _breaks(reducer, law, items) is not None


def _breaks(reducer: Reducer, law: str, items: list[Json]) -> str | None:
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


def _regrouped(reducer: Reducer, first: list[Json], rest: list[Json], value: Json) -> str | None:
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


def _unsound(reducer: Reducer, items: list[Json]) -> str | None:
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


_PLACES = 100

Fold = Callable[[Json, Entry], Json]


class _Logged(Protocol):
    def log(self, after: int | None = None, prefix: str = "") -> Iterable[Entry]: ...


class FoldBroken(InterlockError):
    """A fold is not pure, or does not make JSON: `entry` is the first that shows it."""

    def __init__(self, message: str, entry: Entry) -> None:
        super().__init__(f"position {entry.position} ({entry.kind} of {entry.key!r}): {message}")
        self.entry = entry


def check_projection(
    source: _Logged | Iterable[Entry],
    fold: Fold,
    *,
    prefix: str = "",
    initial: Json = None,
    at: Iterable[int] | None = None,
) -> int:
    """Fold the log from its beginning, and again with a snapshot at every place; compare both.

    `source` is a space, or entries (of an asyncio space: `[e async for e in space.log()]`).  `at`
    are the log positions of the snapshots; by default a hundred places, spread evenly.  Returns how
    many entries were folded.  Raises FoldBroken, which names the first entry where the values
    differ, whose value the fold changes, or where it makes what is no JSON; and what the fold
    raises.
    """
    found = source if isinstance(source, Iterable) else source.log(prefix=prefix)
    entries = [e for e in found if e.key.startswith(prefix) and not e.key.startswith("$")]
    start = encode(initial, LARGEST)
    if not isinstance(start, str):
        raise InterlockError(f"initial: {start.message}")
    places = _places(entries, at)
    texts = {0: start}
    value = decode(start)
    for number, entry in enumerate(entries, 1):
        value = _folded(fold, value, entry)
        if number in places:
            texts[number] = _text(value, entry)
    last = 0
    for place in sorted(places):
        value = decode(texts[last])
        for entry in entries[last:place]:
            value = _folded(fold, value, entry)
        if _text(value, entries[place - 1]) != texts[place]:
            raise _difference(fold, texts, entries[:place], last)
        last = place
    return len(entries)


def _places(entries: Sequence[Entry], at: Iterable[int] | None) -> set[int]:
    """Return after how many entries there are snapshots; the last of them is the end."""
    if at is None:
        step = max(1, len(entries) // _PLACES)
        found = set(range(step, len(entries), step))
    else:
        positions = [entry.position for entry in entries]
        found = {bisect_right(positions, position) for position in at}
    return (found | {len(entries)}) - {0}


def _folded(fold: Fold, value: Json, entry: Entry) -> Json:
    """Return the next value.  Raises FoldBroken where the fold changes the entry."""
    before = encode(entry.value, LARGEST)
    found = fold(value, entry)
    if encode(entry.value, LARGEST) != before:
        raise FoldBroken("the fold changes the value of the entry; copy what is to change", entry)
    return found


def _text(value: Json, entry: Entry) -> str:
    """Return a value as a snapshot keeps it.  Raises FoldBroken where that is not all of it."""
    text = encode(value, LARGEST)
    if not isinstance(text, str):
        raise FoldBroken(f"the fold makes what is no JSON: {text.message}", entry)
    if decode(text) != value:
        raise FoldBroken("the fold makes what JSON does not give back, such as a tuple", entry)
    return text


def _difference(
    fold: Fold, texts: dict[int, str], entries: Sequence[Entry], last: int
) -> FoldBroken:
    """Return which entry is the first after which the snapshot at `last` leads elsewhere."""
    whole = _texts(fold, decode(texts[0]), entries)[last:]
    resumed = _texts(fold, decode(texts[last]), entries[last:])
    apart = (n for n, (one, other) in enumerate(zip(whole, resumed, strict=True)) if one != other)
    first = next(apart, len(resumed) - 1)  # the last, where they differ only now and then
    where = f"from a snapshot at position {entries[last - 1].position}" if last else "a second time"
    return FoldBroken(
        f"the fold gives {whole[first]:.200} from the beginning, {resumed[first]:.200} {where}: it "
        "depends on more than the value and the entry",
        entries[last + first],
    )


def _texts(fold: Fold, value: Json, entries: Sequence[Entry]) -> list[str]:
    """Return the value after each entry, as a snapshot keeps it."""
    found = []
    for entry in entries:
        value = _folded(fold, value, entry)
        found.append(_text(value, entry))
    return found
