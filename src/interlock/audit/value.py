"""What the audit knows of a value: its text, where its data were read, what kind of thing it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Site(NamedTuple):
    """A position in a file, and the function that it is in."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    function: str


class Spot(NamedTuple):
    """What is read or written: the kind of store, the thing called, the key in it."""

    store: str
    holder: str  # the client, the table, the class
    key: str
    fields: frozenset[str] = frozenset()  # empty: all of it


@dataclass(frozen=True, eq=False)
class Read:  # compared by identity: the same line may read twice
    """One read that happened on a path through a function."""

    site: Site
    spot: Spot
    method: str
    test: bool  # says only whether it is there
    held: frozenset[str]  # the locks
    tick: int  # waits before it
    loops: tuple[int, ...]  # the loops around it
    safe: str = ""  # what makes it safe: FOR UPDATE, WATCH
    asked: frozenset[str] = frozenset()  # columns that its condition names
    columns: tuple[str, ...] = ()  # what it selects, in order
    where: tuple[tuple[str, Value], ...] = ()  # what its condition compares
    frames: tuple[int, ...] = ()  # the calls that lead to it
    via: Site | None = None  # the call in the function that is examined
    slow: int = 0
    arguments: tuple[str, ...] = ()
    noun: str = ""  # of a generic store: what get_NOUN gets


class Flow(NamedTuple):
    """Data of a read, or of one field of what was read."""

    read: Read
    part: str = ""


NOTHING: frozenset[Flow] = frozenset()
NO_MARKS: frozenset[str] = frozenset()


def in_order(flows: Iterable[Flow]) -> list[Flow]:
    """Return flows by where their reads stand: a set has another order in each run."""
    return sorted(flows, key=lambda flow: (flow.read.site.line, flow.read.site, flow.part))


@dataclass(frozen=True, slots=True)
class Value:
    """What is known of a value."""

    text: str
    flows: frozenset[Flow] = NOTHING
    kind: str = ""  # a store's name, or: file, path, class, model, sql, cursor, row, lock, mem
    holder: str = ""  # of a store: the text that stands for it; of a file: its path
    const: str | None = None
    marks: frozenset[str] = NO_MARKS
    parts: tuple[tuple[str, Value], ...] = ()  # of a dict, list or tuple that was written out
    about: object = None  # a ClassInfo, a list of functions, a Query
    node: ast.expr | None = field(default=None, compare=False)

    def part(self, name: str) -> Value | None:
        """Return what a written out dict or tuple holds under a name or position."""
        for key, value in self.parts:
            if key == name:
                return value
        return None


def merged(values: list[Value], text: str) -> Value:
    """Return what is known of a value that may be any of these."""
    first = values[0]
    if all(each is first for each in values):
        return first
    kinds = {each.kind for each in values if each.kind}
    same = all(each.text == first.text for each in values)
    solid = next((each for each in values if each.kind), first)
    return Value(
        first.text if same else text,
        frozenset().union(*(each.flows for each in values)),
        solid.kind if len(kinds) == 1 else "",
        solid.holder if len(kinds) == 1 else "",
        _one_text([each.const for each in values]),
        frozenset().union(*(each.marks for each in values)),
        first.parts if same else (),
        solid.about if len(kinds) == 1 else None,
    )


def _one_text(texts: list[str | None]) -> str | None:
    """Return the text that all are; of several statements of SQL the first stands for all."""
    statements = all(each is not None and _SQL.match(each) for each in texts)
    return texts[0] if statements or len(set(texts)) == 1 else None


_SQL = re.compile(r"(?i)\s*(insert|update|select)\s")


@dataclass(frozen=True)
class Write:
    """One write, with what led to it."""

    site: Site
    spot: Spot
    method: str
    flows: frozenset[Flow]  # of what is written
    via: Site | None
    frames: tuple[int, ...]
    guard: str = ""  # what compares
    marks: frozenset[str] = NO_MARKS
    arguments: tuple[str, ...] = ()
    where: tuple[tuple[str, Value], ...] = ()
    kind: str = "write"  # write, insert, delete, claim
    noun: str = ""
    value: str = ""  # the variable that is written
    key_flows: frozenset[Flow] = NOTHING  # of a generic store: the data in its key
