"""The exceptions.  A refusal: nothing was written.  A fault: something is broken.

`Refused.retryable` says whether trying again may help and `Refused.next_step` how.  None of them
is a RuntimeError: some frameworks take a RuntimeError for their own shutdown.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, NoReturn, TypeVar

from interlock.core import refusals
from interlock.core.merge import Clash
from interlock.core.records import Record
from interlock.core.refusals import Wait, described, sentences

T = TypeVar("T")


class InterlockError(Exception):
    """Everything that Interlock raises."""


class Refused(InterlockError):
    """The store refused the write.  Nothing was written."""

    _kind: ClassVar[type[refusals.Refusal]] = refusals.Refusal

    def __init__(self, outcome: refusals.Refusal | str) -> None:
        if isinstance(outcome, str):
            outcome = self._kind(outcome)
        super().__init__(sentences(outcome.message, outcome.next_step))
        self.outcome: Any = outcome

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.outcome,)

    @property
    def retryable(self) -> bool:
        """Whether trying again may help."""
        return bool(self.outcome.retryable)

    @property
    def next_step(self) -> str:
        """What to do next, in a few words."""
        return str(self.outcome.next_step)


class Invalid(Refused):
    """The request is malformed: the message names what, and the limit."""

    _kind = refusals.Invalid


class KeyDestroyed(Invalid):
    """Raised by a cipher: the key that the value needs was destroyed, and the value is erased."""


class Conflict(Refused):
    """Something that the write was computed from has changed.

    Re-read, recompute and write again.
    """

    @property
    def key(self) -> str:
        """The key that changed."""
        return str(self.outcome.key)

    @property
    def expected(self) -> int | None:
        """The version that the write was computed from; None if the key had to be absent."""
        version: int | None = self.outcome.expected
        return version

    @property
    def actual(self) -> int:
        """The version of the key now."""
        return int(self.outcome.actual)

    @property
    def record(self) -> Record:
        """The fresh record, read in the same atomic step that refused the write."""
        record: Record = self.outcome.record
        return record

    @property
    def clashes(self) -> tuple[Clash, ...]:
        """The paths that both sides of a rebase changed: path, base, mine, theirs."""
        clashes: tuple[Clash, ...] = self.outcome.clashes
        return clashes

    @property
    def writer(self) -> str | None:
        """Who wrote the fresh record."""
        return self.record.writer

    @property
    def at(self) -> datetime | None:
        """When the fresh record was written (store's clock)."""
        return self.record.at


class Held(Refused):
    """Another agent has the exclusive right to write now."""

    @property
    def holder(self) -> str:
        """The agent that holds it."""
        return str(self.outcome.holder)

    @property
    def seconds(self) -> float:
        """Seconds until it may be reclaimed, unless it is renewed."""
        return float(self.outcome.seconds)


class Contended(Refused):
    """The limit of attempts or of patience was reached."""

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return int(self.outcome.attempts)


class Deadlock(Refused):
    """The caller waited for something held by others who wait for what the caller holds."""

    @property
    def key(self) -> str:
        """The key that the caller waited for."""
        return str(self.outcome.key)

    @property
    def cycle(self) -> tuple[Wait, ...]:
        """Who waits for whom: `agent` waits for `key`, which `holder` has."""
        waits: tuple[Wait, ...] = self.outcome.cycle
        return waits


class Fenced(Refused):
    """This writer was replaced; it must stop."""

    @property
    def held(self) -> int:
        """The epoch that this writer had."""
        return int(self.outcome.held)

    @property
    def current(self) -> int:
        """The epoch in force."""
        return int(self.outcome.current)


class Forbidden(Refused):
    """The rule of the key does not let this agent write it this way."""

    @property
    def key(self) -> str:
        """The key."""
        return str(self.outcome.key)

    @property
    def pattern(self) -> str:
        """The pattern whose rule it is, "" if none matches."""
        return str(self.outcome.pattern)

    @property
    def rule(self) -> str:
        """The rule: `private`, `merged`, `leased` or `guarded`."""
        return str(self.outcome.rule)


class IllegalTransition(Refused):
    """The state machine of the key does not allow this transition."""

    @property
    def key(self) -> str:
        """The key."""
        return str(self.outcome.key)

    @property
    def before(self) -> str | None:
        """The state that the key is in; None if it has no value."""
        state: str | None = self.outcome.before
        return state

    @property
    def after(self) -> str | None:
        """The state that was asked for; None if the key was to be deleted."""
        state: str | None = self.outcome.after
        return state

    @property
    def allowed(self) -> tuple[str, ...]:
        """The states that may follow."""
        states: tuple[str, ...] = self.outcome.allowed
        return states


class Pruned(Refused):
    """What was asked for was trimmed: the log starts at position `oldest`."""

    @property
    def oldest(self) -> int:
        """The first position of the log that was not trimmed."""
        return int(self.outcome.oldest)


class ProgramChanged(Refused):
    """The program of a run asks for other steps than those that are recorded."""

    _kind = refusals.ProgramChanged


class RunFailed(Refused):
    """A run has failed: everything that it could undo is undone.  Raised in a program, it makes
    the run fail at once."""

    _kind = refusals.RunFailed


class TimedOut(InterlockError):
    """A run waited for something that nobody sent in time."""


class NotDone(InterlockError):
    """Raised by the function of an effect: the call was refused, and has certainly had no effect.

    It is recorded, and raised again whenever the program comes to this effect.
    """


class InDoubt(InterlockError):
    """A call to the outside failed, and nobody here knows whether it has had its effect.

    Resume the run: the policy of the effect decides.
    """

    def __init__(self, effect: str, key: str, path: str, problem: BaseException | None) -> None:
        why = "" if problem is None else f": {described(problem)}"
        super().__init__(
            f"Nobody knows whether effect {effect!r} (step {path}, idempotency key {key}) "
            f"happened{why}. Resume the run: its policy decides."
        )
        self.effect, self.key, self.path, self.problem = effect, key, path, problem

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.effect, self.key, self.path, self.problem)


