"""A schedule told in plain sentences, and the exception that carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from interlock import Json
from interlock.core import refusals
from interlock.core.plan import APPEND, DELETE, Plan
from interlock.core.records import Committed, Record, Snapshot
from interlock.core.refusals import Refusal
from interlock.core.requests import (
    Commit,
    DropLease,
    Grant,
    LeaveTurn,
    Load,
    LoadAt,
    LoadProjection,
    LogPage,
    Noted,
    Pause,
    Place,
    ReadLog,
    Request,
    SaveFold,
    SaveProjection,
    TakeLease,
    TakeTurn,
    Trim,
)
from interlock.core.rules import RULES_KEY
from interlock.verify.explorer.agents import Seen

RUN = "run"
CRASH = "crash"
CRASH_AFTER = "crash after"
LOST_REPLY = "lost reply"
CLOCK = "clock"
STALL = "stall"
POWER = "power"

POWER_FAILS = "The power fails: everybody dies, and what had not reached the disk is gone."

_LONGEST_VALUE = 60


class Step(NamedTuple):
    """One move of a schedule: who moved (None: time), what kind of move, and the sentence."""

    agent: str | None
    kind: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class Violation(AssertionError):
    """An invariant is broken; the message tells the shortest schedule that breaks it.

    `invariant` is its name in words, `reason` why it does not hold, `schedule` the moves.
    """

    def __init__(
        self, invariant: str, reason: str, schedule: tuple[Step, ...], ending: tuple[str, ...] = ()
    ) -> None:
        super().__init__(invariant, reason, schedule, ending)
        self.invariant = invariant
        self.reason = reason
        self.schedule = schedule
        self._ending = ending

    def __str__(self) -> str:
        moves = "1 move" if len(self.schedule) == 1 else f"{len(self.schedule)} moves"
        lines = [
            f"{self.invariant}: {self.reason}",
            f"The shortest schedule that does this ({moves}):",
            *(f"{number:4}. {step}" for number, step in enumerate(self.schedule, start=1)),
            *(f"  {line}" for line in self._ending),
        ]
        return "\n".join(lines)


def sentence(agent: str, kind: str, request: Request[object], answer: object) -> str:
    """Tell one move of an agent."""
    if kind == CRASH:
        return f"{agent} crashes before it {asked(request)}."
    text = f"{agent} {asked(request)}: {answered(answer)}"
    if kind == CRASH_AFTER:
        return f"{text}; {agent} crashes before the answer arrives."
    if kind == LOST_REPLY:
        return f"{text}; the answer is lost, so {agent}'s driver will send the same again."
    waits = isinstance(answer, Place) and (answer.ahead or not answer.ticket)
    return f"{text}; it waits." if waits else f"{text}."


def asked(request: Request[object]) -> str:
    """Tell a request, as what somebody does."""
    match request:
        case Load(keys, prefixes, op_id):
            return _reading(keys, prefixes) or (
                f"asks what operation {op_id!r} did" if op_id else "reads the log's position"
            )
        case LoadAt(position, time_us, keys, prefixes):
            moment = f"position {position}" if position is not None else f"time {time_us} us"
            return f"{_reading(keys, prefixes) or 'reads the position'} as of {moment}"
        case Commit(plan):
            return _committing(plan)
        case ReadLog(after=after, prefix=prefix, key=key):
            of = f" of {key!r}" if key is not None else f" under {prefix!r}" if prefix else ""
            return f"reads the log{of} {f'after position {after}' if after >= 0 else 'as kept'}"
        case TakeTurn(keys=keys, ticket=ticket, firm=firm):
            queue = f"the queue for {_names(keys)}"
            if not ticket:
                return f"joins {queue}"
            does = "keeps its turn in" if firm else "asks for its place in"
            return f"{does} {queue} (ticket {ticket})"
        case LeaveTurn(ticket):
            return f"leaves the queue (ticket {ticket})"
        case Pause():
            return "goes on waiting"
        case TakeLease(keys=keys, ttl=ttl, epoch=epoch, reclaim=reclaim):
            lease = f"the lease{'s' if len(keys) > 1 else ''} of {_names(keys)}"
            if reclaim:
                return f"reclaims {lease}"
            return f"{'renews' if epoch else 'asks for'} {lease} for {ttl:g} s"
        case DropLease(key, epoch):
            return f"gives up the lease of {key!r} (epoch {epoch})"
        case SaveFold(key):
            return f"keeps the fold of {key!r}"
        case SaveProjection(name, position):
            return f"keeps {name!r} as of position {position}"
        case LoadProjection(name):
            return f"asks what is kept of {name!r}"
        case Trim(upto):
            return f"trims the log up to position {upto}" if upto else "asks where the log begins"
        case Noted(refusal):
            return f"notes a refusal: {refusal.message}"
    return f"asks {request}"


def answered(answer: object) -> str:
    """Tell an answer, as what comes back."""
    match answer:
        case Snapshot():
            found = [_record(answer.records[key]) for key in _told(tuple(answer.records))]
            for prefix, records in answer.scans.items():
                inside = ", ".join(_record(record) for record in records) or "nothing"
                found.append(f"{prefix!r} holds {inside}" if prefix else inside)
            if isinstance(answer.applied, Committed):
                found.append(f"already applied at position {answer.applied.position}")
            for key, count in answer.queued.items():
                found.append(f"{count} in the queue for {key!r}")
            return ", ".join(found) or f"position {answer.position}"
        case Committed():
            places = ", ".join(f"version {w.version} of {w.key!r}" for w in answer.writes)
            return f"{'already applied' if answer.replayed else 'committed'} as {places}"
        case Refusal():
            return f"refused ({type(answer).__name__}), {answer.message}"
        case LogPage(entries, upto, _):
            return f"{len(entries)} entries, up to position {upto}"
        case Place(ticket, ahead, _, cycle):
            if not ticket:
                return "its ticket has expired"
            if cycle:
                return refusals.deadlock(cycle).message
            return f"ticket {ticket}, {f'{ahead} ahead' if ahead else 'it is its turn'}"
        case Grant():
            epochs = ", ".join(str(record.epoch) for record in answer.records)
            if answer.granted:
                return f"granted, at epoch {epochs}"
            if answer.refusal is not None:
                return f"refused, {answer.refusal.message}"
            holder = f", {answer.holder!r} has it" if answer.holder else ""
            return f"epoch {epochs}{holder}"
        case None:
            return "done"
    return str(answer)


def holding(records: Mapping[str, Record]) -> str:
    """Tell what a store holds."""
    return f"Then the store holds {', '.join(map(_record, records.values())) or 'nothing'}."


def standing(agent: str, seen: Seen, waits: bool) -> str:
    """Tell how an agent stands: what it was acknowledged, and how it ended if it has."""
    told = [f"version {w.version} of {w.key!r}" for done in seen.acknowledged for w in done.writes]
    acknowledged = f"was acknowledged {', '.join(told)}" if told else "was acknowledged nothing"
    if seen.crashed:
        return f"{agent} {acknowledged}, and crashed."
    if not seen.ended:
        return f"{agent} {acknowledged}, and {'waits' if waits else 'goes on'}."
    how = "raised" if isinstance(seen.result, Exception) else "returned"
    result = seen.result
    words = _record(result) if isinstance(result, Record) else value_in_words(result)
    return f"{agent} {acknowledged}, and {how} {words}."


def value_in_words(value: Json) -> str:
    """Return a value as text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _reading(keys: Sequence[str], prefixes: Sequence[str]) -> str:
    scans = " and ".join(f"all keys under {p!r}" if p else "all keys" for p in prefixes)
    keys = _told(keys)
    does = (f"reads {_names(keys)}" if keys else "", f"scans {scans}" if scans else "")
    return " and ".join(filter(None, does))


