"""What a write changed in a value: items of lists, fields of objects, lines of texts.

A change can be looked for in a later value, and made again there: a three-way merge of which the
base is what the change was made to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from interlock import Json
from interlock.core.merge import REMOVED, same
from interlock.files.merge import merged_text

Path = tuple[str, ...]
ITEMS, FIELD, TEXT = "items", "field", "text"
_LONG = 80  # characters, from which on a text of one line is a text and not a name


class Fact(NamedTuple):
    """One thing that a write changed at a path.

    `items`: a list got the items `new` and lost the items `old`.  `field`: a value became another;
    `REMOVED` stands for none.  `text`: a text became another.
    """

    path: Path
    kind: str
    old: Any
    new: Any

    def to_json(self) -> dict[str, Json]:
        """Return the fact as an object: `added` and `removed`, or `was` and `became`."""
        where: dict[str, Json] = {"path": list(self.path)}
        if self.kind == ITEMS:
            return where | {"added": list(self.new), "removed": list(self.old)}
        if self.kind == TEXT:
            return where | {"added": _pieces(self.old, self.new)}
        became = {} if self.new is REMOVED else {"became": self.new}
        return where | ({} if self.old is REMOVED else {"was": self.old}) | became

    def __str__(self) -> str:
        where = ".".join(map(str, self.path))
        at = f"{where}: " if where else ""
        if self.kind == ITEMS:
            signs = [*(("+", item) for item in self.new), *(("-", item) for item in self.old)]
            return at + ", ".join(f"{sign}{short(item)}" for sign, item in signs)
        if self.kind == TEXT:
            return at + ", ".join(f"+{short(piece)}" for piece in _pieces(self.old, self.new))
        if self.new is REMOVED:
            return f"-{where}"
        return f"{at}{'' if self.old is REMOVED else f'{short(self.old)} -> '}{short(self.new)}"


def short(value: object, size: int = 40) -> str:
    """Return a value as JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= size else f"{text[: size - 3]}..."


def changes(old: Any, new: Any, path: Path = ()) -> list[Fact]:
    """Return what changed from one value to the next at a path, REMOVED being no value."""
    found: list[Fact] = []
    if old is not new:
        _compare(old, new, path, found)
    return found


def _compare(old: Any, new: Any, path: Path, found: list[Fact]) -> None:
    kind = type(old)
    if kind is dict and type(new) is dict:
        for name, value in new.items():
            before = old.get(name, REMOVED)
            if before is not value and (before != value or type(before) is not type(value)):
                _compare(before, value, (*path, name), found)
        if len(old) > len(new) or not old.keys() <= new.keys():
            for name in old.keys() - new.keys():
                found.append(Fact((*path, name), FIELD, old[name], REMOVED))
    elif kind is list and type(new) is list:
        size = len(old)
        if len(new) >= size and new[:size] == old:
            if len(new) > size:
                found.append(Fact(path, ITEMS, (), tuple(new[size:])))
        else:
            gone, added = _left(old, new), _left(new, old)
            if gone or added:
                found.append(Fact(path, ITEMS, gone, added))
    elif old is REMOVED and type(new) is dict and new:
        for name, value in new.items():
            _compare(REMOVED, value, (*path, name), found)
    elif old is REMOVED and type(new) is list and new:
        found.append(Fact(path, ITEMS, (), tuple(new)))
    elif type(new) is str and (kind is str or old is REMOVED):
        before = "" if old is REMOVED else old
        if _is_text(before, new):
            found.append(Fact(path, TEXT, before, new))
        else:
            found.append(Fact(path, FIELD, old, new))
    elif not same(old, new):
        found.append(Fact(path, FIELD, old, new))


def _is_text(old: str, new: str) -> bool:
    if "\n" in old or "\n" in new or len(new) > _LONG:
        return True
    # Names and states may begin alike: `task-1` and `task-10`.
    return bool(old) and len(new) > len(old) and new.startswith(old) and not new[len(old)].isalnum()


def _pieces(old: str, new: str) -> list[str]:
    """Return what a text got: what was added at its end, else its new lines."""
    if new.startswith(old):
        return [piece for piece in new[len(old) :].splitlines() if piece] or [new[len(old) :]]
    had = Counter(old.splitlines())
    return [line for line in new.splitlines() if line and had[line] < 1]


def _left(some: Sequence[Any], other: Sequence[Any]) -> tuple[Any, ...]:
    """Return the items that one list has more often than another."""
    if len(set(map(type, some)) | {str}) == 1 and len(names := set(some)) == len(some):
        names.difference_update(each for each in other if type(each) is str)
        return tuple(item for item in some if item in names) if names else ()
    counts = Counter(map(text_of, other))
    found = []
    for item in some:
        name = text_of(item)
        if counts[name]:
            counts[name] -= 1
        else:
            found.append(item)
    return tuple(found)


