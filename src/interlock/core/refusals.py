"""What a commit returns if nothing was written: refusals, which say what to do next.

Refusals are plain values here; the API raises them as the exceptions of `interlock.errors`.
When several apply, the first that is found is the answer: what `core.write` refuses before it
sends a plan, then what the backend finds, in the order of its judge (`Step.judge` in
`backends/sqlite/commit.py`, `postgres/judge.sql`, `redis/commit.lua`).  Those that a backend finds
(a moved version, a held turn) are worded here, so that every backend says the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

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

    @property
    def next_step(self) -> str:
        """What to do next, in a sentence; "" if `message` says it."""
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
    last: Refusal | None = None
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


Outcome = Committed | Refusal


def pruned(position: int, floor: int) -> Pruned:
    """The refusal of reading what was cut off; the log is kept after position `floor`."""
    return Pruned(
        f"The log after position {position} was trimmed. Its oldest entry is {floor + 1}: "
        "start there.",
        position,
        floor + 1,
    )


def conflict(expected: Expect, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a record that has moved."""
    if expected.tag != record.tag and expected.version == record.version:
        message = f"{record.key!r} changed between two readings of it"
    elif expected.version is None:
        message = f"{record.key!r} already exists (version {record.version}, by {record.writer!r})"
    else:
        read = f"you read version {expected.version}" if expected.version else "you read no value"
        now = "it was never written"
        if record.expired:
            now = f"it expired at {as_datetime(record.expires_us):%Y-%m-%d %H:%M:%S.%f} UTC"
        elif record.version:
            did = "wrote" if record.exists else "deleted it as"
            at = f"{as_datetime(record.time_us):%Y-%m-%d %H:%M:%S.%f} UTC"
            now = f"{record.writer!r} {did} version {record.version} at {at}"
        message = f"{record.key!r} changed: {read}, {now}"
    return Conflict(message, record.key, expected.version, record.version, record)


def scan_conflict(prefix: str, expected: int | None, record: Record) -> Conflict:
    """The refusal of a plan that was computed from a scan which would now return something else."""
    was = f"had version {expected}" if expected else "didn't exist"
    now = f"has version {record.version} now" if record.exists else "is gone"
    message = f"The scan of {prefix!r} changed: {record.key!r} {was} and {now}"
    return Conflict(message, record.key, expected or 0, record.version, record, prefix)


def fenced(key: str, held: int, current: int) -> Fenced:
    """The refusal of a writer that was replaced."""
    return Fenced(
        f"Another writer took over {key!r} (epoch {current}; you have {held})", key, held, current
    )


def replaced(agent: str, held: int, current: int) -> Fenced:
    """The refusal of a process whose agent name was taken over by another one."""
    return Fenced(
        f"Another process took over agent {agent!r} (incarnation {current}; this one is {held})",
        "",
        held,
        current,
    )


def outdated(known: int, record: Record) -> Outdated:
    """The refusal of a plan that was decided under other rules than those in force."""
    return Outdated(
        f"The rules changed: version {record.version} is in force, the plan used {known}",
        record,
    )


def held(key: str, holder: str, seconds: float, lease: bool = False) -> Held:
    """The refusal of a plan that gives way to the agent whose turn it is."""
    has = "holds the lease of" if lease else "has the turn for"
    text = f"{holder!r} {has} {key!r} ({seconds_left(seconds)})"
    return Held(text, key, holder, seconds, lease)


def leased_to(key: str, holder: str, seconds: float) -> Held:
    """The refusal of a write to a key that another agent has the lease of."""
    return held(key, holder, seconds, lease=True)


def deadlock(cycle: tuple[Wait, ...]) -> Deadlock:
    """The refusal of a wait that closed a cycle."""
    cycle = tuple(wait._replace(key=wait.key.removeprefix(QUEUE)) for wait in cycle)
    first, *others = cycle
    waits = [f"{first.agent!r} waits for {first.holder!r} ({first.key!r})"]
    waits += [f"{agent!r} for {holder!r} ({key!r})" for agent, key, holder in others]
    return Deadlock(f"Deadlock: {', and '.join(waits)}", first.key, cycle)


def sentences(message: str, next_step: str = "") -> str:
    """Return what happened and what to do as sentences, one after the other."""
    return f"{message}{'' if message.endswith(('.', '?', '!')) else '.'} {next_step}".rstrip()


def seconds_left(seconds: float) -> str:
    """Return for how long somebody still has what others want."""
    return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s left unless renewed"


def text_of(problem: BaseException, as_text: Callable[[object], str] = str) -> str:
    """Return `as_text(problem)`, or the type's name if that fails."""
    try:
        return as_text(problem)
    except Exception:
        return f"<{type(problem).__name__} that cannot be shown>"


def repr_of(problem: BaseException) -> str:
    """Return `repr(problem)`, or the type's name if that fails."""
    return text_of(problem, repr)


def shortened(reason: str, most: int) -> str:
    """Return at most `most` characters of a reason, as a value may hold them: exceptions may say
    much, and no UTF-8."""
    return reason[:most].encode("utf-8", "replace").decode("utf-8", "replace")


def described(problem: BaseException) -> str:
    """Return the type of an exception and its text."""
    return f"{type(problem).__name__}: {text_of(problem)}"
