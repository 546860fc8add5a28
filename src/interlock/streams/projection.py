"""The protocols of a projection, written once: entries of the log folded into a value in memory.

A named projection is kept in the store every so many positions, so that opening it costs what came
since.  What is kept is a cache: without it the log is folded from its beginning.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from interlock.core.fold import LARGEST
from interlock.core.keys import check_key, check_prefix, decode, encode
from interlock.core.read import check_reached
from interlock.core.records import Entry
from interlock.core.refusals import Invalid, Pruned, Refusal
from interlock.core.requests import (
    PROJECTIONS,
    DropProjection,
    LoadProjection,
    ReadLog,
    SaveProjection,
    Steps,
)
from interlock.core.struct import Json
from interlock.core.write import forgot_return
from interlock.typed import UNTYPED, Typed

Fold = Callable[[Json, Any], Json]
PAGE = 1000  # entries
I_co = TypeVar("I_co", covariant=True)


class Page(NamedTuple, Generic[I_co]):
    """What is folded next: what is in the log up to `upto`; the rest is as in a LogPage."""

    items: Sequence[I_co]
    upto: int
    head: int
    erasures: int


Pages = Callable[[int], Steps[Page[Any] | Refusal]]


@dataclass(frozen=True)
class Shape:
    """What a projection is: `fold` of the entries under `prefix`, or of `key`, beginning with
    `initial`.

    It is kept under `kept_as` ("": it is not kept) when it has come `every` positions further.
    `pages`: reads what is folded in place of entries.
    """

    fold: Fold
    prefix: str
    initial: Json
    kept_as: str
    every: int
    typed: Typed[Any] = UNTYPED
    key: str | None = None
    pages: Pages | None = None

    @property
    def where(self) -> str:
        """The prefix, or the key."""
        return self.prefix if self.key is None else self.key

    @property
    def about(self) -> dict[str, Json]:
        """What it is a projection of, as it is stored."""
        where = {"prefix": self.prefix} if self.key is None else {"key": self.key}
        return {**where, "initial": self.initial}


@dataclass
class View:
    """A projection as of log position `position`; `saved` is the position that it was kept at.

    Nothing is known of the value until `is_open`.  `changes` counts what may have changed it.
    `erasures`: the erasing steps of the space that the value is made after; None until known.
    """

    value: Json = None
    position: int = 0
    saved: int = 0
    is_open: bool = False
    changes: int = 0
    erasures: int | None = None

    def become(self, value: Json, position: int, erasures: int | None = None) -> None:
        """Begin with a value that is kept at a position."""
        self.value, self.position, self.saved, self.is_open = value, position, position, True
        self.erasures = erasures
        self.changes += 1


def shape(
    fold: object,
    prefix: str,
    initial: Json,
    name: str | None,
    version: object,
    every: object,
    form: Any = None,
    key: str | None = None,
    pages: Pages | None = None,
) -> Shape | Invalid:
    """Return what a projection is, or what is malformed."""
    if not callable(fold) or inspect.iscoroutinefunction(fold):
        of = "an entry" if pages is None else "an event"
        return Invalid(f"fold={fold!r:.60} must be a plain function of a value and {of}.")
    wrong = check_prefix(prefix) or (name is not None and check_key(name))
    if wrong:
        return wrong
    for what, number in (("version", version), ("snapshot_every", every)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            return Invalid(f"{what}={number!r:.40} must be a whole number from 1.")
    assert isinstance(every, int)
    typed: Typed[Any] = Typed(form)
    if name is None:
        return Shape(fold, prefix, deepcopy(initial), "", every, typed, key, pages)
    body = encode(initial, LARGEST)
    if isinstance(body, Invalid):
        return Invalid(f"initial: {body.message} A stored projection is JSON.")
    kept_as = f"{PROJECTIONS}{name}/{version}"
    return Shape(fold, prefix, decode(body), kept_as, every, typed, key, pages)


def refresh(shape: Shape, view: View) -> Steps[Refusal | None]:
    """Fold what came since, up to the end of the log.

    Returns None, Invalid or Pruned; raises what the fold raises.
    """
    refused: Refusal | None = None
    while True:
        if not view.is_open:
            refused = yield from _open(shape, view)
        if refused is not None:
            return refused
        page = yield from (shape.pages or partial(_entries, shape))(view.position)
        if isinstance(page, Pruned):
            refused = yield from _skip(shape, view, page)
            if refused is not None:
                return refused
            continue
        if isinstance(page, Refusal):
            return page
        if view.erasures not in (None, page.erasures):
            view.is_open = False  # the value may hold what was erased: begin anew
            continue
        view.erasures = page.erasures
        refused = check_reached(view.position, page.head)
        if refused is not None:
            return refused
        refused = _take(shape, view, page)
        if refused is not None:
            return refused
        if page.upto >= page.head:
            break
    if shape.kept_as and view.position - view.saved >= shape.every:
        return (yield from _save(shape, view))
    return None


def drop(shape: Shape, view: View) -> Steps[Invalid | None]:
    """Forget what is kept, and the value.  Returns None, or Invalid."""
    if not shape.kept_as:
        return Invalid("The projection has no name, so nothing of it is stored.")
    view.is_open = False
    yield DropProjection(shape.kept_as)
    return None


def own(key: str) -> bool:
    """Say whether a key is the library's own, which no projection is about."""
    return key.startswith("$")


