"""The circuit breaker's protocol: what its shared state is, and who may call when.

closed -> open after `failures` failures `within` some seconds -> half open after `reset_after`: one
agent has claimed the only probe -> closed where it succeeds, open again where it fails.  The state
machine is that of M. Nygard, "Release It!"; here each of its moves is one guarded commit of the key
`$breaker/<name>`, judged by the store's clock, so it is one machine for all hosts.

A probe is fenced by the version that its claim made: one that answers after another agent has
claimed the next probe finds another version, and changes nothing.

A call that goes on for a while is noted in `$breaker_calls/<name>`, with the time at which it is
overdue.  Whoever looks at the breaker after that counts it as failed, and takes the note away in
the same commit; so it counts once, whoever counts it, and whether or not it ever ends.  This
process does so from a thread (`CallWatch`), however the call hangs; where it is frozen or dead, the
others do.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import NamedTuple

from interlock.core.fold import ask
from interlock.core.keys import check_name
from interlock.core.lease import check_seconds
from interlock.core.records import Committed, Record, Snapshot, as_datetime
from interlock.core.refusals import BreakerOpen, Conflict, Invalid, Outcome, Refusal, shortened
from interlock.core.requests import Load, Steps
from interlock.core.struct import Json
from interlock.core.write import commit, plan_values, records_of
from interlock.core.writer import Writer
from interlock.errors import AnswerLost, Closed, InterlockError
from interlock.session import Session

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
INDEX = "$breakers"  # {name of a breaker: true}
MOST_FAILURES = 1000
_MOST_CALLS = 1000  # that are noted at once
_LONGEST = 24 * 3600.0  # seconds
_ASK_AGAIN_US = 1_000_000  # while a probe is under way: it may answer at any moment
_short = partial(shortened, most=200)  # characters of a reason
NOTED_AFTER = 1.0  # seconds, or half of a shorter timeout: short calls cost nothing
_FIRST_PAUSE = 1.0  # seconds until the store is asked again, twice as long each time
_LONGEST_PAUSE = 60.0


class Limits(NamedTuple):
    """What a breaker goes by, times in microseconds."""

    name: str
    failures: int
    within_us: int
    timeout_us: int
    reset_after_us: int

    @property
    def key(self) -> str:
        """The key of its state."""
        return _key(self.name)

    @property
    def calls_key(self) -> str:
        """The key of the calls that go on: {id: [due_us, openings, agent]}."""
        return f"$breaker_calls/{self.name}"


class BreakerInfo(NamedTuple):
    """A breaker's shared state.

    `failures` were counted up to the last one.  `seconds`: until the next probe may begin, where it
    is not closed.  `opened`, `agent` and `reason`: when, by whom and why it was opened last.
    `probe` is the agent whose probe is under way.
    """

    name: str
    state: str
    failures: int
    seconds: float
    opened: datetime | None
    agent: str
    reason: str
    probe: str


class Circuit(NamedTuple):
    """What is stored of a breaker.

    `failed` are the times of the failures that count, while closed.  `until_us`: when the next
    probe may begin; while half open, when the claim of this one expires.  `openings` tells a call
    that was let through before the last opening from one after it.  `call` is the one that opened
    it by being overdue: how that ends says better why.
    """

    state: str = CLOSED
    failed: tuple[int, ...] = ()
    openings: int = 0
    opened_us: int = 0
    until_us: int = 0
    agent: str = ""
    reason: str = ""
    probe: str = ""
    call: str = ""

    def failing(self, now_us: int, limits: Limits, agent: str, reason: str) -> Circuit:
        """Return the circuit after a failure."""
        recent = tuple(time for time in self.failed if time > now_us - limits.within_us)
        failed = (*recent, now_us)
        if self.state == CLOSED and len(failed) < limits.failures:
            return self._replace(failed=failed)
        until_us = now_us + limits.reset_after_us
        return Circuit(OPEN, (), self.openings + 1, now_us, until_us, agent, reason)

    def claimed(self, now_us: int, limits: Limits, agent: str) -> Circuit:
        """Return the circuit while `agent` probes."""
        until_us = now_us + limits.timeout_us
        return self._replace(state=HALF_OPEN, until_us=until_us, probe=agent)

    def unclaimed(self) -> Circuit:
        """Return the circuit once a probe was given up: the next one may begin at once."""
        return self._replace(state=OPEN, until_us=self.opened_us, probe="")

    def closed(self) -> Circuit:
        """Return the circuit once calls may go through again; the reason stays to be read."""
        return self._replace(state=CLOSED, failed=(), until_us=0, probe="")


class Observation(NamedTuple):
    """A breaker as it was at one moment of the store's clock."""

    record: Record
    circuit: Circuit
    time_us: int

    @property
    def wait_us(self) -> int:
        """Microseconds until the next probe may begin."""
        closed = self.circuit.state == CLOSED
        return 0 if closed else max(self.circuit.until_us - self.time_us, 0)