class BreakerOpen(Refused):
    """A circuit breaker lets no call through now: what it guards does not answer.

    The call was not made.
    """

    @property
    def name(self) -> str:
        """The name of the breaker."""
        return str(self.outcome.name)

    @property
    def state(self) -> str:
        """`open`, or `half_open`: somebody else is trying whether it works again."""
        return str(self.outcome.state)

    @property
    def seconds(self) -> float:
        """Seconds after which to ask again: until a probe is due; while one is under way, at most
        one."""
        return float(self.outcome.seconds)

    @property
    def reason(self) -> str:
        """The failure that opened it."""
        return str(self.outcome.reason)


class Fault(InterlockError):
    """Something outside is broken: the file, the disk, the server."""


class Unavailable(Fault):
    """The store cannot be used now.  Nothing was sent, so nothing was written."""


class Unknown(Fault):
    """The write was sent and its answer was lost.

    Sending it again with its operation id is safe.
    """

    def __init__(self, message: str, op_id: str = "") -> None:
        super().__init__(message)
        self.op_id = op_id

    def __reduce__(self) -> tuple[type[Unknown], tuple[str, str]]:
        return type(self), (str(self), self.op_id)


class Corrupt(Fault):
    """The store is damaged: it disagrees with itself or cannot be decoded."""


class LostCommits(Corrupt):
    """The store stepped back: commits or grants that it acknowledged are gone.

    A failover to a replica that lagged behind, or a restored backup.  The space is closed; what
    was computed from the lost commits must be looked at before it is opened again.
    """


class IncompatibleStore(Fault):
    """The store is not Interlock's, was made by a newer one, or sits where it is not safe."""


class Closed(Fault):
    """The space was closed; open it again to use it."""


class Dropped(Fault):
    """The space was dropped or renamed while it was open here.

    Nothing makes it anew by itself: open it again, by the name that it has now.
    """


class AnswerLost(Exception):
    """Raised by a backend: the request was sent and its answer was lost.  Drivers resubmit it."""


class Unconfirmed(AnswerLost):
    """Raised by a backend: it was applied, but not everything that its answer waits for has it."""


_EXCEPTIONS: dict[type[refusals.Refusal], type[Refused]] = {
    refusals.Invalid: Invalid,
    refusals.Conflict: Conflict,
    refusals.Held: Held,
    refusals.Contended: Contended,
    refusals.Deadlock: Deadlock,
    refusals.Fenced: Fenced,
    refusals.Forbidden: Forbidden,
    refusals.IllegalTransition: IllegalTransition,
    refusals.Pruned: Pruned,
    refusals.ProgramChanged: ProgramChanged,
    refusals.RunFailed: RunFailed,
    refusals.BreakerOpen: BreakerOpen,
}


def raise_refused(answer: object) -> None:
    """Raise an answer that is a refusal; do nothing about any other."""
    if isinstance(answer, refusals.Refusal):
        raise_refusal(answer)


def accepted(answer: T | refusals.Refusal) -> T:
    """Return an answer that is no refusal.  Raises one that is."""
    if isinstance(answer, refusals.Refusal):
        raise_refusal(answer)
    return answer


def raise_refusal(refusal: refusals.Refusal) -> NoReturn:
    """Raise a refusal as its exception."""
    raise _EXCEPTIONS.get(type(refusal), Refused)(refusal)
