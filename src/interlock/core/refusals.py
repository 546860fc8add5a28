"""What a commit returns where nothing was written: refusals, which say what to do next.

Refusals are plain values here; the API raises them as the exceptions of `interlock.errors`.
When several apply, the one that comes first in `PRECEDENCE` is the answer.  Those that a backend
finds (a moved version, a held turn) are worded here, so that every backend says the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from interlock.core.plan import Expect
from interlock.core.records import Committed, Record, as_datetime
from interlock.core.struct import Struct

if TYPE_CHECKING:
    from interlock.core.merge import Clash

QUEUE = "$lease/"  # before a key: the queue for its lease


class Refusal(Struct):
    """Nothing was written."""

    message: str
    retryable: ClassVar[bool] = False
    next_step: ClassVar[str] = ""


class Invalid(Refusal):
    """The request is malformed.  `message` names what, and the limit.

    `by_rules`: it may be well-formed under other rules than those it was checked by.
    """

    key: str | None = None
    by_rules: bool = False
    next_step: ClassVar[str] = "correct the call; sending it again cannot help"


class Fenced(Refusal):
    """The writer was replaced: `held` is its epoch, `current` the one in force."""

    key: str
    held: int
    current: int
    next_step: ClassVar[str] = "stop: another writer has taken over this key"


class Forbidden(Refusal):
    """The rule `rule` of pattern `pattern` does not let this writer write `key` this way."""

    key: str
    pattern: str
    rule: str
    next_step: ClassVar[str] = "write another key, or as its rule says"


class IllegalTransition(Refusal):
    """The machine of `key` does not go from `before` (None: no value yet) to `after`.

    `allowed` holds the states that may follow.
    """

    key: str
    machine: str
    before: str | None
    after: str | None
    allowed: tuple[str, ...]
    next_step: ClassVar[str] = "decide again for the state that the key is in"


class Outdated(Refusal):
    """The plan was decided under rules that have changed: `record` holds the current ones.

    The protocols reload and decide again; nobody else sees this.
    """

    record: Record
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "reload the rules and decide again"


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
    next_step: ClassVar[str] = "read again, think again on the fresh record, write again"


class Held(Refusal):
    """Another agent has the exclusive right to write now; `seconds` until it may be reclaimed.

    `lease`: it holds the key's lease; otherwise it is its turn in the queue for the key.
    """

    key: str
    holder: str
    seconds: float
    lease: bool = False
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "wait and try again"


class Contended(Refusal):
    """The limit of attempts or of patience was reached; `attempts` thoughts were made."""

    key: str
    attempts: int
    last: Any = None
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "try again later, or raise attempts= or patience="


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
    next_step: ClassVar[str] = (
        "give up what you hold and try again, or take several leases at once with leases()"
    )


class Pruned(Refusal):
    """What was asked for is no longer kept: the log begins at position `oldest`."""

    position: int
    oldest: int
    next_step: ClassVar[str] = "begin at the oldest position that is kept"


class RunFailed(Refusal):
    """A run has failed, or is to fail."""

    next_step: ClassVar[str] = "begin another run, under another id"


class ProgramChanged(Refusal):
    """The program of a run asks for other steps than those that are recorded."""

    next_step: ClassVar[str] = (
        "finish the run with the program that began it, or cancel it; give the runs of a new "
        "program other ids"
    )


class BreakerOpen(Refusal):
    """Breaker `name` lets no call through: it is `open`, or `half_open` and somebody else probes.

    `seconds`: when to ask again.  `reason`: the failure that opened it.
    """

    name: str
    state: str
    seconds: float
    reason: str
    retryable: ClassVar[bool] = True
    next_step: ClassVar[str] = "wait and ask again, or go on without this call"


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


def pruned(position: int, floor: int) -> Pruned:
    """The refusal of reading what was cut off; the log is kept after position `floor`."""
    return Pruned(
        f"the log is kept from position {floor + 1} on; what is needed after position {position} "
        "was trimmed",
        position,
        floor + 1,
    )


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a record that has moved."""
    if expected.version is None:
        wanted = "expected not to exist"
    elif expected.version == 0:
        wanted = "expected never to have been written"
    else:
        wanted = f"expected at version {expected.version}"
    state = (
        f"is at version {record.version}"
        if record.exists
        else (f"was deleted (version {record.version})" if record.version else "was never written")
    )
    by = f", written by {record.writer!r} at {as_datetime(record.time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
    message = f"{record.key!r} was {wanted} but {state}{by if record.version else ''}"
    return Conflict(message, record.key, expected.version, record.version, record)


def scan_conflict(prefix: str, expected: int | None, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a scan which would now return something else."""
    was = "was not there" if not expected else f"was at version {expected}"
    now = f"is at version {record.version}" if record.exists else "is gone"
    message = f"the scan of {prefix!r} has changed: {record.key!r} {was} and {now}"
    return Conflict(message, record.key, expected or 0, record.version, record, prefix)


def fenced(key: str, held: int, current: int) -> Fenced:
    """The refusal of a writer that was replaced."""
    return Fenced(
        f"{key!r} was read at epoch {held}, but its epoch is now {current}", key, held, current
    )


def replaced(agent: str, held: int, current: int) -> Fenced:
    """The refusal of a process whose agent name was taken over by another one."""
    return Fenced(
        f"agent {agent!r} is this process's no more: it came in as incarnation {held}, "
        f"and another process has since taken over the name as incarnation {current}",
        "",
        held,
        current,
    )


def outdated(known: int, record: Record) -> Outdated:
    """The refusal of a plan that was decided under other rules than those in force."""
    return Outdated(
        f"the plan was decided under version {known} of the rules; version {record.version} is "
        "in force",
        record,
    )


def held(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a plan that gives way to the agent whose turn it is."""
    return Held(
        f"it is {holder!r}'s turn to write {key!r}, for {seconds:.1f} s unless renewed",
        key,
        holder,
        seconds,
    )


def leased_to(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a write to a key that another agent has the lease of."""
    return Held(
        f"{holder!r} has the lease of {key!r}, for {seconds:.1f} s unless renewed",
        key,
        holder,
        seconds,
        lease=True,
    )


def deadlock(cycle: tuple[Wait, ...]) -> Deadlock:
    """The refusal of a wait that closed a cycle."""
    cycle = tuple(wait._replace(key=wait.key.removeprefix(QUEUE)) for wait in cycle)
    waits = [f"{agent!r} waits for {key!r} behind {holder!r}" for agent, key, holder in cycle]
    return Deadlock(f"deadlock: {', and '.join(waits)}", cycle[0].key, cycle)


def text_of(problem: BaseException) -> str:
    """Return `str(problem)`, or what it is where that fails."""
    try:
        return str(problem)
    except Exception:
        return f"<{type(problem).__name__} that cannot be shown>"


def repr_of(problem: BaseException) -> str:
    """Return `repr(problem)`, or what it is where that fails."""
    try:
        return repr(problem)
    except Exception:
        return f"<{type(problem).__name__} that cannot be shown>"


def described(problem: BaseException) -> str:
    """Return the type of an exception and its text."""
    return f"{type(problem).__name__}: {text_of(problem)}"