class Passage(NamedTuple):
    """A call that may go through, and what it was let through by."""

    observed: Observation
    probe: bool = False


def limits(
    name: str, failures: object, within: object, timeout: object, reset_after: object
) -> Limits | Invalid:
    """Return what a breaker goes by, or what is malformed."""
    wrong = check_name("breaker", name)
    for what, value in (("within", within), ("timeout", timeout), ("reset_after", reset_after)):
        wrong = wrong or check_seconds(what, value, 0.001, _LONGEST)
    if wrong is not None:
        return wrong
    whole = isinstance(failures, int) and not isinstance(failures, bool)
    if not whole or not 1 <= failures <= MOST_FAILURES:  # type: ignore[operator]  # it is an int
        return Invalid(
            f"failures={failures!r:.40} must be a whole number from 1 to {MOST_FAILURES}."
        )
    times = (int(value * 1e6) for value in (within, timeout, reset_after))  # type: ignore[operator]  # checked
    return Limits(name, failures, *times)  # type: ignore[arg-type]  # checked


def refused(name: str, observed: Observation, age_us: int = 0) -> BreakerOpen:
    """Return the refusal of a call, by what was seen `age_us` ago."""
    circuit, left_us = observed.circuit, max(observed.wait_us - age_us, 0)
    if circuit.state == HALF_OPEN:
        now = f"half open ({circuit.probe!r} is trying whether it works again)"
        left_us = min(left_us, _ASK_AGAIN_US)
    else:
        now = f"open for another {left_us / 1e6:.1f} s"
    message = f"Breaker {name!r} is {now}: {circuit.agent!r} met {circuit.reason}"
    return BreakerOpen(message, name, circuit.state, left_us / 1e6, circuit.reason)


def admit(writer: Writer, limits: Limits, op_id: str) -> Steps[Passage | Observation | Refusal]:
    """Ask whether a call may go through, claiming the probe where one is due.

    Returns a Passage, the Observation by which it may not, or a Refusal.  Where it is
    interrupted or cancelled, it claims nothing.
    """
    try:
        return (yield from _admit(writer, limits, op_id))
    except (GeneratorExit, Exception):
        raise
    except BaseException:
        snapshot = yield from ask(writer, Load((limits.key,), (), op_id))
        claimed = snapshot.applied
        observed = _observed(snapshot.records[limits.key], snapshot.time_us)
        if claimed is not None and claimed.writes[0].version == observed.record.version:
            yield from given_up(writer, Passage(observed, probe=True), f"{op_id}/given up")
        raise


def _admit(writer: Writer, limits: Limits, op_id: str) -> Steps[Passage | Observation | Refusal]:
    observed = yield from count_overdue(writer, limits, f"{op_id}/overdue")
    if not isinstance(observed, Observation):
        return observed
    while True:
        circuit = observed.circuit
        if circuit.state == CLOSED:
            return Passage(observed)
        if observed.wait_us:
            return observed
        claimed = circuit.claimed(observed.time_us, limits, writer.agent)
        outcome = yield from _move(writer, observed, claimed, op_id)
        if isinstance(outcome, Observation):
            return Passage(outcome, probe=True)
        if not isinstance(outcome, Conflict):
            return outcome
        observed = _observed(outcome.record, observed.time_us)  # somebody else was faster


