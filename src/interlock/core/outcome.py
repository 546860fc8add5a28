"""What a commit returns: `Committed`, or a refusal that says what to do next.

Refusals are plain values here; the façades raise them as the exceptions of `interlock.errors`.
When several apply, the one that comes first in `PRECEDENCE` is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from interlock.core.records import Record


class Written(NamedTuple):
    """One write of a commit: the key's new version and epoch, and its place in the log."""

    key: str
    kind: str
    version: int
    epoch: int
    position: int
    body: str | None


class Committed(NamedTuple):
    """The plan was applied.  `replayed`: by an earlier sending of the same operation id."""

    position: int
    time_us: int
    agent: str
    writes: tuple[Written, ...]
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was written."""

    message: str
    retryable: ClassVar[bool] = False
    next_step: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class Invalid(Refusal):
    """The request is malformed.  `message` names what, and the limit."""

    key: str | None = None
    next_step: ClassVar[str] = "correct the call; sending it again cannot help"


@dataclass(frozen=True, slots=True)
class Fenced(Refusal):
    """The writer was replaced: `held` is its epoch, `current` the one in force."""

    key: str
    held: int
    current: int
    next_step: ClassVar[str] = "stop: another writer has taken over this key"


@dataclass(frozen=True, slots=True)
class Conflict(Refusal):
    """Something that the plan was computed from has moved.

    `expected` is the version that the plan was computed from (None: the key had to be absent),
    `actual` the version now, `record` the fresh record, whose writer and time say who and when.
    For a scanned prefix, `prefix` names it and `key` is the first key that differs.
    """

    key: str
    expected: int | None
    actual: int
    record: Record
    prefix: str | None = None
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "read again, think again on the fresh record, write again"


@dataclass(frozen=True, slots=True)
class Held(Refusal):
    """Another agent has the exclusive right to write now; `seconds` until it may be reclaimed."""

    key: str
    holder: str
    seconds: float
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "wait and try again"


@dataclass(frozen=True, slots=True)
class Contended(Refusal):
    """The limit of attempts or of patience was reached; `attempts` thoughts were made."""

    key: str
    attempts: int
    last: Any = None
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "try again later, or raise attempts= or patience="


PRECEDENCE: tuple[type[Refusal], ...] = (Invalid, Fenced, Conflict, Held, Contended)

Outcome = Committed | Refusal