def text_of(value: Any) -> bytes:
    """Return a value as JSON, the same for the same value."""
    from msgspec.json import encode

    return encode(value, order="sorted")


def at(value: Any, path: Path) -> Any:
    """Return what is at a path of a value, REMOVED where nothing is."""
    for name in path:
        if type(value) is not dict or name not in value:
            return REMOVED
        value = value[name]
    return value


def kept(fact: Fact, value: Any) -> bool:
    """Whether a value has what a fact brought."""
    there = at(value, fact.path)
    if fact.kind == FIELD:
        return same(there, fact.new)
    return not missing(fact, there)


def missing(fact: Fact, there: Any) -> list[Any]:
    """Return the items or pieces of text that a fact brought, and the value at its path lacks."""
    if fact.kind == ITEMS:
        items = there if type(there) is list else []
        if not fact.old and len(fact.new) == 1:
            return [] if fact.new[0] in items else [fact.new[0]]
        back = [each for each in fact.old if each in items] if fact.old else []
        return [*_left(fact.new, items), *back]
    pieces = _pieces(fact.old, fact.new)
    text = there if type(there) is str else ""
    if "\n" in fact.new:
        lines = set(text.splitlines())
        return [piece for piece in pieces if piece not in lines]
    return [piece for piece in pieces if piece not in text]


def undone(fact: Fact, value: Any) -> bool:
    """Whether a value is at the fact's path as if the change had never been made."""
    there = at(value, fact.path)
    if fact.kind == FIELD:
        return same(there, fact.old)
    if fact.kind == ITEMS:
        return len(missing(fact, there)) >= len(fact.new) + len(fact.old)
    return there is REMOVED or (
        type(there) is str and len(missing(fact, there)) == len(_pieces(fact.old, fact.new))
    )


def reapplied(value: Any, facts: Iterable[Fact]) -> tuple[Any, list[Fact]]:
    """Return a value with lost facts made again, and those that clash with what is there now."""
    clashes = []
    for fact in facts:
        there = at(value, fact.path)
        made = _made(fact, there)
        if made is None:
            clashes.append(fact)
        else:
            value = _put(value, fact.path, made[0])
    return value, clashes


def _made(fact: Fact, there: Any) -> tuple[Any] | None:
    """Return what the place of a fact holds when it is made again; None where it clashes."""
    if fact.kind == ITEMS and type(there) in (list, type(REMOVED)):
        left = list(_left([] if there is REMOVED else there, fact.old))
        return ([*left, *missing(fact._replace(old=()), left)],)
    if fact.kind == TEXT and there is REMOVED:
        return None if fact.old else (fact.new,)
    if fact.kind == TEXT and type(there) is str:
        if not missing(fact, there):
            return (there,)
        if fact.new.startswith(fact.old) and there.startswith(fact.old):
            between = "" if not there or there.endswith("\n") or "\n" not in fact.new else "\n"
            return (there + between + fact.new[len(fact.old) :],)
        merged = merged_text(fact.old, fact.new, there)
        return None if merged is None else (merged,)
    if fact.kind != FIELD:
        return None
    if same(there, fact.old) or same(there, fact.new):
        return (fact.new,)
    return None


def _put(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    made = dict(value) if type(value) is dict else {}
    inner = _put(made.get(path[0], REMOVED), path[1:], new)
    if inner is REMOVED:
        made.pop(path[0], None)
    else:
        made[path[0]] = inner
    return made


def applied(value: Any, kind: str, change: Any) -> Any:
    """Return a value after the store itself has changed it: `fields`, `add` or `remove`.

    A list, which may be long, is changed in place.
    """
    if kind == "fields" and type(change) is dict:
        return {**(value if type(value) is dict else {}), **change}
    if kind == "add":
        if type(change) is list:
            items = value if type(value) is list else []
            items.extend(change)
            return items
        if type(change) is str:
            return (value if type(value) is str else "") + change
        if type(change) is dict:  # numbers of an object's fields
            fields = dict(value) if type(value) is dict else {}
            for name, by in change.items():
                fields[name] = _number(fields.get(name, 0)) + by
            return fields
        return _number(value) + change
    if kind == "remove" and type(change) is list:
        if type(value) is dict:
            return {name: each for name, each in value.items() if name not in change}
        items = list(value) if type(value) is list else []
        for item in change:
            if item in items:
                items.remove(item)
        return items
    if kind == "remove" and type(change) is dict and type(value) is list:
        first, last = change.get("first", 0), change.get("last", 0)
        return value[first : len(value) - last]
    return value


def _number(value: Any) -> Any:
    return value if type(value) in (int, float) else 0