def began(
    writer: Writer, limits: Limits, passage: Passage, call_id: str, took_us: int
) -> Steps[Refusal | None]:
    """Note that a call goes on, which began `took_us` ago.  Returns None, or a Refusal."""
    while True:
        snapshot = yield from ask(writer, Load((limits.calls_key,)))
        record = snapshot.records[limits.calls_key]
        calls = record.value or {}
        if call_id in calls or len(calls) >= _MOST_CALLS:
            return None
        due_us = snapshot.time_us - took_us + limits.timeout_us
        call = [due_us, passage.observed.circuit.openings, writer.agent]
        outcome = yield from _put(writer, [(record, {**calls, call_id: call})], call_id)
        if not isinstance(outcome, Conflict):
            return None if isinstance(outcome, Committed) else outcome


def ended(writer: Writer, limits: Limits, call_id: str, op_id: str) -> Steps[Observation | Refusal]:
    """Take the note of a call away.  Returns the Observation, or a Refusal."""
    while True:
        snapshot = yield from ask(writer, Load((limits.key, limits.calls_key)))
        record = snapshot.records[limits.calls_key]
        left = {each: call for each, call in (record.value or {}).items() if each != call_id}
        observed = _observed(snapshot.records[limits.key], snapshot.time_us)
        if left == (record.value or {}):
            return observed
        outcome = yield from _put(writer, [(record, left)], op_id)
        if not isinstance(outcome, Conflict):
            return observed if isinstance(outcome, Committed) else outcome


def count_overdue(writer: Writer, limits: Limits, op_id: str) -> Steps[Observation | Refusal]:
    """Count the calls that are overdue.  Returns the Observation after it, or a Refusal.

    While it is not closed they stay noted: they are from before the opening, and count nothing.
    """
    while True:
        keys = (limits.key, limits.calls_key, INDEX)
        snapshot = yield from ask(writer, Load(keys))
        observed = _observed(snapshot.records[limits.key], snapshot.time_us)
        record = snapshot.records[limits.calls_key]
        calls = record.value or {}
        left = {each: call for each, call in calls.items() if call[0] > observed.time_us}
        if observed.circuit.state != CLOSED or len(left) == len(calls):
            return observed
        circuit = observed.circuit
        for each in (each for each in calls if each not in left):
            due_us, openings, agent = calls[each]
            if (circuit.state, circuit.openings) == (CLOSED, openings):
                late = (observed.time_us - due_us) / 1e6
                reason = f"no answer to {agent!r}, overdue for {late:.1f} s"
                circuit = circuit.failing(observed.time_us, limits, agent, _short(reason))
                circuit = circuit if circuit.state == CLOSED else circuit._replace(call=each)
        also: list[tuple[Record, Json]] = [(record, left)]
        if not observed.record.version:
            also.append(_indexed(snapshot, limits.name))
        outcome = yield from _move(writer, observed, circuit, op_id, also)
        if not isinstance(outcome, Conflict):
            return outcome


