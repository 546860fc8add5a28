"""Watches what the drivers do: which requests a protocol makes, and how they are answered.

A driver shows every request and answer of a protocol to a `Trail`; the `Observer` of the
space counts, logs, and tells the hooks.  This is the only place that does; protocols and backends
know nothing of it.  What the library writes for itself (keys that begin with `$`) is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from interlock.core.conflict_report import note
from interlock.core.fold import Unfoldable
from interlock.core.plan import Plan
from interlock.core.records import Committed, Record
from interlock.core.refusals import Outcome, Outdated, Refusal
from interlock.core.requests import (
    Commit,
    DropLease,
    Enter,
    Entered,
    Grant,
    Noted,
    Place,
    Request,
    Steps,
    T,
    TakeLease,
    TakeTurn,
    Think,
)
from interlock.errors import Closed, Fault
from interlock.observe.counters import TOTALS, Counters
from interlock.observe.hooks import Hook, Hooks
from interlock.observe.log import Log

if TYPE_CHECKING:
    from interlock.observe import notices

SLOW_COMMIT = 1.0  # seconds
OWN = "$"  # what the keys of the library's own begin with


# What a protocol is to the caller: `update`, `transact`, `step`, `effect` or `lease`; and the key
# that it is about, or the name of the step.
Doing = tuple[str, str]


class Span(Protocol):
    """How one protocol is traced: see `otel`."""

    def asks(self, request: Request[Any]) -> Request[Any]:
        """Begin a request; return it as it is to be sent."""

    def answered(self, request: Request[Any], answer: object) -> None:
        """A request was answered."""

    def failed(self, request: Request[Any], problem: BaseException) -> None:
        """A request ended with an exception."""

    def ended(self, answer: object) -> None:
        """The protocol has ended, with an answer or an exception."""


class Tracer(Protocol):
    """What follows the protocols of all spaces of the process."""

    def begin(self, space: str, agent: str, doing: Doing | None) -> Span:
        """Begin to follow a protocol."""

    def handling(self, traces: tuple[str, ...]) -> None:
        """What the caller does next follows from what was committed in these contexts."""


_tracer: Tracer | None = None


def trace_with(tracer: Tracer | None) -> None:
    """Have the protocols that begin from now on followed by `tracer` (None: by nobody)."""
    global _tracer
    _tracer = tracer


class Observer:
    """Who watches one space of this process: its counts, its log and its hooks.

    `slow_commit`: seconds after which a commit is slow (None: none is).  `quiet`: nothing is
    logged, nor part of what the process counts in all.
    """

    def __init__(
        self, space: str, slow_commit: float | None = SLOW_COMMIT, quiet: bool = False
    ) -> None:
        self.space = space
        self._quiet = quiet
        self.slow_commit = float("inf") if slow_commit is None else slow_commit
        self.log = Log(space, quiet)
        self.counters = Counters()
        self.hooks = Hooks(self.log.hook_failed)
        self.resubmitted: set[str] = set()  # operations whose first answer was lost
        self._retire = None if quiet else TOTALS.add(self, space, self.counters)

    @property
    def is_idle(self) -> bool:
        """Whether nobody would hear what it sees: that of a guard, where nothing is traced."""
        return self._quiet and _tracer is None and self.hooks.idle

    def on(self, event: str, hook: Hook) -> Callable[[], None]:
        """Have `hook` called for each event of a name; return what ends that.  Raises Invalid."""
        return self.hooks.add(event, hook)

    @staticmethod
    def handling(*traces: str | None) -> None:
        """What the caller does next follows from what was committed in these contexts."""
        if _tracer is not None:
            _tracer.handling(tuple(filter(None, traces)))

    def close(self) -> None:
        """Hand out and say what waits."""
        self.hooks.close()
        self.log.close()
        if self._retire is not None:
            self._retire()

    # What happened

    def committed(self, plan: Plan, outcome: Committed, attempts: int, seconds: float) -> None:
        """Something was committed."""
        self.counters.committed(plan.agent, seconds)
        if seconds < self.slow_commit and "commit" not in self.hooks.events:
            return
        from interlock.observe.notices import CommitNotice

        keys = tuple(dict.fromkeys(write.key for write in plan.writes))
        position = outcome.writes[-1].position
        found = CommitNotice(
            "commit", self.space, plan.agent, keys[0], keys, position, attempts, seconds, plan.op_id
        )
        self._tell(found)
        if seconds >= self.slow_commit:
            found = found._replace(event="slow_commit")
            self.log.slow_commit(found)
            self._tell(found)

    def refused(self, refusal: Refusal, agent: str, op_id: str, attempts: int) -> None:
        """Something was refused."""
        from interlock.observe.notices import REFUSALS, RefusalNotice

        event, seen = REFUSALS.get(type(refusal).__name__), note(refusal, agent, op_id, 0)
        if event is None or seen is None:
            return
        self.counters.refused(agent, seen.reason)
        found = RefusalNotice(
            event, self.space, agent, seen.key, seen.other, seen.reason, attempts, op_id
        )
        self.log.refusal(found)
        self._tell(found)

    def turn(self, agent: str, key: str, ahead: int, seconds: float) -> None:
        """An agent has its turn."""
        self.counters.took_turn(ahead, seconds)
        if "turn" in self.hooks.events:
            from interlock.observe.notices import TurnNotice

            self.hooks.tell(TurnNotice("turn", self.space, agent, key, ahead, seconds))

    def leased(self, agent: str, records: Iterable[Record], seconds: float) -> None:
        """An agent has leases."""
        for record in records:
            key, epoch = record.key, record.epoch
            self.counters.took_lease(key, epoch, perf_counter())
            if "lease" in self.hooks.events:
                from interlock.observe.notices import LeaseNotice

                self.hooks.tell(LeaseNotice("lease", self.space, agent, key, epoch, seconds))

    def reclaimed(self, agent: str, key: str, epoch: int) -> None:
        """A lease was taken away, or (no `key`) the name of an agent was taken over."""
        from interlock.observe.notices import LeaseNotice

        self.counters.reclaimed()
        found = LeaseNotice("reclaim", self.space, agent, key, epoch, 0.0)
        self.log.reclaim(found)
        self._tell(found)

    def reconnected(self, request: Request[Any], attempts: int, seconds: float) -> None:
        """A request whose answer was lost was answered when it was sent again."""
        from interlock.observe.notices import StoreNotice

        if isinstance(request, Commit):
            self.resubmitted.add(request.plan.op_id)
        self.counters.reconnected()
        agent = request.plan.agent if isinstance(request, Commit) else ""
        found = StoreNotice("reconnect", self.space, agent, "", attempts, seconds)
        self.log.reconnect(found)
        self._tell(found)

    def was_resubmitted(self, op_id: str) -> bool:
        """Whether the first answer to this operation was lost, so that it is no surprise that it
        was applied before."""
        found = op_id in self.resubmitted
        self.resubmitted.discard(op_id)
        return found

    def failed(self, agent: str, problem: Fault) -> None:
        """The store failed, unless it is the space that is closed."""
        if isinstance(problem, Closed):
            return
        from interlock.observe.notices import StoreNotice

        reason = type(problem).__name__
        self.counters.failed(reason)
        found = StoreNotice("fault", self.space, agent, reason)
        self.log.fault(found, problem)
        self._tell(found)

    def _tell(self, notice: notices.Notice) -> None:
        if notice.event in self.hooks.events:
            self.hooks.tell(notice)


def observed(
    observer: Observer,
    steps: Steps[T],
    agent: str,
    doing: Doing | None = None,
    is_joined: bool = False,
) -> Steps[T]:
    """Protocol: `steps`, which `observer` watches; `doing` says what it is to the caller.

    It is on the path of every write: a protocol that only commits leaves no trail.  `is_joined`:
    what it commits may be rolled back with a transaction of the caller's.
    """
    start = 0.0 if doing is None else perf_counter()
    trail = Trail(observer, agent, doing, start, is_joined) if is_joined else None
    span = None if _tracer is None else _tracer.begin(observer.space, agent, doing)
    try:
        request = next(steps)
        while True:
            kind, began = type(request), perf_counter()
            if type(request) is TakeTurn:
                trail = trail or Trail(observer, agent, doing, start)
                trail.joins(request, began)
            try:
                answer = yield request if span is None else (request := span.asks(request))
            except BaseException as problem:
                if isinstance(problem, Fault) and kind is not Think:  # else a space has seen it
                    observer.failed(agent, problem)
                if span is not None:
                    span.failed(request, problem)
                request = steps.throw(problem)
            else:
                if trail is None and type(request) is Commit and _is_plain(request, answer):
                    observer.committed(request.plan, answer, 0, perf_counter() - began)
                elif (see := _SEEN.get(kind)) is not None:
                    trail = trail or Trail(observer, agent, doing, start)
                    see(trail, request, answer, perf_counter() - began)
                if span is not None:
                    span.answered(request, answer)
                request = steps.send(answer)
    except StopIteration as end:
        _end(trail, observer, agent, end.value)
        if span is not None:
            span.ended(end.value)
        value: T = end.value
        return value
    except BaseException as problem:
        answer = problem.refusal if isinstance(problem, Unfoldable) else None
        _end(trail, observer, agent, answer)
        if span is not None:
            span.ended(answer if answer is not None else problem)
        raise


def _is_plain(request: Commit, answer: object) -> bool:
    """Whether a commit was applied now, and is not of the library's own keys alone."""
    return (
        type(answer) is Committed and not answer.replayed and request.plan.writes[0].key[0] != OWN
    )


