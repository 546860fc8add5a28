"""What a guard needs of the place where data stays: two functions, `load` and `replace`.

`load(key)` returns what is there and its **tag**: whatever tells this content from any other, such
as the stored bytes, an ETag or a version.  `replace` puts something else there, in one atomic step
with comparing the tag.  Everything else (deciding, machines, types, turns) is done around it.

To add a place: write a class like `places/redis.py`, whose methods are coroutine functions.  A
place over a client that blocks just never awaits anything, and is then driven without a loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from interlock.core.struct import Json
from interlock.errors import Invalid

if TYPE_CHECKING:
    from interlock.core.refusals import Refusal
    from interlock.session import AsyncSession, Session


class Absent(Enum):
    """In place of a value, or of a tag, where there is nothing: `guards.ABSENT`."""

    ABSENT = "ABSENT"

    def __repr__(self) -> str:
        return "guards.ABSENT"


ABSENT = Absent.ABSENT
OVERTAKEN = object()
"""In place of the tag of something that was written and may be something else by now."""


class Together(Enum):
    """How an entry of a space and a write can be one atomic step."""

    NOT = "not"
    INSIDE = "in one transaction"
    SCRIPT = "in one script"


class Stored(bytes):
    """The bytes that are stored, as a tag; they do not fill a screen."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


class Found(NamedTuple):
    """What is at a key: its tag, and its value as JSON has it (`ABSENT`: there is nothing).

    `version` is how often it was written, where the place counts that beside the value.
    """

    tag: object
    value: Json | Absent
    version: int = 0


class Changed(NamedTuple):
    """What `replace` returns if the tag is not the one expected: nothing was written.

    `found` is what is there, if the same step has found that out; a guard loads it otherwise.  Of
    several writes `key` is the one whose tag it is not.
    """

    found: Found | None = None
    key: str | None = None


class Change(NamedTuple):
    """One write: put `body` (JSON text; None: delete) where `tag` is that of what is there.

    `op_id` names it, so that it is not applied twice.  `again`: an answer to it was lost.
    `compared_only`: nothing is put, but the tag must be that, too (in `replace_all`).  `appended`:
    `body` is added at the end of what is there, whatever that is.
    """

    key: str
    tag: Any
    body: str | None
    op_id: str
    again: bool = False
    compared_only: bool = False
    appended: bool = False


Answers = Sequence[object]


class Stopped(Exception):
    """What a space has refused in the same atomic step as a write: neither is done."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Repeated(Exception):
    """What was written was written before, too, when its answer was lost: it is rolled back."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.answers = answers


class Place(Protocol):
    """Data outside a space.

    `name` says in messages and in the names of turns what it is, `asynchronous` whether it needs an
    event loop, `texts` whether a value is an object of texts, `several` whether `replace_all` can
    write more than one key.  `load` and `replace` raise the
    faults of `interlock.errors`, and `AnswerLost` where a request was sent without an answer: they
    are then called again.
    """

    name: str
    asynchronous: bool
    texts: bool
    several: bool

    async def load(self, key: str) -> Found:
        """Return what is at `key`."""
        ...

    async def replace(self, change: Change) -> object | Changed:
        """Write if the tag still is that of the change; return the new tag, or `Changed`.

        Where what was written is not exactly the change, it returns what is there now as `Found`.
        The tag `ABSENT` demands that there is nothing, whatever `load` would say of it.
        """
        ...

    def check_key(self, key: str) -> str | None:
        """Return why `key` can't be a key here, or None."""
        ...

    def has_receipts(self, key: str) -> bool:
        """Whether a write of `key` that is sent again is known to have been applied."""
        ...

    async def replace_all(self, changes: Sequence[Change], beside: Any) -> Answers | Changed:
        """Write several in one atomic step, as `replace` does one, with the entries `beside`.

        Raises Invalid where the place can't.
        """
        ...

    async def keys(self, pattern: str) -> list[str]:
        """Return the keys that match a pattern with `*`.  Raises Invalid where it can't."""
        ...

    async def is_one_with(self, session: Session | AsyncSession) -> Together:
        """Return how writes here and entries of that space can be one atomic step."""
        ...

    def in_callers_transaction(self) -> bool:
        """Whether what is read and written now is part of an open transaction of the caller's."""
        ...

    def within(self) -> AbstractAsyncContextManager[object]:
        """Return the block of that transaction: it gives the connection."""
        ...


class Alone:
    """What a place has in common that writes one key at a time, in no transaction."""

    name: str
    several = False

    def has_receipts(self, key: str) -> bool:
        """Never."""
        return False

    async def replace_all(self, changes: Sequence[Change], beside: Any) -> Answers | Changed:
        """Refuse it."""
        raise Invalid(f"{self.name} can't write several keys in one step.")

    async def keys(self, pattern: str) -> list[str]:
        """Refuse it."""
        raise Invalid(f"{self.name} can't list its keys: name them.")

    async def is_one_with(self, session: Session | AsyncSession) -> Together:
        """Never."""
        return Together.NOT

    def in_callers_transaction(self) -> bool:
        """Never."""
        return False

    def within(self) -> AbstractAsyncContextManager[object]:
        """There is none."""
        raise NotImplementedError
