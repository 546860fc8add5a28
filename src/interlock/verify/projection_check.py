"""Checks that the fold of a projection is pure: the same from the beginning and from snapshots."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from interlock.core.folding import LARGEST
from interlock.core.records import Entry
from interlock.core.values import decode, encode
from interlock.errors import InterlockError

_PLACES = 100

Fold = Callable[[Any, Entry], Any]


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
    initial: Any = None,
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


def _folded(fold: Fold, value: Any, entry: Entry) -> Any:
    """Return the next value.  Raises FoldBroken where the fold changes the entry."""
    before = encode(entry.value, LARGEST)
    found = fold(value, entry)
    if encode(entry.value, LARGEST) != before:
        raise FoldBroken("the fold changes the value of the entry; copy what is to change", entry)
    return found


def _text(value: Any, entry: Entry) -> str:
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


def _texts(fold: Fold, value: Any, entries: Sequence[Entry]) -> list[str]:
    """Return the value after each entry, as a snapshot keeps it."""
    found = []
    for entry in entries:
        value = _folded(fold, value, entry)
        found.append(_text(value, entry))
    return found
