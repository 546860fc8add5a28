"""Three-way merge of texts, by lines, after diff3 (Khanna, Kunal and Pierce, 2007); JSON by fields.

Own code: the library for it (merge3) has a licence that this one cannot depend on.
"""

from __future__ import annotations

import json
from difflib import SequenceMatcher

from interlock.core.merge import merge3
from interlock.core.struct import Json

_MOST_LINES = 5_000  # changed ones: comparing takes their square at worst


def merged(path: str, base: bytes, mine: bytes, theirs: bytes) -> bytes | None:
    """Return both changes made to `base`; None where they cannot be merged, or are no text."""
    if mine == theirs or base == mine:
        return theirs
    if base == theirs:
        return mine
    try:
        texts = base.decode(), mine.decode(), theirs.decode()
    except UnicodeDecodeError:
        return None
    found = _merged_json(*texts) if path.endswith(".json") else merged_text(*texts)
    return None if found is None else found.encode()


def merged_text(base: str, mine: str, theirs: str) -> str | None:
    """Return both changes of lines made to `base`; None where they touch each other.

    Where both only added at its end, the additions of theirs come first, then mine.
    """
    if mine.startswith(base) and theirs.startswith(base) and theirs.endswith("\n"):
        added = mine[len(base) :]
        return theirs if theirs[len(base) :].endswith(added) else theirs + added
    was, one, other = (text.splitlines(keepends=True) for text in (base, mine, theirs))
    ours, others = _changes(was, one), _changes(was, other)
    if ours is None or others is None:
        return None
    made: list[str] = []
    at = 0
    changes = sorted(
        [(low, high, new, 0) for low, high, new in others]
        + [(low, high, new, 1) for low, high, new in ours],
        key=lambda change: (change[0], change[1], change[3]),
    )
    before: tuple[int, int, list[str], int] | None = None
    for change in changes:
        low, high, new, side = change
        if before is not None and before[3] != side and low <= before[1]:
            if (low, high, new) == before[:3]:
                continue  # both made the same change
            return None
        made += was[at:low]
        made += new
        at, before = high, change
    return "".join([*made, *was[at:]])


def _changes(was: list[str], now: list[str]) -> list[tuple[int, int, list[str]]] | None:
    """Return what became what: from a line, to a line, the new lines; None where it is too much."""
    start = 0
    while start < min(len(was), len(now)) and was[start] == now[start]:
        start += 1
    end = 0
    while end < min(len(was), len(now)) - start and was[-1 - end] == now[-1 - end]:
        end += 1
    old, new = was[start : len(was) - end], now[start : len(now) - end]
    if max(len(old), len(new)) > _MOST_LINES:
        return None
    return [
        (start + low, start + high, new[first:last])
        for kind, low, high, first, last in SequenceMatcher(
            None, old, new, autojunk=False
        ).get_opcodes()
        if kind != "equal"
    ]


def _merged_json(base: str, mine: str, theirs: str) -> str | None:
    try:
        values: list[Json] = [json.loads(text) for text in (base, mine, theirs)]
    except (ValueError, RecursionError):
        return merged_text(base, mine, theirs)
    value, clashes = merge3(*values)
    if clashes:
        return None
    text = json.dumps(value, ensure_ascii=False, indent=indent(mine))
    return text + "\n" * mine.endswith("\n")


def indent(text: str) -> int | None:
    """Return by how much a text of JSON is indented."""
    for line in text.splitlines()[1:]:
        if line.strip():
            return len(line) - len(line.lstrip()) or None
    return None
