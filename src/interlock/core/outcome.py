"""What a commit returns: `Committed`, or a refusal that says what to do next.

Refusals are plain values here; the façades raise them as the exceptions of `interlock.errors`.
When several apply, the one that comes first in `PRECEDENCE` is the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from interlock.core.records import Committed as Committed
from interlock.core.records import Record
from interlock.core.records import Written as Written
from interlock.core.struct import Struct

if TYPE_CHECKING:
    from interlock.core.merges import Clash


class Refusal(Struct):
    """Nothing was written."""

    message: str
    retryable: ClassVar[bool] = False

    @property
    def next_step(self) -> str:
        """What to do next, in a sentence; "" where `message` says it."""
        return ""


class Invalid(Refusal):
    """The request is malformed.  `message` names what, and the limit.

    `by_rules`: it may be well-formed under other rules than those it was checked by.
    """

    key: str | None = None
    by_rules: bool = False


class Fenced(Refusal):
    """The writer was replaced: `held` is its epoch, `current` the one in force."""

    key: str
    held: int
    current: int

    @property
    def next_step(self) -> str:
        """A writer that was replaced must end."""
        return "Stop."


class Forbidden(Refusal):
    """The rule `rule` of pattern `pattern` does not let this writer write `key` this way."""

    key: str
    pattern: str
    rule: str


class IllegalTransition(Refusal):
    """The machine of `key` does not go from `before` (None: no value yet) to `after`.

    `allowed` holds the states that may follow.
    """

    key: str
    machine: str
    before: str | None
    after: str | None
    allowed: tuple[str, ...]


class Outdated(Refusal):
    """The plan was decided under rules that have changed: `record` holds the current ones.

    The protocols reload and decide again; nobody else sees this.
    """

    record: Record
    retryable: ClassVar[bool] = True


class Conflict(Refusal):
    """Something that the plan was computed from has moved.

    `expected` is the version that the plan was computed from (None: the key had to be absent),
    `actual` the version now, `record` the fresh record, whose writer and time say who and when.
    For a scanned prefix, `prefix` names it and `key` is the first key that differs.  `clashes` are
    the paths that both sides of a rebase changed, with base, mine and theirs.
    """

    key: str
    expected: int | None
    actual: int
    record: Record
    prefix: str | None = None
    clashes: tuple[Clash, ...] = ()
    retryable: ClassVar[bool] = True

    @property
    def next_step(self) -> str:
        """What was computed is computed again; what was to be created exists."""
        if self.expected is None:
            return "Read it first, or create another key."
        return "Re-read, recompute and write again."


class Held(Refusal):
    """Another agent has the exclusive right to write now; `seconds` until it may be reclaimed.

    `lease`: it holds the key's lease; otherwise it is its turn in the queue for the key.
    """

    key: str
    holder: str
    seconds: float
    lease: bool = False
    retryable: ClassVar[bool] = True

    @property
    def next_step(self) -> str:
        """An update may wait for its turn."""
        return f"Try again later{'' if self.lease else ', or use update()'}."


class Contended(Refusal):
    """The limit `limit` (attempts or patience) was reached, after `attempts` attempts."""

    key: str
    attempts: int
    last: Any = None
    limit: str = "attempts"
    retryable: ClassVar[bool] = True

    @property
    def next_step(self) -> str:
        """Others are done some time; and the limit is the caller's."""
        return f"Try again later, or raise {self.limit}=."


class Wait(NamedTuple):
    """One wait of a cycle: `agent` waits for `key`, which `holder` has or comes before it for."""

    agent: str
    key: str
    holder: str


class Deadlock(Refusal):
    """The caller waited for itself: `cycle` says who waits for whom, on which keys.

    Of those who wait for each other, the one who began to wait last is refused.
    """

    key: str
    cycle: tuple[Wait, ...]
    retryable: ClassVar[bool] = True

    @property
    def next_step(self) -> str:
        """Somebody has to give way."""
        return "Release what you hold and retry."


class Pruned(Refusal):
    """What was asked for is no longer kept: the log begins at position `oldest`."""

    position: int
    oldest: int


class RunFailed(Refusal):
    """A run has failed, or is to fail."""

    @property
    def next_step(self) -> str:
        """A failed run stays failed."""
        return "Start another run, with another id."


class ProgramChanged(Refusal):
    """The program of a run asks for other steps than those that are recorded."""

    @property
    def next_step(self) -> str:
        """A run belongs to the program that began it."""
        return "Finish the run with its old program, or cancel it. Give new programs new run ids."


class BreakerOpen(Refusal):
    """Breaker `name` lets no call through: it is `open`, or `half_open` and somebody else probes.

    `seconds`: when to ask again.  `reason`: the failure that opened it.
    """

    name: str
    state: str
    seconds: float
    reason: str
    retryable: ClassVar[bool] = True

    @property
    def next_step(self) -> str:
        """The caller may do without."""
        return "Try again later, or go on without this call."


PRECEDENCE: tuple[type[Refusal], ...] = (
    Invalid,
    Fenced,
    Outdated,
    Forbidden,
    IllegalTransition,
    Conflict,
    Held,
    Contended,
    Deadlock,
)

Outcome = Committed | Refusal