def _entries(shape: Shape, after: int) -> Steps[Page[Entry] | Refusal]:
    """Protocol: read the entries that are folded next."""
    page = yield from ReadLog(after=after, limit=PAGE, prefix=shape.prefix, key=shape.key)
    if isinstance(page, Pruned):
        return page
    entries = page.entries
    if not shape.prefix or own(shape.prefix):
        entries = [entry for entry in entries if not own(entry.key)]
    return Page([*shape.typed.entries(entries)], page.upto, page.head, page.erasures)


def _take(shape: Shape, view: View, page: Page[Any]) -> Invalid | None:
    """Fold a page."""
    view.is_open = False  # a fold that raises may have changed the value
    value, fold, needed, item = view.value, shape.fold, shape.initial is not None, None
    try:
        for item in page.items:
            value = fold(value, item)
            if value is None and needed:
                return Invalid(forgot_return(f"The projection's fold of {_place(shape, item)}"))
    except Exception as problem:  # leaving it out would make another view than the log says
        problem.add_note(f"the projection folded {_place(shape, item)}")
        raise
    view.value, view.position, view.is_open = value, page.upto, True
    view.changes += len(page.items)
    return None


def _place(shape: Shape, item: object) -> str:
    """Return what an item of a projection is, for a message."""
    if isinstance(item, Entry):
        return f"{item.key!r}, position {item.position}"
    return f"{item!r:.80}, an event of {shape.key!r}"


def _open(shape: Shape, view: View) -> Steps[Invalid | None]:
    """Protocol: begin with what is kept, or with the initial value.  Returns None, or Invalid."""
    view.is_open = False
    if shape.kept_as:
        saved = yield from LoadProjection(shape.kept_as)
        found = None if saved is None else _read(saved.body)
        if saved is not None and found is not None:
            value = found.pop("value")
            if found != shape.about:
                stored = " and ".join(f"{name}={each!r:.60}" for name, each in found.items())
                return Invalid(
                    f"{_named(shape)} is stored with {stored}. Raise version= for what changed."
                )
            view.become(value, saved.position, saved.erasures)
            return None
    view.become(deepcopy(shape.initial), 0)
    # Kept as it begins, it holds the log for what is to be folded.
    return (yield from _save(shape, view)) if shape.kept_as else None


def _skip(shape: Shape, view: View, pruned: Pruned) -> Steps[Invalid | Pruned | None]:
    """Protocol: go on from what another process has kept since, where the log is cut up to there.

    Returns None, or a refusal: nothing is known of the value then.
    """
    before = view.position
    if shape.kept_as:
        refused = yield from _open(shape, view)
        if refused is not None or view.position > before:
            return refused
    view.is_open = False
    return pruned


def _read(body: str) -> dict[str, Json] | None:
    """Return what was kept, None where it cannot be read."""
    try:
        found = decode(body)
    except ValueError:
        return None
    names = {"initial", "value"}
    whole = isinstance(found, dict) and found.keys() - {"prefix", "key"} == names
    return found if whole else None


def _save(shape: Shape, view: View) -> Steps[Invalid | None]:
    """Protocol: keep the value as it is.  Returns None, or Invalid."""
    whole = {**shape.about, "value": view.value}
    body = encode(whole, LARGEST)
    if isinstance(body, Invalid):
        return Invalid(f"Can't store {_named(shape)}: {body.message}")
    if decode(body) != whole:
        return Invalid(
            f"Can't store {_named(shape)}: JSON changes its value (a tuple becomes a list). "
            "Fold into JSON types, or leave out name=."
        )
    view.saved = view.position
    yield SaveProjection(shape.kept_as, position=view.position, body=body, erasures=view.erasures)
    return None


def _named(shape: Shape) -> str:
    name, _, version = shape.kept_as.removeprefix(PROJECTIONS).rpartition("/")
    return f"projection {name!r} (version {version})"
