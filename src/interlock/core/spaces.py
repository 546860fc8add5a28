"""A store as a whole: which spaces it has, how they are made, dropped and renamed, and its health.

The requests here are answered by the backend of a store, which is of no space.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, NamedTuple

from interlock.core.keys import check_name
from interlock.core.records import as_datetime
from interlock.core.refusals import Invalid
from interlock.core.requests import Request, Steps

DONE: Literal["done"] = "done"
TAKEN: Literal["taken"] = "taken"  # there is a space of the new name
GONE: Literal["gone"] = "gone"  # there is no such space


class SpaceInfo(NamedTuple):
    """One space of a store.

    `keys` counts those that exist, without the library's own.  `entries` are those that the log
    keeps, `position` is its last one, and `size` about how many bytes the space takes.
    `importing`: an import or a copy into it has begun and is not finished; nobody can open it.
    """

    name: str
    keys: int
    entries: int
    size: int
    position: int
    time_us: int
    importing: bool

    @property
    def at(self) -> datetime | None:
        """When the last commit was made (store's clock, UTC); None if there is none."""
        return as_datetime(self.time_us) if self.position else None


class Finding(NamedTuple):
    """One thing that `doctor` looked at.

    `level` is `ok`, `note` (worth knowing), or `wrong`; `advice` says what to do about it.
    """

    check: str
    level: Literal["ok", "note", "wrong"]
    found: str
    advice: str = ""


class ListSpaces(Request[tuple[SpaceInfo, ...]]):
    """Answered by the spaces of the store, in the order of their names."""


class NameSpaces(Request[tuple[str, ...]]):
    """Answered by the names of the spaces that can be opened, in their order, counting nothing."""


class FindSpace(Request[str | None]):
    """Answered by the unique id of a space, None where there is none of that name."""

    name: str


class CreateSpace(Request[bool]):
    """Make a space with this unique id.  Answered by whether it is there, with this id."""

    name: str
    uid: str


class DropSpace(Request[None]):
    """Drop the space `name` with unique id `uid`, with all that it holds.  Whoever has it open gets
    `Dropped` from then on.  Answered by None, also where it is gone already.

    `unfinished`: only if its import is not finished, so that nobody has opened it.
    """

    name: str
    uid: str
    unfinished: bool = False


class RenameSpace(Request[Literal["done", "taken", "gone"]]):
    """Give the space `name` with unique id `uid` the name `to`.

    `new` is what its unique id becomes on a store whose spaces are found by their names: whoever
    has it open there gets `Dropped`.  On the others it stays the same space, and so does the id.
    """

    name: str
    uid: str
    to: str
    new: str


class Examine(Request[tuple[Finding, ...]]):
    """Answered by what is to be said of the store's health."""


def find(name: str) -> Steps[str | Invalid]:
    """Return the unique id of a space, or Invalid."""
    wrong = check_name("space", name)
    if wrong is not None:
        return wrong
    uid = yield from FindSpace(name)
    return no_such_space(name) if uid is None else uid


def exists(name: str) -> Steps[bool | Invalid]:
    """Return whether there is a space of this name, or Invalid."""
    wrong = check_name("space", name)
    if wrong is not None:
        return wrong
    return (yield from FindSpace(name)) is not None


def create(name: str, uid: str) -> Steps[Invalid | None]:
    """Make a space that must not exist.  Returns None or Invalid."""
    wrong = check_name("space", name)
    if wrong is not None:
        return wrong
    made = yield from CreateSpace(name, uid)
    return None if made else Invalid(f"There is a space {name!r} already.")


def drop(name: str) -> Steps[Invalid | None]:
    """Drop a space.  Returns None, or Invalid where there is none."""
    uid = yield from find(name)
    if isinstance(uid, Invalid):
        return uid
    yield from DropSpace(name, uid)
    return None


def rename(name: str, to: str, new: str) -> Steps[Invalid | None]:
    """Rename a space.  Returns None, or Invalid."""
    wrong = check_name("space", to)
    if wrong is not None:
        return wrong
    uid = yield from find(name)
    if isinstance(uid, Invalid):
        return uid
    answer = yield from RenameSpace(name=name, uid=uid, to=to, new=new)
    if answer == TAKEN:
        return Invalid(f"There is a space {to!r} already. Name another one, or drop it first.")
    return no_such_space(name) if answer == GONE else None


def no_such_space(name: str) -> Invalid:
    """The refusal of a name that no space has."""
    return Invalid(f"There is no space {name!r}. `interlock spaces` lists them.")