def failed(
    writer: Writer,
    limits: Limits,
    passage: Passage,
    reason: str,
    op_id: str,
    call_id: str = "",
) -> Steps[Observation | Refusal]:
    """Count the failure of a call, which is noted as `call_id` ("": it is not).

    Returns the Observation after it, or a Refusal.  A probe that was replaced, a call from
    before the last opening, and one that was counted as overdue, change nothing, but that a call
    which opened it by being overdue now says how it ended.
    """
    while True:
        keys = (limits.key, INDEX, *((limits.calls_key,) if call_id else ()))
        snapshot = yield from ask(writer, Load(keys))
        observed = _observed(snapshot.records[limits.key], snapshot.time_us)
        also: list[tuple[Record, Json]] = []
        if passage.probe:
            observed = passage.observed._replace(time_us=observed.time_us)
        elif (
            observed.circuit.state != CLOSED
            or observed.circuit.openings != passage.observed.circuit.openings
        ):
            if not call_id:
                return observed
            if (observed.circuit.state, observed.circuit.call) != (OPEN, call_id):
                return (yield from ended(writer, limits, call_id, op_id))
            circuit = observed.circuit._replace(reason=_short(reason), call="")
            outcome = yield from _move(writer, observed, circuit, op_id)
            if not isinstance(outcome, Conflict):
                return outcome
            continue
        if call_id:
            calls = snapshot.records[limits.calls_key]
            if call_id not in (calls.value or {}):
                return observed
            also.append((calls, {k: call for k, call in calls.value.items() if k != call_id}))
        circuit = observed.circuit.failing(observed.time_us, limits, writer.agent, _short(reason))
        if not observed.record.version:
            also.append(_indexed(snapshot, limits.name))
        outcome = yield from _move(writer, observed, circuit, op_id, also)
        if passage.probe:
            return _settled(outcome, observed.time_us)
        if not isinstance(outcome, Conflict):
            return outcome


def succeeded(writer: Writer, passage: Passage, op_id: str) -> Steps[Observation | Refusal]:
    """Close the breaker after its probe, unless the probe was replaced.

    Returns the Observation after it, or a Refusal.
    """
    observed = passage.observed
    outcome = yield from _move(writer, observed, observed.circuit.closed(), op_id)
    return _settled(outcome, observed.time_us)


def given_up(writer: Writer, passage: Passage, op_id: str) -> Steps[Observation | Refusal]:
    """Give back the claim of a probe that did not find out, unless it was replaced.

    Returns the Observation after it, or a Refusal.
    """
    observed = passage.observed
    outcome = yield from _move(writer, observed, observed.circuit.unclaimed(), op_id)
    return _settled(outcome, observed.time_us)


def reset(writer: Writer, name: str, op_id: str) -> Steps[Observation | Refusal]:
    """Close a breaker by hand.  Returns the Observation after it, or a Refusal."""
    wrong = check_name("breaker", name)
    if wrong is not None:
        return wrong
    while True:
        observed = yield from _load(writer, name)
        circuit = observed.circuit.closed()
        if circuit == observed.circuit:
            return observed
        outcome = yield from _move(writer, observed, circuit, op_id)
        if not isinstance(outcome, Conflict):
            return outcome


def look(writer: Writer, name: str) -> Steps[Observation | Invalid]:
    """Return the Observation of a breaker, or Invalid."""
    return check_name("breaker", name) or (yield from _load(writer, name))


def every(writer: Writer) -> Steps[list[BreakerInfo]]:
    """Return the BreakerInfo of each breaker of the space that ever counted a failure, by name."""
    snapshot = yield from ask(writer, Load((INDEX,)))
    names = sorted(snapshot.records[INDEX].value or ())
    snapshot = yield from ask(writer, Load(tuple(map(_key, names))))
    records = (snapshot.records[_key(name)] for name in names)
    return [
        info(name, _observed(r, snapshot.time_us)) for name, r in zip(names, records, strict=True)
    ]


def info(name: str, observed: Observation) -> BreakerInfo:
    """Return the public state of a breaker."""
    circuit = observed.circuit
    opened = as_datetime(circuit.opened_us) if circuit.openings else None
    seconds, failures = observed.wait_us / 1e6, len(circuit.failed)
    opening = (circuit.agent, circuit.reason, circuit.probe)
    return BreakerInfo(name, circuit.state, failures, seconds, opened, *opening)


def _key(name: str) -> str:
    return f"$breaker/{name}"


def _load(writer: Writer, name: str) -> Steps[Observation]:
    """Protocol: a breaker as it is now."""
    snapshot = yield from ask(writer, Load((_key(name),)))
    return _observed(snapshot.records[_key(name)], snapshot.time_us)


def _observed(record: Record, time_us: int) -> Observation:
    value = record.value or {}
    circuit = Circuit(**{**value, "failed": tuple(value.get("failed", ()))})
    return Observation(record, circuit, max(time_us, record.time_us))