def _end(trail: Trail | None, observer: Observer, agent: str, answer: object) -> None:
    if trail is not None:
        trail.ended(answer)
    elif isinstance(answer, Refusal):
        observer.refused(answer, agent, "", 0)


class Trail:
    """What one protocol has done so far."""

    thoughts = 0
    thought_seconds = 0.0  # of the last one
    lost = 0.0  # seconds of thoughts that were refused, and of waiting
    committed = False
    refused: type[Refusal] | None = None  # the last one that was seen
    joined: float | None = None  # when it began to wait for a turn
    ahead = 0  # how many came before it then
    asked: float | None = None  # when it asked for a lease that somebody has

    def __init__(
        self,
        observer: Observer,
        agent: str,
        doing: Doing | None,
        start: float,
        is_joined: bool = False,
    ) -> None:
        self.observer = observer
        self.is_joined = is_joined
        self.agent = agent
        self.doing = doing
        self.start = start

    def joins(self, request: TakeTurn, now: float) -> None:
        """It asks for a turn."""
        if self.joined is None and not request.ticket:
            self.joined = now
            self.observer.counters.waiting.add(self)

    def ended(self, answer: object) -> None:
        """It has ended, with an answer, or (None) perhaps an exception."""
        if isinstance(answer, Refusal) and type(answer) is not self.refused:
            self._refuse(answer, self.agent, "")
        if self.joined is not None:
            self.observer.counters.waiting.discard(self)
        if self.thoughts and self.doing is not None:
            busy = perf_counter() - self.start
            lost = self.lost if self.committed else busy
            self.observer.counters.thought(self.thoughts, self.committed, busy, lost)

    def commit(self, request: Commit, outcome: Outcome, seconds: float) -> None:
        """A commit was judged."""
        plan, observer = request.plan, self.observer
        writes = plan.writes
        if writes[0].key[0] == OWN and all(write.key[0] == OWN for write in writes):
            return
        if isinstance(outcome, Committed):
            self.committed, self.refused = True, None
            if self.is_joined:
                return  # nobody hears whether the caller commits
            if not outcome.replayed or observer.was_resubmitted(plan.op_id):
                observer.committed(plan, outcome, self.thoughts, seconds)
        elif not isinstance(outcome, Outdated):
            self.lost += self.thought_seconds + seconds
            self._refuse(outcome, plan.agent, plan.op_id)

    def thought(self, request: Think, answer: object, seconds: float) -> None:
        """A function of the caller's has returned."""
        self.thoughts += 1
        self.thought_seconds = seconds

    def turn(self, request: TakeTurn, place: Place, seconds: float) -> None:
        """Its place in a queue is known."""
        if self.joined is None:
            return  # it has its turn, and keeps it
        if not request.ticket:
            self.ahead = place.ahead
        key = request.keys[0]
        if place.ticket and place.ahead == 0 and key[0] != OWN:
            waited = perf_counter() - self.joined
            self.observer.counters.waiting.discard(self)
            self.joined = None
            self.lost += waited
            self.observer.turn(request.agent, key, self.ahead, waited)

    def lease(self, request: TakeLease, grant: Grant, seconds: float) -> None:
        """A lease was granted, renewed or taken away, or not."""
        observer, now, key = self.observer, perf_counter(), request.keys[0]
        if request.reclaim:
            if grant.refusal is None:
                observer.reclaimed(request.agent, key, grant.record.epoch)
        elif request.epoch:
            if not grant.granted:
                observer.counters.lost_lease(key, request.epoch, now)
        elif grant.granted:
            since = now - seconds if self.asked is None else self.asked
            if key[0] != OWN:
                observer.leased(request.agent, grant.records, now - since)
        elif self.asked is None:
            self.asked = now - seconds

    def drop(self, request: DropLease, answer: object, seconds: float) -> None:
        """A lease was given up."""
        if request.epoch:
            self.observer.counters.lost_lease(request.key, request.epoch, perf_counter())

    def enter(self, request: Enter, entered: Entered, seconds: float) -> None:
        """An agent came into the space."""
        if request.exclusive and entered.incarnation > 1:
            self.observer.reclaimed(request.agent, "", entered.incarnation)

    def noted(self, request: Noted, answer: object, seconds: float) -> None:
        """A rule has forbidden something."""
        self._refuse(request.refusal, request.agent, "")

    def _refuse(self, refusal: Refusal, agent: str, op_id: str) -> None:
        self.refused = type(refusal)
        self.observer.refused(refusal, agent, op_id, self.thoughts)


# What is looked at; whoever only reads passes unseen.
_SEEN: dict[type, Callable[[Trail, Any, Any, float], None]] = {
    Commit: Trail.commit,
    Think: Trail.thought,
    TakeTurn: Trail.turn,
    TakeLease: Trail.lease,
    DropLease: Trail.drop,
    Enter: Trail.enter,
    Noted: Trail.noted,
}