def _committing(plan: Plan) -> str:
    writes = ", ".join(
        f"deletes {w.key!r}"
        if w.kind == DELETE
        else f"{'adds to' if w.kind == APPEND else 'writes'} {w.key!r} = {_body(w.body)}"
        for w in plan.writes
    )
    versions = [
        f"{e.key!r} absent" if e.version is None else f"{e.key!r} at version {e.version}"
        for e in plan.expects
    ]
    versions += [f"the scan of {s.prefix!r} unchanged" for s in plan.scans]
    turn = f", in turn with ticket {plan.ticket}" if plan.ticket else ""
    expecting = f" expecting {', '.join(versions)}" if versions else " expecting nothing"
    return f"{writes}{expecting} (operation {plan.op_id!r}{turn})"


def _body(body: str | None) -> str:
    text = str(body)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _record(record: Record) -> str:
    if record.exists:
        return f"{record.key!r} = {value_in_words(record.value)} at version {record.version}"
    if record.version:
        return f"{record.key!r} is deleted (version {record.version})"
    return f"{record.key!r} is absent"


def _told(keys: Sequence[str]) -> Sequence[str]:
    """Leave out the rules where they are only read along with something else."""
    return [key for key in keys if key != RULES_KEY] if len(keys) > 1 else keys


def _names(keys: Sequence[str]) -> str:
    return ", ".join(repr(key) for key in keys)