def _settled(outcome: Observation | Refusal, time_us: int) -> Observation | Refusal:
    """Return what is to be known after a probe has told its answer."""
    return _observed(outcome.record, time_us) if isinstance(outcome, Conflict) else outcome


def _move(
    writer: Writer,
    observed: Observation,
    circuit: Circuit,
    op_id: str,
    also: Sequence[tuple[Record, Json]] = (),
) -> Steps[Observation | Refusal]:
    """Protocol: commit what becomes of a breaker, and of the records of `also`.

    Returns the new Observation, or a Refusal: Conflict where it has moved since it was seen.
    """
    outcome = yield from _put(writer, [(observed.record, circuit._asdict()), *also], op_id)
    if not isinstance(outcome, Committed):
        return outcome
    return _observed(records_of(outcome, writer.space)[0], observed.time_us)


def _indexed(snapshot: Snapshot, name: str) -> tuple[Record, Json]:
    """Return the index with a new breaker in it."""
    index = snapshot.records[INDEX]
    return index, {**(index.value or {}), name: True}


def _put(writer: Writer, values: Sequence[tuple[Record, Json]], op_id: str) -> Steps[Outcome]:
    """Protocol: write values over records in one commit.  Returns Committed or a Refusal."""
    return (yield from commit(writer, partial(plan_values, writer, values, op_id)))


@dataclass(eq=False)
class Call:
    """A call that was let through, by this process's clock: `started`, and when to look at it.

    `noted`: the store knows of it.
    """

    passage: Passage
    started: float
    id: str = ""
    look_at: float = 0.0
    pause: float = _FIRST_PAUSE
    noted: bool = False
    over: bool = False


@dataclass
class CallWatch:
    """The calls of one handle that are under way; a thread watches them while there are any."""

    session: Session
    limits: Limits
    learn: Callable[[Observation, float], None]
    _calls: dict[Call, None] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _sleeps_until: float = 0.0
    _pid: int = 0  # of the process whose thread watches

    def add(self, call: Call) -> None:
        """Watch a call."""
        timeout = self.limits.timeout_us / 1e6
        call.look_at = call.started + min(NOTED_AFTER, timeout / 2)
        with self._changed:
            self._calls[call] = None
            if self._pid != os.getpid():
                self._pid = os.getpid()
                threading.Thread(target=self._watch, name="interlock-breaker", daemon=True).start()
            elif call.look_at < self._sleeps_until:
                self._changed.notify()

    def remove(self, call: Call) -> None:
        """Watch a call no longer; it is over."""
        with self._changed:
            self._calls.pop(call, None)
            call.over = True

    def _watch(self) -> None:
        while True:
            with self._changed:
                if not self._calls:
                    self._pid = 0
                    return
                self._sleeps_until = min(call.look_at for call in self._calls)
                left = self._sleeps_until - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                due = [call for call in self._calls if call.look_at <= time.monotonic()]
            for call in due:
                call.look_at = time.monotonic() + call.pause
                try:
                    self._look(call)
                except Closed:
                    self.remove(call)
                except (AnswerLost, InterlockError):
                    continue  # the store is away: later

    def _look(self, call: Call) -> None:
        now, limits = time.monotonic(), self.limits
        writer, op_id = self.session.writer, self.session.op_id
        if call.noted:
            observed = self.session.run(count_overdue(writer, limits, op_id()))
            if isinstance(observed, Observation):
                self.learn(observed, now)
            call.pause = min(call.pause * 2, _LONGEST_PAUSE)
            return
        call.id = call.id or op_id()
        took = now - call.started
        self.session.run(began(writer, limits, call.passage, call.id, int(took * 1e6)))
        with self._changed:
            call.noted = not call.over
        if call.noted:  # overdue by the store's clock first, which was read before now
            call.look_at = time.monotonic() - took + limits.timeout_us / 1e6
        else:  # it ended meanwhile
            self.session.run(ended(writer, limits, call.id, op_id()))
